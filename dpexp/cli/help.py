"""The texts of the command line: help, the list of keys, and a configuration as YAML."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dpexp.config import TrainConfig

COMMANDS = {
    "train": "train a model under differential privacy; one run, one folder",
    "eval": "accuracy, calibration and diagrams of saved weights",
    "sweep": "a grid of runs: shown first, finished ones skipped, goes on where it stopped",
    "budget": "noise for a budget, or budget for a noise, under every accountant",
    "selfcheck": "hold a model's clipped gradients against a per-sample float64 loop",
    "bench": "time, memory, operations and largest batch of clipped steps beside ordinary ones",
    "audit": "empirical lower bound on epsilon: canaries in gradients and in a training run",
    "theory": "paper A's claims on kernels, gradient flow and accountants, one by one",
    "report": "tables, figures, verdicts and a page from finished runs, against the paper's values",
    "doctor": "what this machine can run, and what is missing",
}

GENERAL = """\
dpexp: differentially private training of vision models, exact clipping, honest epsilon

usage: dpexp <command> [key=value ...]

commands
{commands}

examples
  dpexp train                                    digits at epsilon 4, on any CPU
  dpexp train model=beit dataset=cifar10 eps=1   fine-tune all of BEiT; wants a GPU
  dpexp train eps=2 clipping.norm=0.5 seed=1     any key, after any choice
  dpexp train dataset=imagefolder dataset.root=photos model=vit eps=3
  dpexp train resume=outputs/<run>               go on where a run stopped
  dpexp eval outputs/<run>
  dpexp sweep clipping.norm=0.1,1,10 seed=0,1,2 output=outputs/grid jobs=2
  dpexp budget eps=1 batch=1000 epochs=3 dataset=cifar10
  dpexp selfcheck model=resnet
  dpexp bench step model=vit

options
  --help         this text; after a command, its keys and their values
  --version      the version
  --cfg          with train: print the configuration and stop
  --config-dir   with a folder: configuration files of one's own, beside the built-in ones
  -v             show where an error came from (or set DPEXP_TRACEBACK=1)

