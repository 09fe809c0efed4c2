"""dpexp: differentially private deep learning for vision."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpexp.clipping.engine import PrivacyEngine
    from dpexp.mechanism import Mechanism

__version__ = "0.1.0"
__all__ = ["Mechanism", "PrivacyEngine", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the public names on first use, so that `import dpexp` imports no torch."""
    if name == "PrivacyEngine":
        from dpexp.clipping.engine import PrivacyEngine

        return PrivacyEngine
    if name == "Mechanism":
        from dpexp.mechanism import Mechanism

        return Mechanism
    raise AttributeError(f"module 'dpexp' has no attribute {name!r}")
