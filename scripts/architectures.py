"""Check the engine on every architecture of a list, one process a network, and write the table.

    python scripts/architectures.py                  # what has no row yet
    python scripts/architectures.py --stale          # and what has one of another engine
    python scripts/architectures.py --only vgg11 torchvision:alexnet
    python scripts/architectures.py --page           # the table alone, from the rows there are

Every parameter trains; BatchNorm gives way to GroupNorm; float64; three samples at the smallest
input that leaves no gradient next to zero; parameters random; R at the median norm. The clipped sum
is compared with a loop over samples, parameter by parameter. A refusal is judged without the
engine: does another sample's loss move when one sample is replaced?
"""

import argparse
import hashlib
import importlib.util
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Imported once, here, and shared with every child. What is checked, dpexp, is not: each child
# imports it as it stands then.
import timm
import torch
import torchvision

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".txt")
TARGET = ROOT / "results" / "coverage"
ALGORITHMS = ("auto", "mixed_ghost")
MIXED_GHOST_BELOW = 60_000_000  # parameters
MOST_GIB = 14.0
MOST_SECONDS = 900.0
TORCHVISION = "torchvision:"
# How a torchvision network is told its input size; the others take any.
SIZE_OPTIONS = {
    "vit_b_16": lambda n: {"image_size": n},
    "maxvit_t": lambda n: {"input_size": (n, n)},
}
Row = dict[str, Any]


def read_list(path: Path = LIST) -> dict[str, str]:
    """Return name to group, in the order of the file."""
    groups: dict[str, str] = {}
    group = ""
    for line in path.read_text().splitlines():
        words = line.partition("#")[0].split()
        if words and words[0].startswith("["):
            group = words[0].strip("[]")
        else:
            groups |= dict.fromkeys(words, group)
    return groups


def engine_hash() -> str:
    """Return a hash of the engine's source that a child would import."""
    spec = importlib.util.find_spec("dpexp")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "clipping"
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def row_path(name: str) -> Path:
    """Return where the row of a network is kept."""
    return TARGET / "rows" / f"{name.replace(':', '_')}.json"


def read_rows() -> dict[str, Row]:
    """Return every row there is, by name."""
    rows = (json.loads(path.read_text()) for path in sorted((TARGET / "rows").glob("*.json")))
    return {row["name"]: row for row in rows}


def candidates(name: str) -> Iterator[tuple[Any, Any]]:
    """Yield the network in float64 and images for it, at every input size it takes."""
    from dpexp.config import ModelConfig, TrainConfig
    from dpexp.selfcheck import at_sizes

    if name.startswith(TORCHVISION):
        yield from _torchvision_candidates(name.removeprefix(TORCHVISION))
        return
    config = TrainConfig(model=ModelConfig(name=name, pretrained=False, image_size=None))
    for built, images in at_sizes(config):
        yield built.module, images


def _torchvision_candidates(name: str) -> Iterator[tuple[Any, Any]]:
    from dpexp.models.surgery import replace_batch_norms, switch_off_inplace
    from dpexp.selfcheck import NUM_CLASSES, NUM_SAMPLES, SIZES, labels_for, losses_of

    is_fixed = name not in SIZE_OPTIONS
    model = None
    for size in SIZES:
        try:
            if model is None or not is_fixed:
                options = {} if is_fixed else SIZE_OPTIONS[name](size)
                torch.manual_seed(0)
                model = torchvision.models.get_model(
                    name, weights=None, num_classes=NUM_CLASSES, **options
                )
                replace_batch_norms(model)
                switch_off_inplace(model)
                model.double()
            images = torch.randn(NUM_SAMPLES, 3, size, size, dtype=torch.float64)
            with torch.no_grad():
                losses_of(model, images, labels_for(images))
        except (RuntimeError, ValueError, AssertionError):
            continue
        yield model, images


def prepare(name: str) -> tuple[Any, Any, Any, list[str]]:
    """Return network, images, reference and the parameters whose gradient is next to nothing.

    The smallest input that leaves none; or the one after which a larger one does no better, for
    some parameters have no gradient by their nature, as the bias of the keys of an attention.
    """
    from dpexp.selfcheck import labels_for, randomise, reference_of, tiny_gradients

    best: tuple[Any, Any, Any, list[str]] | None = None
    least: tuple[bool, int] | None = None
    for model, images in candidates(name):
        randomise(model)
        reference = reference_of(model, images, labels_for(images), has_plain=False)
        tiny = tiny_gradients(reference)
        # Logits so large that a softmax leaves a sample no gradient at all compare nothing.
        is_saturated = not reference.norms.min() > 1e-3 * reference.clip_norm
        found = (is_saturated, len(tiny))
        if least is not None and found >= least:
            if not least[0]:
                break
            continue
        best, least = (model, images, reference, tiny), found
        if not any(found) or images.shape[-1] >= 224:
            break
    if best is None:
        raise RuntimeError("takes none of the input sizes tried")
    return best


