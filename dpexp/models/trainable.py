"""Which parameters train, and the line that says so."""

from fnmatch import fnmatchcase

from torch import nn

from dpexp.errors import ModelError

SHOWN = 3  # names in a note before "and so many more"


def choose_trainable(module: nn.Module, trainable: str) -> list[str]:
    """Set `requires_grad` on every parameter; return lines that say what trains and what does not.

    Args:
        module: Its classifier already has the size that it will be trained with.
        trainable: "all" but what the architecture itself fixes (sinusoidal position embeddings);
            "head", the classifier; "bias", every bias and the classifier, which starts at random;
            or comma-separated patterns in shell style, over parameter names.

    Raises:
        ModelError: If a choice or a pattern matches no parameter.
    """
    params = dict(module.named_parameters())
    fixed = {name for name, param in params.items() if not param.requires_grad}
    chosen = _chosen(module, trainable, fixed)
    for name, param in params.items():
        param.requires_grad_(name in chosen)

    total = sum(param.numel() for param in params.values())
    trained = sum(params[name].numel() for name in chosen)
    notes = [f"trainable: {trained:,} of {total:,} parameters ({_percent(trained, total)})"]
    if frozen := [name for name in params if name not in chosen]:
        notes.append(f"frozen: {len(frozen)} parameter tensors: {shorten(frozen)}")
    if left := sorted(fixed - chosen):
        notes.append(f"fixed by the architecture itself: {shorten(left)}")
    return notes


def classifier_params(module: nn.Module) -> set[str]:
    """Return the names of the classifier's parameters; several heads count as one classifier."""
    classifier = module.get_classifier()  # type: ignore[operator]
    heads = classifier if isinstance(classifier, tuple | list) else [classifier]
    members = {id(param) for head in heads for param in head.parameters()}
    return {name for name, param in module.named_parameters() if id(param) in members}


def shorten(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _chosen(module: nn.Module, trainable: str, fixed: set[str]) -> set[str]:
    """Return the names of the parameters that train."""
    names = [name for name, _ in module.named_parameters()]
    match trainable:
        case "all":
            chosen = set(names) - fixed
        case "head":
            chosen = classifier_params(module)
        case "bias":
            biases = {name for name in names if name.endswith("bias")} - fixed
            chosen = biases | classifier_params(module)
        case _:
            return _matching(names, trainable)
    if not chosen:
        raise ModelError(
            f"model.trainable={trainable} matches no parameter of this network, so nothing would "
            f"train; give all, or patterns over names such as {shorten(names)}"
        )
    return chosen


def _matching(names: list[str], patterns: str) -> set[str]:
    """Return the names that any of the comma-separated patterns matches; each must match some."""
    chosen: set[str] = set()
    for pattern in (part.strip() for part in patterns.split(",")):
        matches = {name for name in names if fnmatchcase(name, pattern)}
        if not matches:
            raise ModelError(
                f"model.trainable={patterns}: {pattern!r} matches no parameter, so what it meant "
                f"would stay frozen; give all, head, bias, or patterns over names such as "
                f"{shorten(names)}"
            )
        chosen |= matches
    return chosen


def _percent(part: int, whole: int) -> str:
    return "100 %" if part == whole else f"{100 * part / whole:.3g} %"
