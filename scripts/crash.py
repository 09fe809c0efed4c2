"""Kill runs with SIGKILL at random moments, resume them, and hold what comes out against the rules.

    python scripts/crash.py results/crash            50 kills of seeded runs, 50 of secure ones
    python scripts/crash.py results/crash kills=10

Each run is `dpexp train` on the digits, in a process of its own. A seeded run must end with the
weights, record and statement of one that nobody killed. A secure one must end within its budget.
In both, a noise draw may serve one batch at one set of weights alone, which every step writes down
for itself before it is taken. Exit 1 if a rule is broken.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dpexp.accounting.ledger_file import read_entries
from dpexp.cli.main import main as dpexp_main
from dpexp.clipping.noise import SecureNoise, StepNoise
from dpexp.record.metrics_log import read_metrics
from dpexp.record.provenance import describe_provenance
from dpexp.record.strict_json import read_json, write_json, write_text
from dpexp.train import fit

WORDS = ("steps=240", "batch=256", "eps=4", "wandb.mode=disabled", "checkpoint_every=20")
KILLS_A_RUN = 10  # then it is left to end
SHARE = 0.35  # of an undisturbed run's time, within which the kill comes
TIMED = ("time/", "memory/")  # what differs between equal runs


@dataclass
class Tally:
    """What was done to runs of one kind, and what was wrong after.

    Attributes:
        kind: seeded or secure.
        runs: Runs taken to their end.
        kills: SIGKILLs that met a living process.
        resumes: Processes started on a folder that a kill had left.
        moments: How many kills came before the first step, among the steps, amid a file.
        steps_taken: Steps that the processes of each run took, repeated ones counted again.
        mismatches: Sentences, one a broken rule.
        ledger_share: Time of writing the ledger over that of the steps, in the undisturbed run.
        steps: Steps that each run ended with.
        epsilons: Epsilon that each run ended with.
        attempts: Streams of randomness that each run used.
    """

    kind: str
    runs: int = 0
    kills: int = 0
    resumes: int = 0
    moments: dict[str, int] = field(default_factory=dict)
    steps_taken: list[int] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    ledger_share: float = 0.0
    steps: list[int] = field(default_factory=list)
    epsilons: list[float] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)


def start(words: Sequence[str], watch: Path) -> int:
    """Run `dpexp train <words>` in a fork, which has the libraries loaded; return its process."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        errors = os.open(watch.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(errors, 2)
        _watch_steps(watch)
        code = dpexp_main(["train", *words])
    finally:
        os._exit(code)


