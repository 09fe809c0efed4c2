"""The reported epsilon: which accountant gives it, what stands in, and what is recorded."""

import math
import sys
import time

import pytest

from dpexp.accounting import bounds, calibrate, isolation, pld, prv, spent
from dpexp.accounting.isolation import ChildLostError, run_in_child
from dpexp.errors import AccountingError
from dpexp.mechanism import Mechanism

SETTING = (0.7792, 0.02, 150, 1e-5)


def failing(error):
    def bound(**_):
        raise error

    return bound


def constant(epsilon):
    return lambda **_: epsilon


def test_reported_epsilon_is_the_larger_of_prv_and_pld():
    got = bounds.epsilon_bounds(*SETTING)
    assert got.epsilon == max(got.prv, got.pld) == got.prv
    assert (got.source, got.notes, got.is_final) == ("prv", (), True)
    assert 0 <= got.prv - got.pld <= 0.012
    assert got.gdp < got.pld < got.rdp
    assert bounds.sound_epsilon(*SETTING) == got.epsilon


def test_pld_is_reported_where_it_is_the_larger():
    got = bounds.evaluate(*SETTING, prv_bound=constant(3.18))
    assert (got.epsilon, got.source) == (got.pld, "pld")


@pytest.mark.parametrize(("prv_epsilon", "is_noted"), [(3.25, True), (3.20, False), (3.10, True)])
def test_disagreement_is_recorded(prv_epsilon, is_noted):
    got = bounds.evaluate(*SETTING, prv_bound=constant(prv_epsilon))
    assert any("differ by" in note for note in got.notes) == is_noted
    assert got.epsilon == max(prv_epsilon, got.pld)


@pytest.mark.parametrize(
    ("error", "is_final"),
    [
        (RuntimeError("Discrete mean differs"), True),
        (AccountingError("no"), True),
        (MemoryError(), False),
        (ChildLostError("stopped after 1 s"), False),
    ],
)
def test_pld_stands_alone_where_prv_fails(error, is_final):
    got = bounds.evaluate(*SETTING, prv_bound=failing(error))
    assert (got.prv, got.prv_error) == (None, None)
    assert (got.epsilon, got.source, got.is_final) == (got.pld, "pld", is_final)
    assert got.notes[0].startswith("PRV gave no bound")
    assert got.notes[-1] == "epsilon is the PLD bound alone"


def test_prv_stands_alone_where_pld_fails(monkeypatch):
    monkeypatch.setattr(pld, "epsilon", lambda *_: math.inf)
    got = bounds.evaluate(*SETTING, prv_bound=constant(3.19))
    assert (got.epsilon, got.source, got.pld) == (3.19, "prv", None)
    assert got.notes[-1] == "epsilon is the PRV bound alone"


def test_rdp_stands_in_where_both_fail(monkeypatch):
    def broken(*_):
        raise FloatingPointError("overflow")

    monkeypatch.setattr(pld, "epsilon", broken)
    got = bounds.evaluate(*SETTING, prv_bound=failing(RuntimeError("no")))
    assert (got.epsilon, got.source) == (got.rdp, "rdp")
    assert "PLD gave no bound: FloatingPointError: overflow" in got.notes


def test_a_setting_that_prv_cannot_take_falls_back_and_says_so():
    # prv-accountant 0.2.0 raises here: its quadrature misses the mean.
    got = bounds.epsilon_bounds(0.4109, 0.1, 100, 1e-5)
    assert (got.prv, got.source) == (None, "pld")
    assert any("Discrete mean differs" in note for note in got.notes)
    assert got.is_final


@pytest.mark.parametrize(("sigma", "q"), [(0.0, 0.1), (4.0, 1.0)])
def test_closed_forms_are_taken_exactly(sigma, q):
    got = bounds.epsilon_bounds(sigma, q, 10, 1e-5)
    assert got.source == "gaussian"
    assert got.epsilon == got.prv == got.pld <= got.rdp
    assert math.isinf(got.epsilon) == (sigma == 0)


def test_a_child_that_hangs_is_stopped():
    command = (sys.executable, "-c", "import time; time.sleep(60)")
    start = time.perf_counter()
    with pytest.raises(ChildLostError, match=r"was stopped after 0.5 s"):
        run_in_child("bounds", {}, seconds=0.5, command=command)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ((sys.executable, "-c", "import os; os.abort()"), r"died with code"),
        ((sys.executable, "-c", "raise SystemExit('out of it')"), r"died with code 1: out of it"),
        (("/nowhere/python",), r"could not start"),
    ],
)
def test_a_child_that_dies_is_reported(command, message):
    with pytest.raises(ChildLostError, match=message):
        run_in_child("bounds", {}, command=command)


