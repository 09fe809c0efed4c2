"""Calibrated noise: never over the budget, hardly above the least; the budget; the cache."""

import json
import math
import os
import subprocess
import sys
import time

import pytest

from dpexp.accounting import bounds, cache, calibrate, gdp, pld, prv, rdp
from dpexp.accounting import budget as budget_module
from dpexp.accounting.budget import budget
from dpexp.accounting.isolation import ChildLostError
from dpexp.errors import AccountingError

# eps, delta, q, steps
TARGETS = [(1.0, 1e-5, 0.02, 150), (4.0, 1e-5, 0.17, 200), (0.3, 1e-6, 0.01, 300)]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_sound_epsilon_meets_the_target_and_sigma_is_hardly_above_the_least(target):
    eps, delta, q, steps = target
    got = calibrate.calibrate(*target)
    assert got.bounds.source == "prv"
    assert max(got.bounds.prv, got.bounds.pld) == got.bounds.epsilon <= eps
    assert pld.epsilon(got.noise_multiplier / 1.005, q, steps, delta) > eps
    assert got.noise_multiplier == round(got.noise_multiplier, 4)
    # The verification is not of another sigma.
    again = prv.epsilon(got.noise_multiplier, q, steps, delta, eps_error=got.bounds.prv_error)
    assert again == pytest.approx(got.bounds.epsilon, rel=1e-9)


def test_bounds_of_a_calibrated_sigma_are_not_computed_twice(monkeypatch):
    got = calibrate.calibrate(*TARGETS[0])
    monkeypatch.setattr(bounds, "run_in_child", None)
    again = bounds.epsilon_bounds(got.noise_multiplier, 0.02, 150, 1e-5)
    assert again == got.bounds


@pytest.mark.parametrize("eps", [1e-2, 0.7, 3.0, 400.0])
def test_without_subsampling_calibration_is_exact(eps):
    got = calibrate.calibrate(eps, 1e-5, 1.0, 40)
    assert got.bounds.epsilon <= eps
    assert bounds.epsilon_bounds(got.noise_multiplier - 2e-4, 1.0, 40, 1e-5).epsilon > eps


def test_infinite_target_needs_no_noise():
    got = calibrate.calibrate(math.inf, 1e-5, 0.1, 10)
    assert (got.noise_multiplier, got.bounds.epsilon) == (0.0, math.inf)


@pytest.mark.parametrize("accountant", [pld.epsilon, rdp.epsilon, gdp.epsilon])
@pytest.mark.parametrize("target", [*TARGETS, (20.0, 1e-5, 0.1, 50), (0.05, 1e-5, 0.001, 100)])
@pytest.mark.parametrize("start_factor", [0.3, 1.0, 4.0])
def test_search_finds_the_least_sigma_from_any_start(accountant, target, start_factor):
    eps, delta, q, steps = target
    start = start_factor * gdp.noise_multiplier(eps, delta, q, steps)
    sigma = calibrate.smallest_sigma(accountant, eps, delta, q, steps, start)
    assert accountant(sigma, q, steps, delta) <= eps
    assert accountant(0.999 * sigma - 2e-4, q, steps, delta) > eps


def test_a_sigma_that_misses_at_first_is_raised_until_verified():
    def ten_percent_above(**arguments):
        sigma, q = arguments["noise_multiplier"], arguments["sampling_rate"]
        return 1.1 * pld.epsilon(sigma, q, arguments["num_steps"], arguments["delta"])

    got = calibrate.search(1.0, 1e-5, 0.02, 150, prv_bound=ten_percent_above)
    assert got.bounds.epsilon == got.bounds.prv <= 1.0
    assert got.bounds.epsilon > 0.98


def test_calibration_gives_up_by_name():
    with pytest.raises(AccountingError, match=r"so the budget cannot be promised"):
        calibrate.search(1.0, 1e-5, 0.02, 150, prv_bound=lambda **_: 2.0)


