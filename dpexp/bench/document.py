"""What a benchmark prints, and the file it leaves: numbers with what made them."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dpexp.bench.request import Request
from dpexp.bench.subject import Subject
from dpexp.record.provenance import describe_provenance
from dpexp.record.strict_json import write_json, writing


def say(line: str = "") -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return header and rows as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for first, *others in (header, *rows):
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines


def setting_of(subject: Subject) -> dict[str, Any]:
    """Return what was measured, for a document."""
    clipping, built = subject.config.clipping, subject.built
    return {
        "model": built.name,
        "image_size": built.image_size,
        "batch": subject.batch,
        "num_params": built.num_params,
        "num_trainable": built.num_trainable,
        "precision": subject.config.precision,
        "device": str(subject.device),
        "plan": clipping.plan,
        "workspace_mib": clipping.workspace_mib,
        "seed": subject.config.seed,
    }


def name_of(part: str, subject: Subject) -> str:
    """Return the file name of a part's result on a model, without its ending."""
    config = subject.config
    words = [part, subject.built.name, str(subject.built.image_size), f"batch{subject.batch}"]
    words += [config.precision] * (config.precision != "float32")
    words += [config.clipping.plan] * (config.clipping.plan != "balanced")
    words += [subject.device.type] * (subject.device.type != "cpu")
    return re.sub(r"[^\w.-]+", "-", "-".join(words))


def save(request: Request, part: str, name: str, content: Mapping[str, Any]) -> Path | None:
    """Write a result with its provenance to the folder asked for; return the file, None if none is.

    An older result of that name is replaced.

    Raises:
        RunFolderError: If it cannot be written.
    """
    if request.output is None:
        return None
    path = request.output / f"{name}.json"
    with writing(path):
        request.output.mkdir(parents=True, exist_ok=True)
    provenance = describe_provenance(request.command) | {"threads": torch.get_num_threads()}
    write_json(path, {"part": part, "provenance": provenance, **content})
    return path
