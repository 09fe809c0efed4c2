"""The ledger: what is charged, what is on the disk when, and what it refuses."""

import errno
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpexp.accounting import ledger as ledger_module
from dpexp.accounting import ledger_file
from dpexp.accounting.charges import Charges
from dpexp.accounting.ledger import Ledger
from dpexp.accounting.ledger_file import LedgerFile, read_entries
from dpexp.errors import LedgerError

TERMS = {"noise_multiplier": 1.5, "sampling_rate": 0.1, "delta": 1e-5, "unsafe/data": "ab"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def opened(path, budget=100, terms=TERMS, batches_per_epoch=None):
    return Ledger(path, terms, budget, batches_per_epoch)


def begun(path, *, steps, arithmetic="same", **keys):
    """A ledger in which `steps` steps are charged."""
    ledger = opened(path, **keys)
    ledger.begin(0, arithmetic, "start")
    for step in range(steps):
        assert ledger.charge(step, step + 1)
    return ledger


def on_disk(path):
    """Steps charged in the file, by counting its lines and nothing else."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return max((entry["to"] for entry in entries if entry["entry"] == "charge"), default=0)


# What is charged.


class SlowCharges:
    """A twin of `Charges`: a set of the releases themselves."""

    def __init__(self, batches_per_epoch):
        self.batches_per_epoch = batches_per_epoch
        self.releases, self.attempt, self.charged, self.first = set(), -1, 0, 0
        self.arithmetic = None

    def begin(self, step, arithmetic, is_of_last):
        repeats = set(range(step, self.charged))
        goes_on = self.attempt >= 0 and self.first <= step <= self.charged
        is_same = arithmetic is not None and arithmetic == self.arithmetic and is_of_last
        if not (goes_on and (not repeats or is_same)):
            self.attempt += 1
            self.first = self.charged = step
        self.arithmetic = arithmetic

    def charge(self, to):
        self.releases |= {(self.attempt, step) for step in range(self.charged, to)}
        self.charged = max(self.charged, to)

    def num_steps(self):
        if self.batches_per_epoch is None:
            return len(self.releases)
        epochs = {(attempt, step // self.batches_per_epoch) for attempt, step in self.releases}
        return len(epochs) * self.batches_per_epoch


@settings(max_examples=300, deadline=None)
@given(
    batches_per_epoch=st.sampled_from([None, 1, 4, 7]),
    events=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from([None, "a", "b"]),
                  st.booleans()),
        min_size=1, max_size=12,
    ),
)  # fmt: skip
def test_charges_count_what_a_set_of_releases_counts(batches_per_epoch, events):
    fast, slow = Charges(batches_per_epoch=batches_per_epoch), SlowCharges(batches_per_epoch)
    for back, ahead, arithmetic, is_of_last in events:
        step = max(0, slow.charged - back)
        fast = fast.begin(step, arithmetic, is_of_last=is_of_last)
        slow.begin(step, arithmetic, is_of_last)
        to = slow.charged + ahead
        fast = fast.charged_to(to)
        slow.charge(to)
        assert fast.num_steps == slow.num_steps()


def test_steps_repeated_alike_cost_nothing(path):
    begun(path, steps=8).close()
    again = opened(path)
    again.begin(5, "same", "start")
    assert (again.attempt, again.num_charged()) == (0, 8)
    assert again.charge(5, 6)
    assert again.num_charged() == 8
    assert again.charge(8, 9)
    assert again.num_charged() == 9


@pytest.mark.parametrize("arithmetic", [None, "other"])
def test_steps_that_come_out_differently_are_charged_again(path, arithmetic):
    begun(path, steps=8).close()
    again = opened(path)
    again.begin(5, arithmetic, "start")
    assert (again.attempt, again.num_charged()) == (1, 8)
    assert again.charge(5, 7)
    assert again.num_charged() == 9
    reopened = opened(path)
    assert reopened.num_charged() == 9
    assert reopened.attempt == 1


def test_a_run_that_has_nothing_to_repeat_goes_on_as_it_was(path):
    begun(path, steps=8, arithmetic=None).close()
    again = opened(path)
    again.begin(8, None, "start")
    assert (again.attempt, again.num_charged()) == (0, 8)


def test_weights_of_before_the_attempt_are_not_repeated_with_its_noise(path):
    ledger = begun(path, steps=5)
    before = ledger.digest
    ledger.charge(5, 6)
    ledger.begin(5, "other", before)  # attempt 1, from the checkpoint of step 5
    ledger.charge(5, 6)
    ledger.charge(6, 7)
    within = ledger.digest
    assert ledger.attempt == 1
    for origin, attempt in ((before, 1), (within, 1), ("start", 2)):
        again = opened(path)
        again.begin(6, "other", origin)
        assert again.attempt == attempt, origin


def test_an_arithmetic_taken_up_at_a_stop_is_not_that_of_the_steps_before(path):
    ledger = begun(path, steps=5)
    older = ledger.digest
    for step in range(5, 8):
        ledger.charge(step, step + 1)
    ledger.begin(8, "other", ledger.digest)  # nothing to repeat: the attempt goes on
    ledger.charge(8, 9)
    assert ledger.attempt == 0
    again = opened(path)
    again.begin(5, "other", older)  # these steps were taken by the old arithmetic
    assert again.attempt == 1


def test_another_writer_is_noticed(path):
    ledger = begun(path, steps=3)
    other = opened(path)
    other.begin(3, "same", "start")
    other.charge(3, 4)
    with pytest.raises(LedgerError, match="another process has written to it"):
        ledger.charge(3, 4)


def test_an_older_checkpoint_than_the_attempt_began_with_is_another_attempt(path):
    ledger = begun(path, steps=8)
    ledger.begin(5, "other", "start")
    ledger.charge(5, 6)
    ledger.begin(2, "other", "start")
    assert ledger.attempt == 2


def test_the_budget_is_a_hard_stop(path):
    ledger = begun(path, steps=8, budget=10, arithmetic=None)
    ledger.begin(6, None, "start")
    assert ledger.charge(6, 10)  # two of the ten are left
    assert ledger.charges.last.to == 7
    assert ledger.charge(7, 10)
    assert not ledger.charge(8, 10)
    assert ledger.num_charged() == 10
    assert on_disk(path) == 8


@pytest.mark.parametrize("until", [1, 3, 10])
def test_a_block_ends_within_the_budget(path, until):
    ledger = opened(path, budget=5)
    ledger.begin(0, "same", "start")
    ledger._one_write_seconds = 1.0
    step = 0
    while ledger.charge(step, step + until, step_seconds=1e-3):
        step += 1
    assert (step, ledger.num_charged()) == (5, 5)


def test_an_epoch_that_was_touched_is_charged_whole(path):
    ledger = begun(path, steps=5, budget=12, batches_per_epoch=4)
    assert ledger.num_charged() == 8
    ledger.begin(
        3, None, "start"
    )  # the epoch of step 3 is drawn anew: another release of each sample
    ledger.charge(3, 4)
    assert ledger.num_charged() == 12
    assert not ledger.charge(4, 5)


def test_a_last_epoch_that_is_not_full_is_within_the_budget(path):
    ledger = begun(path, steps=10, budget=10, batches_per_epoch=4)
    assert ledger.budget == ledger.num_charged() == 12


def test_what_was_charged_ahead_is_given_back(path):
    ledger = opened(path)
    ledger.begin(0, "same", "start")
    ledger._one_write_seconds = 1.0
    assert ledger.charge(0, 10, step_seconds=1e-3)
    assert ledger.num_charged() == 10
    assert ledger.num_charged(3) == 3
    ledger.give_back(3)
    assert ledger.num_charged() == opened(path).num_charged() == 3


def test_what_an_earlier_process_may_have_taken_is_not_given_back(path):
    begun(path, steps=8).close()
    again = opened(path)
    again.begin(5, "same", "start")
    again.charge(5, 6)
    again.give_back(6)
    assert again.num_charged() == 8


# What is on the disk, and when.


def test_a_step_is_on_the_disk_before_it_may_be_taken(path, monkeypatch):
    order = []
    monkeypatch.setattr(ledger_file.os, "fsync", lambda handle: order.append(on_disk(path)))
    ledger = begun(path, steps=3)
    assert order[-3:] == [1, 2, 3]
    ledger.close()


def test_steps_are_charged_in_blocks_that_make_writing_cheap(path):
    ledger = opened(path)
    ledger.begin(0, "same", "start")
    ledger._one_write_seconds = 0.002
    assert ledger.charge(0, 100, step_seconds=0.01)
    assert ledger.charges.last.to == 40  # 2 ms of 40 steps of 10 ms: half a hundredth
    ledger._one_write_seconds = 0.002
    assert ledger.charge(40, 50, step_seconds=0.01)
    assert ledger.charges.last.to == 50  # and never beyond what was allowed
    assert ledger.charge(50, 100, step_seconds=None)
    assert ledger.charges.last.to == 51


def test_a_line_that_was_never_finished_is_cut_off(path):
    begun(path, steps=3).close()
    whole = path.read_bytes()
    for length in (1, 10, 40):
        path.write_bytes(whole + b'{"entry": "charge", "to": 4, "digest": "12345678"}'[:length])
        assert opened(path).num_charged() == 3
        assert path.read_bytes() == whole


@pytest.mark.parametrize("failure", ["full", "part", "sync"])
def test_a_line_that_cannot_be_written_stops_the_step_and_leaves_the_file(
    path, monkeypatch, failure
):
    ledger = begun(path, steps=3)
    before = path.read_bytes()
    write = os.write

    def failing(handle, line):
        if failure == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, line[:7] if failure == "part" else line)

    def failing_sync(handle):
        if failure == "sync":
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ledger_file.os, "write", failing)
    monkeypatch.setattr(ledger_file.os, "fsync", failing_sync)
    with pytest.raises(LedgerError, match=r"cannot be written .* is not charged may not be taken"):
        ledger.charge(3, 4)
    assert ledger.num_charged() == 3
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert opened(path).num_charged() == 3


def test_a_ledger_in_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(LedgerError, match="cannot be written"):
        opened(tmp_path / "nowhere" / "ledger.jsonl")


# What it refuses.


@pytest.mark.parametrize(
    ("name", "value"),
    [("noise_multiplier", 1.4), ("sampling_rate", 0.2), ("delta", 1e-6), ("unsafe/data", "cd")],
)
def test_other_terms_are_refused_by_name(path, name, value):
    begun(path, steps=3).close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=rf"{name} was {TERMS[name]} and is {value}\. Epsilon"):
        opened(path, terms={**TERMS, name: value})
    assert path.read_bytes() == before


def edited(line):
    return line.replace(b'"to": 3', b'"to": 1')


DAMAGE = {
    "edited": lambda lines: [*lines[:-1], edited(lines[-1])],
    "one lost": lambda lines: [*lines[:2], *lines[3:]],
    "swapped": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "not JSON": lambda lines: [*lines[:-1], b"charge 3\n"],
    "not an object": lambda lines: [*lines, b"[3]\n"],
    "no digest": lambda lines: [*lines, b'{"entry": "charge", "to": 9}\n'],
    "nested": lambda lines: [*lines, b"[" * 200_000 + b"\n"],
    "bytes": lambda lines: [*lines[:-1], b"\xff\xfe\n"],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found(path, damage):
    begun(path, steps=3).close()
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(LedgerError, match=r"line \d does not agree with its digest"):
        opened(path)
    with pytest.raises(LedgerError, match="does not agree with its digest"):
        read_entries(path)


def test_a_ledger_cut_by_whole_lines_does_not_fit_its_checkpoint(path):
    ledger = begun(path, steps=3)
    digest = ledger.digest
    ledger.charge(3, 4)
    opened(path).check_holds(digest)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    with pytest.raises(LedgerError, match="lines of it are lost"):
        opened(path).check_holds(digest)


def test_a_checkpoint_beyond_what_was_charged_is_refused(path):
    begun(path, steps=3).close()
    with pytest.raises(LedgerError, match=r"has charged 3 steps, but the run has taken 4"):
        opened(path).begin(4, "same", "start")


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ({"entry": "terms", "schema": 99, "terms": {}}, "does not begin with terms of schema 1"),
        ({"entry": "charge", "to": 3}, "does not begin with terms"),
    ],
)
def test_another_versions_ledger_is_refused(path, first, message):
    LedgerFile(path).append(first)
    with pytest.raises(LedgerError, match=message):
        opened(path)


def test_an_entry_of_another_kind_is_refused(path):
    begun(path, steps=1).close()
    LedgerFile(path).append({"entry": "refund", "to": 0})
    with pytest.raises(LedgerError, match="no entry of a ledger is like"):
        opened(path)


def test_a_running_ledger_can_be_read(path):
    begun(path, steps=3)
    with path.open("ab") as file:
        file.write(b'{"entry": "cha')
    entries = read_entries(path)
    assert [entry["entry"] for entry in entries] == ["terms", "begin", "charge", "charge", "charge"]
    assert path.read_bytes().endswith(b"cha")


def test_the_share_of_writing_is_below_a_hundredth():
    assert ledger_module.SHARE < 0.01