def test_rdp_searches_where_pld_has_no_finite_value(monkeypatch):
    monkeypatch.setattr(pld, "epsilon", lambda *_, **__: math.inf)
    got = calibrate.search(1.0, 1e-5, 0.02, 150, prv_bound=lambda **_: 0.9)
    assert rdp.epsilon(got.noise_multiplier, 0.02, 150, 1e-5) == pytest.approx(1.0, rel=2e-3)
    assert (got.bounds.source, got.bounds.pld) == ("prv", None)


@pytest.mark.parametrize("sigma", [0.12341, 0.1234, 1.0, 99.99999])
def test_rounding_goes_up(sigma):
    assert sigma < calibrate.round_up(sigma) <= sigma + 1.01e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1e-5, 0.1, 10), r"eps=0.0: epsilon bounds the privacy loss and must be above 0"),
        ((math.nan, 1e-5, 0.1, 10), r"eps=nan"),
        ((1.0, 2.0, 0.1, 10), r"delta=2.0"),
        ((1.0, 1e-5, 3.0, 10), r"sampling_rate=3.0"),
        ((1.0, 1e-5, 0.1, 0), r"num_steps=0"),
    ],
)
def test_bad_targets_are_refused(arguments, message):
    with pytest.raises(AccountingError, match=message):
        calibrate.calibrate(*arguments)


SETTING = {"batch": 1000, "epochs": 3, "num_train": 50000, "delta": 1e-5}


def test_budget_of_a_target_has_a_sigma_under_each_accountant():
    got = budget(eps=1, **SETTING)
    assert (got.sampling_rate, got.num_steps) == (0.02, 150)
    rows = {row.accountant: row for row in got.rows}
    assert list(rows) == ["prv", "pld", "rdp", "gdp"]
    assert rows["prv"].bounds.epsilon <= 1
    assert rows["pld"].bounds.pld <= 1 < rows["pld"].bounds.pld * 1.001
    assert rows["rdp"].bounds.rdp <= 1 < rows["rdp"].bounds.rdp * 1.001
    assert rows["gdp"].bounds.gdp <= 1 < rows["gdp"].bounds.gdp * 1.001
    # Only the papers' accountant overspends: its eps 1 is 1.26.
    assert rows["gdp"].noise_multiplier == pytest.approx(1.127, abs=2e-4)
    assert rows["gdp"].bounds.pld == pytest.approx(1.262, abs=2e-3)


def test_budget_has_the_three_numbers_of_the_published_protocol():
    published = budget(eps=1, **SETTING).published
    assert published.claimed == pytest.approx(1.0, abs=1e-3)
    assert published.poisson == pytest.approx(1.264, abs=5e-3)
    assert published.num_epochs == 3
    assert published.shuffled == pytest.approx(7.2595, abs=1e-3)  # mu = sqrt(3) / 1.127


def test_budget_of_a_noise():
    got = budget(noise_multiplier=0.7792, **SETTING)
    (row,) = got.rows
    assert (row.accountant, row.noise_multiplier, got.eps) == ("given", 0.7792, None)
    assert row.bounds.pld == pytest.approx(3.186, abs=0.005)
    assert got.published.claimed == pytest.approx(2.0, abs=1e-3)


def test_a_budget_survives_lost_children(monkeypatch, empty_cache):
    def lose_child(task, arguments):
        raise ChildLostError(f"the child of {task} was stopped")

    monkeypatch.setattr(budget_module, "run_in_child", lose_child)
    got = budget(eps=1, **SETTING)
    assert [row.bounds.source for row in got.rows] == ["pld"] * 4
    for row in got.rows:
        assert "PRV gave no bound: the child of budget was stopped" in row.bounds.notes
    assert not list(empty_cache.glob("*.json"))


