"""What a run has spent: the deal that prices a step, and the ledger that counts steps."""

import hashlib
import platform
from dataclasses import dataclass

import torch

from dpexp.accounting.ledger import Ledger
from dpexp.accounting.ledger_file import read_entries
from dpexp.data.fingerprint import fingerprint
from dpexp.errors import LedgerError
from dpexp.record.config_hash import config_hash
from dpexp.record.folder import RunFolder
from dpexp.record.provenance import cpu_name, package_versions
from dpexp.record.strict_json import to_text
from dpexp.schema import to_dict
from dpexp.train.deal import Deal
from dpexp.train.job import Job
from dpexp.train.plan_file import read_plan


@dataclass(frozen=True)
class Account:
    """What a run may still do, and what it has cost.

    Attributes:
        deal: What a step costs.
        ledger: What has been charged; None where there is no noise, and epsilon is infinite.
    """

    deal: Deal
    ledger: Ledger | None

    def charge(self, step: int, next_save: int, step_seconds: float | None) -> bool:
        """As `Ledger.charge`; without noise there is nothing to charge.

        What is charged ahead may be lost to a crash, so it ends with the next checkpoint.
        """
        return self.ledger is None or self.ledger.charge(step, next_save, step_seconds)

    def epsilon(self, step: int | None = None) -> float:
        """Return an upper bound on the epsilon of all that was charged.

        With `step`, of the run as it would be had it never been charged beyond that step.
        """
        if self.ledger is None:
            return self.deal.epsilon_after(self.deal.num_steps if step is None else step)
        # An epoch that the last step leaves unfinished is charged whole, and costs no more.
        return self.deal.epsilon_after(min(self.ledger.num_charged(step), self.deal.num_steps))

    def num_charged(self, steps_done: int) -> int:
        """Return the steps that count for epsilon; those done where nothing is charged."""
        return self.ledger.num_charged() if self.ledger else steps_done

    @property
    def digest(self) -> str:
        """What a checkpoint keeps of the ledger; empty without one."""
        return self.ledger.digest if self.ledger else ""

    @property
    def write_seconds(self) -> float:
        """Time that writing the ledger took in this process."""
        return self.ledger.write_seconds if self.ledger else 0.0

    @property
    def attempt(self) -> int:
        """Which stream of randomness the steps to come are to use."""
        return self.ledger.attempt if self.ledger else 0

    def give_back(self, step: int) -> None:
        """As `Ledger.give_back`."""
        if self.ledger:
            self.ledger.give_back(step)

    def close(self) -> None:
        """Close the ledger's file."""
        if self.ledger:
            self.ledger.close()


def open_account(job: Job, folder: RunFolder, *, step: int = 0, digest: str = "") -> Account:
    """Open the account of a run that begins, or goes on from a checkpoint.

    Args:
        job: What runs.
        folder: Held by this process.
        step: Steps that the checkpoint has taken.
        digest: What the checkpoint kept of the ledger.

    Raises:
        LedgerError: If the ledger is missing, damaged, cut, or of another mechanism or other data.
    """
    deal = job.deal
    if deal.mechanism is None or deal.mechanism.noise_multiplier == 0:
        return Account(deal, None)
    rows = folder.read_metrics()
    has_begun = step > 0 or bool(rows)
    if has_begun and not folder.ledger.exists():
        raise LedgerError(
            f"{folder.ledger} is missing, so it is not known what the run has spent; restore the "
            f"file, or start a new run"
        )
    ledger = Ledger(
        folder.ledger, terms_of(job, folder), deal.num_steps, deal.mechanism.batches_per_epoch
    )
    if digest:
        ledger.check_holds(digest)
    if rows and rows[-1]["step"] > ledger.furthest:
        raise LedgerError(
            f"{folder.ledger} has charged {ledger.furthest} steps, but metrics.jsonl has "
            f"{rows[-1]['step']}: lines of the ledger are lost, so epsilon is not known; restore "
            f"the file, or start a new run"
        )
    has_plan = bool(read_plan(folder)) or not has_begun
    arithmetic = arithmetic_of(job) if has_plan else None
    ledger.begin(step, arithmetic, digest or f"weights {weights_digest(job)}")
    return Account(deal, ledger)


def begun_with(folder: RunFolder) -> float | None:
    """Return sigma as the run's ledger has it; None without a ledger.

    Raises:
        LedgerError: If it is damaged.
    """
    entries = read_entries(folder.ledger) if folder.ledger.exists() else []
    # Whether the first line is one of terms at all, the ledger itself says when it is opened.
    return entries[0].get("terms", {}).get("noise_multiplier") if entries else None


def terms_of(job: Job, folder: RunFolder) -> dict[str, float | int | str | bool | None]:
    """Return what must never change within a run."""
    mechanism, config = job.deal.mechanism, job.config
    assert mechanism is not None
    return {
        **to_dict(mechanism),
        "delta": job.deal.delta,
        "num_train": job.deal.num_train,
        "secure": config.noise.secure,
        "config": config_hash(folder.read_config()),
        "unsafe/data": fingerprint(job.splits.train),
    }


def weights_digest(job: Job) -> str:
    """Return what tells the weights that the model has now from others."""
    digest = hashlib.sha256()
    for tensor in job.model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def arithmetic_of(job: Job) -> str | None:
    """Return a digest of all that the rounding of a step hangs on; None if it cannot be repeated.

    On a GPU sums are taken in no fixed order, and noise from the operating system is never the
    same: there a step that is taken again is another release.
    """
    if job.config.noise.secure or job.device.type != "cpu":
        return None
    parts = {
        "processor": cpu_name(),
        "machine": platform.machine(),
        "packages": package_versions(),
        "threads": torch.get_num_threads(),
        "micro_batch": job.micro_batch,
    }
    return hashlib.sha256(to_text(parts).encode()).hexdigest()[:16]
