"""What a benchmark is asked for, and which of the combinations asked for exist."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpexp.config import Algorithm, Style, TrainConfig
from dpexp.errors import ConfigError

ANY_STYLE = ("auto", "instantiate")  # the others weight each loss once, which can only clip flat


@dataclass(frozen=True, kw_only=True)
class Request:
    """One benchmark.

    Attributes:
        config: Checked; its model, clipping, batch, device, precision and seed are read.
        algorithms: In the order of the rows; empty for those that the part compares by itself.
        styles: In the order of the rows.
        rounds: Pairs of steps, or rounds of all ways, that are timed.
        memory_gib: Memory of the device that a batch has to fit, GiB.
        output: Folder for results; None prints only.
        command: As typed.
    """

    config: TrainConfig
    algorithms: tuple[Algorithm, ...]
    styles: tuple[Style, ...]
    rounds: int
    memory_gib: float
    output: Path | None
    command: Sequence[str]

    def rows(self, default: Sequence[Algorithm]) -> list[tuple[Algorithm, Style]]:
        """Return each algorithm with each style that it can clip.

        Args:
            default: The algorithms if none are asked for.

        Raises:
            ConfigError: If an algorithm can clip none of the styles.
        """
        rows: list[tuple[Algorithm, Style]] = []
        for algorithm in self.algorithms or default:
            able = [s for s in self.styles if s == "flat" or algorithm in ANY_STYLE]
            if not able:
                raise ConfigError(
                    f"algorithms={algorithm} with styles={','.join(self.styles)}: its second "
                    f"backward pass weights each loss once, so it can only clip flat; add flat to "
                    f"styles, or use {' or '.join(ANY_STYLE)}"
                )
            rows += [(algorithm, style) for style in able]
        return rows