@pytest.mark.parametrize(("eps", "batch"), [(math.inf, 10), (2.0, 100)])
def test_budget_of_closed_forms(eps, batch):
    got = budget(eps=eps, batch=batch, steps=5, num_train=100, delta=1e-5)
    assert got.rows[0].bounds.source == "gaussian"
    assert (got.rows[0].noise_multiplier == 0) == math.isinf(eps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 1, "noise_multiplier": 1.0, **SETTING}, r"give exactly one"),
        (SETTING, r"give exactly one"),
        ({"eps": 1, "steps": 5, **SETTING}, r"epochs=3 and steps=5"),
        ({"eps": 1, **SETTING, "batch": 60000}, r"batch=60000 with 50000 samples"),
        ({"eps": -1, **SETTING}, r"eps=-1"),
        ({"noise_multiplier": -1, **SETTING}, r"noise_multiplier=-1"),
    ],
)
def test_bad_budgets_are_refused(arguments, message):
    with pytest.raises(AccountingError, match=message):
        budget(**arguments)


def test_a_cached_result_is_identical_and_computed_once(empty_cache, monkeypatch):
    first = budget(noise_multiplier=4.0, batch=10, num_train=10, steps=7, delta=1e-5)
    assert empty_cache.is_dir()
    monkeypatch.setattr(bounds, "exact_bounds", None)  # would fail if it were called again
    again = budget(noise_multiplier=4.0, batch=10, num_train=10, steps=7, delta=1e-5)
    assert again == first


def test_a_cached_budget_takes_under_a_second_and_imports_no_scipy():
    budget(eps=1, **SETTING)
    code = (
        "import sys; from dpexp.accounting.budget import budget;"
        f"budget(eps=1, **{SETTING!r}); print({{'scipy', 'numpy'}} & set(sys.modules))"
    )
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 1
    assert out.stdout.strip() == "set()"


def exact(steps=3):
    return bounds.epsilon_bounds(2.0, 1.0, steps, 1e-5)


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"key": 1}', "\xff"],
    ids=["empty", "cut", "other form", "other key", "not text"],
)
def test_a_corrupt_cache_file_is_computed_again(empty_cache, damage):
    right = exact()
    (path,) = empty_cache.glob("bounds-*.json")
    path.write_bytes(damage.encode("latin-1"))
    assert exact() == right
    assert json.loads(path.read_text())["result"]["source"] == "gaussian"


@pytest.mark.parametrize("epsilon", [None, "high", [1]])
def test_a_cache_file_with_a_wrong_result_is_computed_again(empty_cache, epsilon):
    right = exact()
    (path,) = empty_cache.glob("bounds-*.json")
    stored = json.loads(path.read_text())
    stored["result"]["epsilon"] = epsilon
    path.write_text(json.dumps(stored))
    assert exact() == right


def test_a_cache_file_of_other_inputs_is_computed_again(empty_cache):
    right = exact()
    (path,) = empty_cache.glob("bounds-*.json")
    stored = json.loads(path.read_text())
    stored["key"] = stored["key"].replace('"steps": 3', '"steps": 1')
    stored["result"]["epsilon"] = 0.1
    path.write_text(json.dumps(stored))
    assert exact() == right


def test_an_unwritable_cache_is_ignored(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert exact() == exact()


def test_every_input_and_version_is_in_the_key(empty_cache, monkeypatch):
    exact()
    exact(steps=4)
    bounds.epsilon_bounds(2.0, 1.0, 3, 1e-6)
    monkeypatch.setattr(cache, "_version", lambda _: "another")
    exact()
    assert len(list(empty_cache.glob("bounds-*.json"))) == 4
    assert not [path for path in empty_cache.iterdir() if path.suffix == ".tmp"]


def test_infinity_is_strict_json_and_comes_back(empty_cache):
    first = bounds.epsilon_bounds(0.0, 0.5, 3, 1e-5)
    (path,) = empty_cache.glob("bounds-*.json")
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["result"]["epsilon"] == "inf"
    assert bounds.epsilon_bounds(0.0, 0.5, 3, 1e-5) == first


def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", os.sep + "someone")
    assert cache.folder().parts[-4:] == ("someone", ".cache", "dpexp", "accounting")