def check(name: str, group: str) -> Row:
    """Return the row of a network."""
    from dpexp.errors import DpexpError
    from dpexp.selfcheck import TOLERANCE

    start = time.perf_counter()
    row = new_row(name, group)
    try:
        model, images, reference, tiny = prepare(name)
    except Exception as error:  # noqa: BLE001 whatever the network does wrong is its row
        row |= {"verdict": "not built", "message": _said(error)}
        return row | {"seconds": round(time.perf_counter() - start, 1)}
    row["parameters"] = sum(p.numel() for p in model.parameters())
    row["tensors"], row["input"] = len(reference.clipped), list(images.shape[1:])
    row["negligible"] = tiny
    try:
        for algorithm in ALGORITHMS:
            if algorithm == "auto" or row["parameters"] < MIXED_GHOST_BELOW:
                row["algorithms"][algorithm] = compare(model, images, reference, algorithm)
        errors = [e for a in row["algorithms"].values() for e in (a["norm"], a["gradient"])]
        row["error"] = max(errors, key=lambda e: (e != e, e))
        row["verdict"] = "exact" if row["error"] <= TOLERANCE else "silently wrong"
    except DpexpError as error:
        row |= {"verdict": "refused", "message": _said(error)}
        row["moves_another"] = moves_another(model, images)
    except Exception as error:  # noqa: BLE001 likewise
        row |= {
            "verdict": "failed",
            "message": _said(error),
            "trace": traceback.format_exc()[-3000:],
        }
    row["seconds"] = round(time.perf_counter() - start, 1)
    row["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return row


def compare(model: Any, images: Any, reference: Any, algorithm: Any) -> Row:
    """Return the errors of one algorithm's norms and clipped sums, and the seconds it took."""
    from dpexp.clipping.engine import PrivacyEngine
    from dpexp.selfcheck import labels_for, losses_of, worst_gradient, worst_norm

    start = time.perf_counter()
    engine = PrivacyEngine(model, clip_norm=reference.clip_norm, algorithm=algorithm)
    try:
        norms = engine.backward(losses_of(model, images, labels_for(images)))
        seconds = time.perf_counter() - start
        worst, error = worst_gradient(model, reference.clipped)
    finally:
        engine.detach()
        model.zero_grad(set_to_none=True)
    return {
        "norm": worst_norm(norms, reference), "gradient": error, "worst": worst,
        "seconds": round(seconds, 2),
    }  # fmt: skip


def moves_another(model: Any, images: Any) -> bool:
    """Return whether replacing one sample moves the loss of another; without the engine."""
    from dpexp.selfcheck import labels_for, losses_of

    with torch.no_grad():
        before = losses_of(model, images, labels_for(images))
        for sample in range(len(images)):
            replaced = images.clone()
            replaced[sample] = images[sample].flip(-1) * -0.7 + 0.3
            moved = (losses_of(model, replaced, labels_for(images)) - before).abs() / before.abs()
            moved[sample] = 0
            if (moved > 1e-9).any():
                return True
    return False


def new_row(name: str, group: str) -> Row:
    """Return a row that says only what was looked at, and with what."""
    versions = {"python": sys.version.split()[0], "torch": torch.__version__}
    versions |= {"timm": timm.__version__, "torchvision": torchvision.__version__}
    return {
        "name": name, "group": group, "verdict": None, "parameters": None, "input": None,
        "error": None, "algorithms": {}, "engine": engine_hash(), "versions": versions,
    }  # fmt: skip


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:1000]


def _child(name: str, group: str) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    write_row(check(name, group))


def write_row(row: Row) -> None:
    """Write a row, all of it or none."""
    path = row_path(row["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(row, indent=1) + "\n")
    part.replace(path)


def run_one(name: str, group: str) -> Row:
    """Check a network in a process of its own, within the limits of memory and time."""
    row_path(name).unlink(missing_ok=True)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(name, group))
    start = time.perf_counter()
    child.start()
    exceeded = None
    while child.is_alive() and exceeded is None:
        child.join(0.2)
        if _resident_gib(child.pid) > MOST_GIB:
            exceeded = f"more than {MOST_GIB:g} GiB"
        elif time.perf_counter() - start > MOST_SECONDS:
            exceeded = f"more than {MOST_SECONDS / 60:g} minutes"
    if exceeded:
        child.kill()
    child.join()
    if not row_path(name).exists():
        message = exceeded or f"the process ended with {child.exitcode}"
        row = new_row(name, group) | {"verdict": "over limit" if exceeded else "failed"}
        write_row(row | {"message": message, "seconds": round(time.perf_counter() - start, 1)})
    return json.loads(row_path(name).read_text())


def _resident_gib(pid: int | None) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0  # it has just ended
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def main() -> None:
    """Check what is asked for, then write the page."""
    from architectures_page import page

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these, whether done or not")
    parser.add_argument("--stale", action="store_true", help="also rows of another engine")
    parser.add_argument("--page", action="store_true", help="write the page and check nothing")
    arguments = parser.parse_args()
    groups = read_list()
    if unknown := set(arguments.only or ()) - set(groups):
        sys.exit(f"{', '.join(sorted(unknown))}: not in {LIST.name}; add them there first")
    for name in [] if arguments.page else arguments.only or list(groups):
        row = read_rows().get(name)
        is_done = row and not (arguments.stale and row["engine"] != engine_hash())
        if arguments.only or not is_done:
            row = run_one(name, groups[name])
            error = "" if row["error"] is None else f" {row['error']:.1e}"
            print(f"{name}: {row['verdict']}{error}, {row['seconds']:.0f} s", flush=True)
    rows = read_rows()
    page_rows = [rows[name] for name in groups if name in rows]
    (TARGET / "README.md").write_text(page(page_rows, [n for n in groups if n not in rows]))


if __name__ == "__main__":
    main()
