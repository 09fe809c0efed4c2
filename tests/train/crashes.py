"""Runs that die in a step, and what their ledger holds after."""

import signal
from contextlib import contextmanager

import pytest
import torch
from runs import folders, train

from dpexp.accounting.ledger_file import read_entries
from dpexp.train import fit

WORDS = ("steps=12", "checkpoint_every=4", "evaluate_every=12")


class Killed(BaseException):
    """Nothing in a run expects it, so nothing is written after it."""


@contextmanager
def dying_after(num_steps):
    """Within the block, the process dies in the step after `num_steps` others."""
    take, taken = fit.train_step, []

    def dying_step(*args, **keys):
        taken.append(None)
        if len(taken) > num_steps:
            raise Killed
        return take(*args, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "train_step", dying_step)
        yield


def crash(output, num_steps, *words):
    """Train `words` and die after `num_steps`; return the folder."""
    before = folders(output)
    with dying_after(num_steps), pytest.raises(Killed):
        train(output, *WORDS, *words)
    (made,) = folders(output) - before
    return made


def stop_after(output, num_steps):
    """Train, and ask to stop within the last of some steps, as Ctrl-C does."""
    take, taken = fit.train_step, []

    def stopping_step(*args, **keys):
        taken.append(None)
        if len(taken) == num_steps:
            signal.raise_signal(signal.SIGINT)
        return take(*args, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "train_step", stopping_step)
        with pytest.raises(KeyboardInterrupt):
            train(output, *WORDS)


def charged(folder):
    """Steps in the ledger, each attempt's counted apart."""
    total, first, to = 0, 0, 0
    for entry in read_entries(folder / "ledger.jsonl")[1:]:
        if entry["entry"] == "begin" and entry["step"] < to:
            total, first, to = total + to - first, entry["step"], entry["step"]
        elif entry["entry"] != "begin":
            to = entry["to"]
    return total + to - first


def state_of(path):
    """What a checkpoint beside `path` holds."""
    return torch.load(path.with_name("state.pt"), weights_only=True)