def _watch_steps(path: Path) -> None:
    """Have every step write down its noise, weights and batch before the weights move."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    take = fit.train_step
    noise: list[str] = []

    for source in (StepNoise, SecureNoise):
        draw = source.normal

        def noting(self: Any, like: torch.Tensor, draw: Any = draw) -> torch.Tensor:
            drawn = draw(self, like)
            noise.append(_digest(drawn))
            return drawn

        source.normal = noting  # type: ignore[method-assign]

    def watched(model: Any, optimizer: Any, engine: Any, micro_batches: Any, **keys: Any) -> Any:
        pieces = list(micro_batches)
        noise.clear()
        weights = _digest(*(param.detach() for param in model.parameters()))
        batch = _digest(*(tensor for piece in pieces for tensor in piece))

        def write(*_: Any) -> None:
            drawn = hashlib.sha256("".join(noise).encode()).hexdigest()[:16]
            line = json.dumps({"noise": drawn, "weights": weights, "batch": batch})
            os.write(handle, line.encode() + b"\n")

        # After the engine's own hook, which draws the noise, and before the update.
        hook = optimizer.register_step_pre_hook(write)
        try:
            return take(model, optimizer, engine, pieces, **keys)
        finally:
            hook.remove()

    fit.train_step = watched


def _digest(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def finish(process: int) -> int:
    """Wait for a process; return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(process: int, seconds: float) -> bool:
    """Send SIGKILL after some time; return whether it met a living process."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, _ = os.waitpid(process, os.WNOHANG)
        if done:
            return False
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    return finish(process) == -signal.SIGKILL


def torture(
    tally: Tally, output: Path, words: Sequence[str], seconds: float, kills: int, chance: Any
) -> tuple[Path, Path]:
    """Start a run, kill it and resume it until it has been killed often enough, and let it end.

    Returns:
        The run folder and what its steps wrote down.
    """
    watch = output / "steps.jsonl"
    output.mkdir(parents=True)
    folder: Path | None = None
    met = 0
    while True:
        resumed = [f"resume={folder}"] if folder else [*words, f"output={output / 'runs'}"]
        process = start(resumed, watch)
        if met >= kills:
            code = finish(process)
            if code != 0:
                said = watch.with_suffix(".err").read_text()
                tally.mismatches.append(f"the last process exits with {code}: {said}")
            tally.resumes += folder is not None
            break
        tally.resumes += folder is not None
        folder = folder or _made(output, process)
        before = _unfinished(folder)
        if not killed(process, chance.uniform(0, SHARE * seconds)):
            break  # it ended before the blow
        met += 1
        tally.kills += 1
        moment = _moment(folder, before)
        tally.moments[moment] = tally.moments.get(moment, 0) + 1
    tally.runs += 1
    return next(iter((output / "runs").glob("*/status.json"))).parent, watch


def _made(output: Path, process: int) -> Path:
    """Return the run folder as soon as there is one; before that there is nothing to resume.

    Raises:
        RuntimeError: If the process ends without one.
    """
    while not (made := list((output / "runs").glob("*/status.json"))):
        if os.waitpid(process, os.WNOHANG)[0]:
            raise RuntimeError(f"no run folder in {output}: the process ended")
        time.sleep(0.001)
    return made[0].parent


def _unfinished(folder: Path) -> set[Path]:
    """Return what was left of files that were being written."""
    return {*folder.glob("**/.*.partial"), *folder.glob("**/.*.json.*")}


def _moment(folder: Path, before: set[Path]) -> str:
    """Return what a killed process was doing, as its folder shows it.

    Args:
        folder: Of the run.
        before: What earlier kills had left unfinished.
    """
    if _unfinished(folder) - before:
        return "writing a file"
    return "among its steps" if (folder / "metrics.jsonl").exists() else "before its first step"


def check_noise(tally: Tally, watch: Path) -> None:
    """Check that no noise was used on two batches or two sets of weights."""
    uses: dict[str, set[tuple[str, str]]] = defaultdict(set)
    lines = [json.loads(line) for line in watch.read_text().splitlines()]
    for line in lines:
        uses[line["noise"]].add((line["weights"], line["batch"]))
    reused = sum(len(seen) > 1 for seen in uses.values())
    if reused:
        tally.mismatches.append(f"{reused} noise draws served two different steps")
    if tally.kind == "secure" and len(uses) != len(lines):
        tally.mismatches.append("noise from the operating system came twice")
    tally.steps_taken.append(len(lines))


def check_within_budget(tally: Tally, folder: Path, planned: int, budget: float) -> None:
    """Check that the ledger, the statement and the checkpoint agree, and stay within the budget."""
    privacy, status = read_json(folder / "privacy.json"), read_json(folder / "status.json")
    charged = _count_charges(folder)
    rules = {
        f"state is {status['state']}": status["state"] == "done",
        f"{charged} steps charged of {planned}": charged <= planned,
        "statement and ledger count differently": privacy["steps_charged"] == charged,
        f"epsilon {privacy['epsilon']} above {budget}": privacy["epsilon"] <= budget,
        "more steps done than charged": privacy["steps_done"] <= charged,
    }
    tally.mismatches += [sentence for sentence, holds in rules.items() if not holds]
    tally.steps.append(privacy["steps_done"])
    tally.epsilons.append(privacy["epsilon"])
    tally.attempts.append(privacy["attempts"])


def _count_charges(folder: Path) -> int:
    """Count the releases of a ledger one by one, each by its attempt and step."""
    releases: set[tuple[int, int]] = set()
    attempt, to = -1, 0
    for entry in read_entries(folder / "ledger.jsonl")[1:]:
        match entry["entry"]:
            case "begin":
                if attempt < 0 or entry["step"] < to:
                    attempt, to = attempt + 1, entry["step"]
            case "charge":
                releases |= {(attempt, step) for step in range(to, entry["to"])}
                to = entry["to"]
            case "untaken":
                releases -= {(attempt, step) for step in range(entry["to"], to)}
                to = entry["to"]
    return len(releases)


def check_same(tally: Tally, folder: Path, whole: Path) -> None:
    """Check that a killed run is, bit for bit, the one that nobody killed."""
    ours, theirs = (torch.load(f / "checkpoints" / "model.pt") for f in (folder, whole))
    if not all(torch.equal(ours[name], theirs[name]) for name in theirs):
        tally.mismatches.append("weights differ")
    for name in ("summary.json", "privacy.json", "reliability.json", "plan.json"):
        if _untimed(read_json(folder / name)) != _untimed(read_json(whole / name)):
            tally.mismatches.append(f"{name} differs")
    if list(_record(folder)) != list(_record(whole)):
        tally.mismatches.append("metrics.jsonl differs")


def _untimed(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if not key.startswith(TIMED)}


def _record(folder: Path) -> Iterator[dict[str, Any]]:
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        yield _untimed(json.loads(line))


def campaign(kind: str, kills: int, root: Path, chance: random.Random) -> Tally:
    """Kill runs of one kind `kills` times in all; return what came of it."""
    tally = Tally(kind)
    words = [*WORDS, *(["noise.secure=true"] if kind == "secure" else [])]
    whole, seconds = _undisturbed(root / kind / "whole", words)
    budget = read_json(whole / "privacy.json")["epsilon"]
    stepping = sum(row["time/step_seconds"] for row in read_metrics(whole / "metrics.jsonl"))
    tally.ledger_share = read_json(whole / "summary.json")["time/ledger_seconds"] / stepping
    while tally.resumes < kills and tally.runs < 2 * kills:
        output = root / kind / f"run-{tally.runs}"
        wanted = min(KILLS_A_RUN, kills - tally.resumes)
        folder, watch = torture(tally, output, words, seconds, wanted, chance)
        check_noise(tally, watch)
        check_within_budget(tally, folder, read_json(whole / "status.json")["steps"], budget)
        if kind == "seeded":
            check_same(tally, folder, whole)
        sys.stdout.write(
            f"{kind}  run {tally.runs}: {tally.kills} kills, {tally.resumes} resumes, "
            f"{len(tally.mismatches)} mismatches\n"
        )
        sys.stdout.flush()
    return tally


def _undisturbed(output: Path, words: Sequence[str]) -> tuple[Path, float]:
    """Return the folder of a run that nobody kills, and how long a second one takes."""
    output.mkdir(parents=True)
    for _ in range(2):  # the first fills the caches
        began = time.monotonic()
        code = finish(start([*words, f"output={output / 'runs'}"], output / "steps.jsonl"))
        if code:
            raise SystemExit((output / "steps.err").read_text())
    folders = sorted((output / "runs").glob("*/status.json"))
    return folders[-1].parent, time.monotonic() - began


def page(tallies: Sequence[Tally], command: str) -> str:
    """Return the page in Markdown."""
    header = (
        "| | runs | kills | resumes | mismatches | steps taken | steps of the result | epsilon |"
    )
    rows = [
        f"| {t.kind} | {t.runs} | {t.kills} | {t.resumes} | {len(t.mismatches)} | "
        f"{_range(t.steps_taken)} | {_range(t.steps)} | {_range(t.epsilons)} |"
        for t in tallies
    ]
    moments = [
        f"* {t.kind}: " + ", ".join(f"{count} {name}" for name, count in sorted(t.moments.items()))
        for t in tallies
    ]
    return "\n".join([
        "# Runs killed with SIGKILL", "",
        "Each run is `dpexp train " + " ".join(WORDS) + "` on the digits. It is killed at a random "
        f"moment, resumed, and killed again, {KILLS_A_RUN} times, and then left to end.", "",
        header, "|---" * 8 + "|", *rows, "",
        "A mismatch is any of: a seeded run whose weights, metrics, statement, plan or summary "
        "differ in one bit from those of a run that nobody killed; a noise draw that served two "
        "batches or two sets of weights; noise of the operating system that came twice; a ledger "
        "that does not count what the statement says, or more than the budget; a run that does not "
        "end. Steps that a seeded run takes again come out the same and are charged once. Steps "
        "that a secure run takes again are other releases and are charged again, so it ends "
        "earlier, at the same epsilon.", "",
        "When the kills came:", "", *moments, "",
        "Writing the ledger of the undisturbed runs took "
        + " and ".join(f"{t.ledger_share:.2%}" for t in tallies)
        + " of the time of their steps.", "",
        f"Made by `{command}`; `rows.json` beside it says where and from which commit.", "",
    ])  # fmt: skip


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def main() -> int:
    """Run both campaigns and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("words", nargs="*", help="kills=<number> seed=<number>")
    arguments = parser.parse_args()
    numbers = {"kills": 50, "seed": 0}
    numbers |= {key: int(value) for key, value in (w.split("=") for w in arguments.words)}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        tallies = [
            campaign(kind, numbers["kills"], Path(scratch), random.Random(numbers["seed"] + i))
            for i, kind in enumerate(("seeded", "secure"))
        ]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    command = ["python", "scripts/crash.py", str(arguments.folder), *arguments.words]
    rows = {"rows": [asdict(tally) for tally in tallies], **describe_provenance(command)}
    write_json(arguments.folder / "rows.json", rows)
    write_text(arguments.folder / "README.md", page(tallies, " ".join(command)))
    for tally in tallies:
        for sentence in tally.mismatches:
            sys.stdout.write(f"{tally.kind}: {sentence}\n")
    return 1 if any(tally.mismatches for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