exit codes: 0 done, 1 the run failed, 2 bad usage, 130 interrupted
"""

USAGES = {
    "train": (
        "usage: dpexp train [key=value ...]\n"
        "       dpexp train resume=<run folder> [device= micro_batch= wandb.*= output=]\n"
        "       dpexp train config=<run folder>/config.yaml [key=value ...]\n\n"
        "examples\n"
        "  dpexp train eps=2 epochs=20 seed=1\n"
        "  dpexp train noise_multiplier=1.1 steps=500 batch=256\n"
        "  dpexp train experiment=convergence/mnist_cnn\n"
    ),
    "eval": (
        "usage: dpexp eval <run folder or checkpoint file> [key=value ...]\n\n"
        "examples\n"
        "  dpexp eval outputs/<run>\n"
        "  dpexp eval model.pt model.name=resnet18 dataset=cifar10\n"
        "  dpexp eval outputs/<run> recalibration=temperature recalibration.eps=0.5\n\n"
        "keys of its own, for a run with dataset.validation\n"
        "  recalibration      temperature | platt: fitted to the run's validation part\n"
        "  recalibration.eps  of the fit alone, the total is printed; inf: no noise, no guarantee\n"
    ),
    "sweep": (
        "usage: dpexp sweep key=value,value,... [key=value ...]\n\n"
        "examples\n"
        "  dpexp sweep clipping.norm=0.1,1,10 seed=0,1,2 output=outputs/grid dry_run=true\n"
        "  dpexp sweep clipping.norm=0.1,1 optimizer.lr=5,0.5 zip=clipping.norm,optimizer.lr\n"
        "  dpexp sweep eps=1,4 dataset.validation=0.2 output=outputs/grid jobs=2\n"
        "  dpexp sweep eps=1,4 output=outputs/grid launcher=submitit submitit.timeout_min=60\n\n"
        "Every key of a run may hold several values; brackets and quotes protect a comma. All "
        "combinations\nare run, the last key fastest. The same command goes on where it was "
        "stopped, and runs nothing twice.\n\n"
        "words of its own\n"
        "  zip         keys whose values go in step, such as clipping.norm,optimizer.lr\n"
        "  lr_times_norm  c, or several: optimizer.lr is c / clipping.norm at each point\n"
        "  dry_run     true: show the grid, its cost and its price, and stop\n"
        "  jobs        points at once; 1\n"
        "  launcher    inprocess | joblib (jobs above 1) | submitit (SLURM) | submitit_local\n"
        "  submitit.*  parameters of submitit, such as submitit.slurm_partition\n"
        "  wandb_file  write the grid as a sweep file of W&B, and stop\n\n"
        "Writes sweep.json, sweep.csv and sweep.md into output. Exit 1 if a point failed.\n"
    ),
    "selfcheck": (
        "usage: dpexp selfcheck [key=value ...]\n\n"
        "examples\n"
        "  dpexp selfcheck model=beit\n"
        "  dpexp selfcheck model.name=convnext_atto\n"
    ),
    "bench": (
        "usage: dpexp bench <part> [key=value ...]\n\n"
        "parts\n"
        "  step       a clipped step over an ordinary one: time, memory, operations\n"
        "  plan       which way each product of a model is taken, and what each way costs\n"
        "  layers     every way of taking a norm, on a grid of layers; with a figure\n"
        "  max-batch  the largest batch that fits a memory, by every algorithm\n\n"
        "examples\n"
        "  dpexp bench step model.name=vit_small_patch16_224 styles=flat,layerwise\n"
        "  dpexp bench step model=vgg batch=32 algorithms=auto,mixed_ghost,ghost rounds=5\n"
        "  dpexp bench plan model.name=resnet18 model.image_size=32 batch=32 clipping.plan=time\n"
        "  dpexp bench layers output=results/layers\n"
        "  dpexp bench max-batch model=beit memory_gib=40\n\n"
        "words of its own\n"
        "  algorithms  a list; step: clipping.algorithm, max-batch: all but nonprivate\n"
        "  styles      a list; clipping.style\n"
        "  rounds      pairs of steps, or rounds over all ways, that are timed; 9\n"
        "  memory_gib  memory that a batch has to fit, GiB; 16\n"
        "  output      folder for JSON with provenance, and a figure; null: only printed\n\n"
        "Images and weights are random; batch is 8 unless given. On the CPU: process time, one "
        "thread.\n"
    ),
    "audit": (
        "usage: dpexp audit [key=value ...]\n\n"
        "examples\n"
        "  dpexp audit\n"
        "  dpexp audit eps=1 batch=256 audit.kind=gradient\n"
        "  dpexp audit clipping.function=autos audit.canaries=10000\n\n"
        "keys of its own\n"
        "  audit.kind        gradient | one_run | both\n"
        "  audit.canaries    canaries with a coordinate of their own; 40000\n"
        "  audit.images      mislabelled training images that are canaries, one_run; 1000\n"
        "  audit.steps       steps of the run in which each sees every sample, gradient; 10\n"
        "  audit.trials      runs of one step an attack on one sample, gradient; 400\n"
        "  audit.confidence  chance that all lower bounds hold; 0.95\n\n"
        "Writes audit.json and its figures into a new folder below output. Exit 1 if a lower bound "
        "is above the epsilon claimed.\n"
    ),
    "theory": (
        "usage: dpexp theory [key=value ...]\n\n"
        "examples\n"
        "  dpexp theory                          all claims, minutes on one core\n"
        "  dpexp theory claims=A2,A3,A17 states=12\n\n"
        "keys\n"
        "  claims  a list of A1 to A9 and A15 to A17; all\n"
        "  states  random and trained states at which kernels are looked at; 100\n"
        "  seeds   noisy runs at each lr, in pairs of opposite noise, even; 20\n"
        "  output  folder for theory.json, README.md and figures; outputs/theory\n\n"
        "Source: Bu et al. 2023, arXiv:2106.07830. Exit 0 whatever the verdicts are.\n"
    ),
    "report": (
        "usage: dpexp report [folders] [output=<folder>]\n\n"
        "examples\n"
        "  dpexp report                       every run below outputs/, into outputs/report\n"
        "  dpexp report outputs/convergence outputs/theory output=results/convergence\n"
        "  dpexp report results/convergence   again, from the runs that are kept there\n\n"
        "Folders are run folders, folders of them, results with kept runs, or what dpexp theory "
        "wrote.\n"
        "output  folder for README.md, report.html, claims.md, claims.csv, points.csv, figures/ "
        "and runs/,\n"
        "        one small JSON a run, from which the report can be made again without the run "
        "folders\n\n"
        "Runs that have not ended are listed and left out; diverged ones count as guessing.\n"
    ),
    "doctor": "usage: dpexp doctor\n",
}

# The groups, sections and keys of a run that a command reads, where it is not all of them.
READS = {
    "bench": ("model", "clipping", "experiment", "batch", "device", "precision", "seed"),
}

# The order in which `dpexp train --help` shows what belongs together.
TOPICS = {
    "privacy": ("eps", "delta", "noise_multiplier", "dp", "protocol", "sampling", "batch_limit"),
    "length": ("epochs", "steps", "batch", "micro_batch"),
    "logging": ("evaluate_every", "evaluate_samples", "checkpoint_every", "output", "resume"),
    "machine": ("seed", "device", "precision", "compile"),
}


def general() -> str:
    """Return the text of `dpexp --help`."""
    return GENERAL.format(commands=_columns([(f"  {n}", t) for n, t in COMMANDS.items()]))


def of_command(command: str, groups: Mapping[str, Sequence[str]]) -> str:
    """Return the text of `dpexp <command> --help`, with every key and its values."""
    text = f"dpexp {command}: {COMMANDS[command]}\n\n{USAGES[command]}"
    if command in ("theory", "report", "doctor"):
        return text
    reads = READS.get(command)
    choices = [
        (f"  {group}=", ", ".join(options))
        for group, options in groups.items()
        if reads is None or group in reads
    ]
    parts = [
        text,
        f"groups (each names a file; keys inside it may be set after it)\n{_columns(choices)}\n",
    ]
    notes = notes_of(TrainConfig)
    defaults = TrainConfig()
    types = get_type_hints(TrainConfig)
    for topic, names in TOPICS.items():
        shown = [n for n in names if reads is None or n in reads]
        rows = [(f"  {n}", _allowed(types[n], notes.get(n, ""))) for n in shown]
        parts += [f"{topic}\n{_columns(rows)}\n"] if rows else []
    sections = [f.name for f in fields(TrainConfig) if is_dataclass(types[f.name])]
    for section in (s for s in sections if reads is None or s in reads):
        cls = type(getattr(defaults, section))
        inner_notes, inner_types = notes_of(cls), get_type_hints(cls)
        rows = [
            (f"  {section}.{n}", _allowed(inner_types[n], inner_notes.get(n, "")))
            for n in inner_types
        ]
        parts.append(f"{section}\n{_columns(rows)}\n")
    return "\n".join(parts)


def notes_of(cls: type) -> dict[str, str]:
    """Return the comment beside each field of a dataclass, its one home; {} without source."""
    try:
        lines = inspect.getsource(cls).splitlines()
    except (OSError, TypeError):
        return {}
    matches = (re.match(r"    (\w+): .*?  # (.*)$", line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def as_yaml(config: TrainConfig) -> str:
    """Return a configuration as YAML, the comment of each key beside it."""
    rows = list(_yaml_rows(config, ""))
    width = min(max(len(line) for line, note in rows if note), 48)
    return "".join(f"{line:<{width}}  # {note}\n" if note else f"{line}\n" for line, note in rows)


def _yaml_rows(config: Any, indent: str) -> Iterator[tuple[str, str]]:
    import yaml

    notes = notes_of(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield f"{indent}{field.name}:", ""
            yield from _yaml_rows(value, f"{indent}  ")
        else:
            is_list = isinstance(value, list)
            text = yaml.safe_dump([value], default_flow_style=is_list, width=10_000).strip()
            text = text[1:-1] if is_list else text.removeprefix("- ")
            yield f"{indent}{field.name}: {text}", notes.get(field.name, "")


def _allowed(annotation: Any, note: str) -> str:
    """Return what a key may be: its choices, and the comment beside it."""
    if get_origin(annotation) is not Literal:
        return note
    choices = " | ".join(map(str, get_args(annotation)))
    return f"{choices}  ({note})" if note else choices


def _columns(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"{left:<{width}}  {right}".rstrip() for left, right in rows)