def test_a_child_reports_what_it_refuses():
    with pytest.raises(AccountingError, match=r"no accounting task is called 'guess'"):
        run_in_child("guess", {})


def lose_child(task, arguments):
    raise ChildLostError("its process was stopped after 120 s")


def test_a_lost_child_leaves_the_pld_bound_and_no_trace_in_the_cache(monkeypatch, empty_cache):
    monkeypatch.setattr(bounds, "run_in_child", lose_child)
    got = bounds.epsilon_bounds(*SETTING)
    assert (got.source, got.is_final) == ("pld", False)
    assert "PRV gave no bound: its process was stopped after 120 s" in got.notes
    assert not list(empty_cache.glob("*.json"))


def test_a_lost_child_does_not_stop_calibration(monkeypatch, empty_cache):
    monkeypatch.setattr(calibrate, "run_in_child", lose_child)
    got = calibrate.calibrate(1.0, 1e-5, 0.02, 150)
    assert got.bounds.source == "pld"
    assert got.bounds.epsilon <= 1.0
    assert pld.epsilon(got.noise_multiplier / 1.005, 0.02, 150, 1e-5) > 1.0


def mechanism(sampler="poisson", sigma=0.7792):
    return Mechanism(
        noise_multiplier=sigma,
        clip_norm=1.0,
        sampling_rate=0.02,
        num_steps=150,
        expected_batch_size=1000,
        sampler=sampler,
    )


def test_spent_table_is_never_below_pld_and_ends_at_the_reported_epsilon():
    table = spent.spent_table(mechanism(), 1e-5)
    steps = [1, 6, 7, 40, 100, 149]
    shown = [table.after(k) for k in steps]
    true = pld.epsilons(0.7792, 0.02, steps, 1e-5)
    assert all(upper >= lower * (1 - 1e-3) for upper, lower in zip(shown, true, strict=True))
    # At a mark nothing is rounded; the steps of a 24th part share one value.
    assert table.after(7) == pytest.approx(pld.epsilon(0.7792, 0.02, 7, 1e-5), rel=2e-3)
    assert table.after(1) == table.after(7) < table.after(8)
    assert table.after(150) == bounds.sound_epsilon(*SETTING)
    assert table.after(0) == 0.0


def test_spent_table_rises():
    table = spent.spent_table(mechanism(), 1e-5)
    assert list(table.epsilons) == sorted(table.epsilons)
    assert list(table.steps) == sorted(set(table.steps))


@pytest.mark.parametrize("num_steps", [-1, 151])
def test_spent_table_refuses_steps_beyond_the_run(num_steps):
    with pytest.raises(ValueError, match=r"150 are accounted for"):
        spent.spent_table(mechanism(), 1e-5).after(num_steps)


def test_spent_of_shuffled_batches_rises_by_epochs():
    table = spent.spent_table(mechanism("shuffle"), 1e-5)
    assert table.steps == (50, 100, 150)
    assert table.after(1) == table.after(50) < table.after(51)
    assert table.after(150) == spent.epsilon_spent(mechanism("shuffle"), 150, 1e-5) > 10


def test_spent_without_noise_is_infinite_from_the_first_step():
    table = spent.spent_table(mechanism(sigma=0.0), 1e-5)
    assert (table.after(0), table.after(1), table.after(150)) == (0.0, math.inf, math.inf)


def test_prv_in_the_child_is_prv_in_this_process():
    here = prv.epsilon(*SETTING, eps_error=bounds.epsilon_bounds(*SETTING).prv_error)
    assert bounds.epsilon_bounds(*SETTING).prv == pytest.approx(here, rel=1e-12)


def child_that(answer):
    """A child process whose answer to every task is this expression."""
    code = (
        "import numpy, resource, dpexp.accounting.child as child;"
        f"child.answer = lambda *_: {answer};"
        "child.main()"
    )
    return sys.executable, "-c", code


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system keeps no such limit")
def test_the_child_cannot_take_more_memory_than_its_limit():
    within, beyond = (int(f * isolation.MEMORY_LIMIT_MIB * 2**20) for f in (0.8, 1.0))
    assert run_in_child("", {}, command=child_that(f"int(numpy.ones({within}, 'u1')[-1])")) == 1
    with pytest.raises(ChildLostError, match=r"MemoryError"):
        run_in_child("", {}, command=child_that(f"int(numpy.ones({beyond}, 'u1')[-1])"))


def test_the_largest_grid_fits_into_the_limit_and_two_of_them_into_two_gib():
    base_mib = 140  # interpreter and libraries; measured
    grid_mib = prv.MAX_POINTS * prv.BYTES_PER_POINT / 2**20
    assert base_mib + grid_mib < isolation.MEMORY_LIMIT_MIB < 1024
