"""The privacy ledger of a run: every step is charged, and on the disk, before it is taken.

One JSON object a line, appended and never changed; each carries a digest over itself and all lines
before it. A run that is killed at any moment has taken no step that is not in its ledger, so the
epsilon computed from the ledger is an upper bound whatever happened. Steps are charged in blocks,
long enough that writing one takes `SHARE` of the time of its steps where the disk answers as fast
as it did last, but no longer than the caller allows.

The digests find damage and hand edits, not forgery: there is no secret in them.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpexp.accounting.charges import Charges
from dpexp.accounting.ledger_file import LedgerFile
from dpexp.errors import LedgerError

SHARE = 0.005  # of the time of training that writing may take
SCHEMA = 1

Terms = Mapping[str, float | int | str | bool | None]


class Ledger:
    """The charges of one run, in a file that is only ever appended to.

    Attributes:
        path: The file.
        charges: What has been charged.
        budget: The most steps that may be charged; the run ends rather than pass it.
        write_seconds: Time spent on writing since the ledger was opened.
    """

    def __init__(
        self, path: Path, terms: Terms, budget: int, batches_per_epoch: int | None = None
    ) -> None:
        """Start the ledger of a new run, or take up that of one that was stopped.

        The caller holds the lock of the run folder.

        Args:
            path: The file; made if there is none.
            terms: The mechanism, the data and whatever else must never change in a run.
            budget: K, the steps that the run was planned with.
            batches_per_epoch: As in `Charges`; an epoch that K does not fill counts whole.

        Raises:
            LedgerError: If it is damaged, of other terms, or cannot be read or written.
        """
        self.path = path
        self.write_seconds = 0.0
        self._one_write_seconds = 0.0
        self._file = LedgerFile(path)
        if not self._file.entries:
            self._append({"entry": "terms", "schema": SCHEMA, "terms": dict(terms)})
        _check_terms(path, self._file.entries[0], terms)
        none = Charges(batches_per_epoch=batches_per_epoch)
        self.budget = none.begin(0, None, is_of_last=False).charged_to(budget).num_steps
        self.charges = _replay(path, self._file.entries[1:], none)
        self._taken_before = 0  # one past the steps that an earlier process may have taken

    @property
    def digest(self) -> str:
        """That of the last line: a checkpoint keeps it, so that a ledger cut short is noticed."""
        return str(self._file.entries[-1]["digest"])

    @property
    def attempt(self) -> int:
        """Number of the attempt being taken, from 0: its randomness is its own."""
        return len(self.charges.attempts) - 1

    @property
    def furthest(self) -> int:
        """One past the last step that any attempt has charged."""
        return max((attempt.to for attempt in self.charges.attempts), default=0)

    def begin(self, step: int, arithmetic: str | None, origin: str) -> None:
        """Go on at `step`, in a new attempt if charged steps would come out differently.

        Args:
            step: Steps that the checkpoint has taken; 0 for a new run.
            arithmetic: As in `Attempt`.
            origin: What the weights are: the ledger's digest when they were saved, or, without a
                checkpoint, anything that tells them from others.

        Raises:
            LedgerError: If the checkpoint has taken more steps than were charged.
        """
        if step > self.furthest:
            raise LedgerError(
                f"{self.path} has charged {self.furthest} steps, but the run has taken {step}: "
                f"lines of the ledger are lost, so epsilon is not known; restore the file, or "
                f"start a new run"
            )
        begun = self.charges.begin(step, arithmetic, is_of_last=self._is_of_last(origin))
        if begun != self.charges:
            entry = {"entry": "begin", "step": step, "arithmetic": arithmetic, "origin": origin}
            self._append({**entry, "is_new": len(begun.attempts) > len(self.charges.attempts)})
            self.charges = begun
        self._taken_before = begun.last.to

    def _is_of_last(self, origin: str) -> bool:
        """Say whether weights are those that the last attempt began with, or came to since."""
        since = []
        for entry in reversed(self._file.entries):
            since.append(entry["digest"])
            if entry["entry"] == "begin":
                return origin in (*since, entry["origin"])
        return False

    def charge(self, step: int, until: int, step_seconds: float | None = None) -> bool:
        """Have `step` charged and on the disk; return False if the budget has no room for it.

        Args:
            step: The step that is about to be taken: the next one, or one charged before.
            until: Steps before this one may be charged along with it, so that writing is rare.
            step_seconds: Time of a step, which decides how many.

        Raises:
            LedgerError: If the line cannot be written. The step must not be taken then.
        """
        if step < self.charges.last.to:
            return True
        to = self.charges.furthest(min(until, step + self._block(step_seconds)), self.budget)
        if to <= step:
            return False
        self._append({"entry": "charge", "to": to})
        self.charges = self.charges.charged_to(to)
        return True

    def give_back(self, step: int) -> None:
        """Take back what was charged ahead since `begin`, from `step` on, and was not taken.

        Raises:
            LedgerError: If the line cannot be written.
        """
        step = max(step, self._taken_before)
        if step < self.charges.last.to:
            self._append({"entry": "untaken", "to": step})
            self.charges = self.charges.charged_to(step)

    def num_charged(self, step: int | None = None) -> int:
        """Return the steps that count for epsilon; with `step`, without those charged ahead."""
        if step is None:
            return self.charges.num_steps
        return self.charges.charged_to(max(step, self.charges.last.first)).num_steps

    def check_holds(self, digest: str) -> None:
        """Check that this is the ledger that a checkpoint was saved with, grown since or not.

        Raises:
            LedgerError: If lines are missing.
        """
        if all(entry["digest"] != digest for entry in self._file.entries):
            raise LedgerError(
                f"{self.path} is not the ledger that the checkpoint was saved with, or lines of it "
                f"are lost, so epsilon is not known; restore the file, or start a new run"
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, entry: dict[str, Any]) -> None:
        start = time.perf_counter()
        self._file.append(entry)
        self._one_write_seconds = time.perf_counter() - start
        self.write_seconds += self._one_write_seconds

    def _block(self, step_seconds: float | None) -> int:
        """Return how many steps one line should charge, for writing to be cheap."""
        if not step_seconds:
            return 1
        return max(1, math.ceil(self._one_write_seconds / (SHARE * step_seconds)))


def _check_terms(path: Path, entry: Mapping[str, Any], terms: Terms) -> None:
    if entry.get("entry") != "terms" or entry.get("schema") != SCHEMA:
        raise LedgerError(
            f"{path} does not begin with terms of schema {SCHEMA}: another version of dpexp wrote "
            f"it, or it is no ledger; resume with the version in provenance.json"
        )
    old = entry["terms"]
    changed = [
        f"{name} was {old.get(name)} and is {terms.get(name)}"
        for name in sorted(old.keys() | terms.keys())
        if old.get(name) != terms.get(name)
    ]
    if changed:
        raise LedgerError(
            f"{path}: {'; '.join(changed)}. Epsilon of a run is that of one mechanism on one data "
            f"set, so it cannot go on with others; put them back, or start a new run"
        )


def _replay(path: Path, entries: list[dict[str, Any]], charges: Charges) -> Charges:
    """Return the charges that the entries add up to."""
    for entry in entries:
        match entry:
            case {"entry": "begin", "step": int(step), "arithmetic": arithmetic, "is_new": is_new}:
                charges = charges.begin(step, arithmetic, is_of_last=not is_new)
            case {"entry": "charge" | "untaken", "to": int(to)} if charges.attempts:
                charges = charges.charged_to(to)
            case _:
                raise LedgerError(
                    f"{path}: no entry of a ledger is like {entry}; another version of dpexp wrote "
                    f"it; resume with the version in provenance.json"
                )
    return charges
