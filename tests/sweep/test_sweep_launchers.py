"""Who runs the points: fakes of a cluster and of a pool, and one real pool that is killed."""

import os
import shlex
import signal
import sys
from itertools import count
from types import SimpleNamespace

import pytest
from tiny import a_point, a_run, a_task, entries_of

from dpexp.errors import ConfigError
from dpexp.record.lock import FolderLock
from dpexp.sweep import cluster, launchers, pool, stopping
from dpexp.sweep.launchers import Settings, by_submitit, launcher_of
from dpexp.sweep.plan import describe, make_plan
from dpexp.sweep.record import retry_command
from dpexp.sweep.run import run_plan
from dpexp.sweep.work import DIED, OWN_FOLDER, Result, claimed, holder_of, result_of_dead

DONE = Result("done", "here")


class Job:
    """A job of a cluster, done once `ending` holds a result or an error."""

    def __init__(self, name, ending=None):
        self.job_id, self.ending = name, ending
        self.paths = SimpleNamespace(stderr=f"{name}_log.err")

    def done(self):
        return self.ending is not None

    def result(self):
        assert self.ending is not None, "a result that is not there is waited for, without end"
        if isinstance(self.ending, Exception):
            raise self.ending
        return self.ending


class Executor:
    """Submits arrays: the jobs of number 71 end as `endings` say, and the rest never."""

    def __init__(self, *endings):
        self.endings, self.arrays, self.jobs = list(endings), [], []

    def map_array(self, function, tasks):
        self.arrays.append(tasks)
        ends = [self.endings.pop(0) if self.endings else None for _ in tasks]
        new = [Job(f"71_{i}", end) for i, end in enumerate(ends)]
        self.jobs += new
        return new


class Processes(Executor):
    """Starts processes of this machine, 4711 and on; `kill` has one end its step."""

    def map_array(self, function, tasks):
        new = super().map_array(function, tasks)
        for number, job in enumerate(self.jobs, 4711):
            job.job_id = str(number)
        return new

    def kill(self, number, sign):
        assert sign == signal.SIGTERM
        self.jobs[number - 4711].ending = Result("interrupted", str(number))


class Inline(Executor):
    """Runs each job where it is submitted."""

    def map_array(self, function, tasks):
        self.endings = [function(task) for task in tasks]
        return super().map_array(function, tasks)


@pytest.fixture
def ctrl_c(monkeypatch):
    """The first wait of a sweep for its jobs hears Ctrl-C."""
    heard = []

    def sleep(seconds):
        if seconds and not heard:
            heard.append(seconds)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(cluster, "time", SimpleNamespace(sleep=sleep, monotonic=count().__next__))


def on_cluster(executor):
    return lambda tasks: by_submitit(tasks, executor, threads=1, num_local=None)


def tasks_of(output, number):
    return [a_task(a_point(output, seed=seed)) for seed in range(number)]


def ended(results):
    """What is yielded until Ctrl-C, and the lines that come with it."""
    found = {}
    try:
        for place, result in results:
            assert place not in found, "a point has two results"
            found[place] = result
    except KeyboardInterrupt as error:
        return found, error.args
    return found, None


def test_ctrl_c_on_a_cluster_leaves_its_jobs_and_says_how_to_look_at_and_end_them(
    tmp_path, capsys, ctrl_c
):
    points = [a_point(tmp_path, seed=seed) for seed in range(3)]
    with pytest.raises(KeyboardInterrupt):
        run_plan(make_plan(points, tmp_path), on_cluster(Executor(DONE)))
    said = capsys.readouterr().out.splitlines()
    at = said.index("stopped   the same command goes on")
    assert said[:at] == [
        "done        1 of 3  seed=0",
        "elsewhere   2 of 3  seed=1: left to job 71_1, which goes on",
        "elsewhere   3 of 3  seed=2: left to job 71_2, which goes on",
    ]
    assert said[at + 1 : at + 5] == [
        "jobs      2 stay on the cluster, waiting or running: squeue --jobs=71 shows them, "
        "scancel 71 ends them",
        "          the same command takes up what they have finished, and runs none of it twice",
        "          a job that has not begun is submitted again; the later of the two leaves the "
        "point, by the lock in the output folder",
        "points    1 done, 2 elsewhere",
    ]
    kept = {entry["overrides"][-1]: (entry["state"], entry["error"])
            for entry in entries_of(tmp_path)}  # fmt: skip
    assert kept["seed=1"] == ("elsewhere", "left to job 71_1, which goes on")


def test_the_same_command_takes_up_what_jobs_finished_and_leaves_what_they_run(tmp_path, capsys):
    finished, under_way, waiting = points = [a_point(tmp_path, seed=seed) for seed in range(3)]
    a_run(finished, "done", summary={"val/accuracy": 0.5})
    lock = FolderLock(a_run(under_way, "running", step=1))
    try:
        with claimed(tmp_path, waiting.hash) as is_ours:  # its first job begins now
            assert is_ours
            plan = make_plan(points, tmp_path)
            assert "1 done, 1 running in another process, 1 to begin" in describe(plan, [])[0]
            executor = Inline()
            rows = run_plan(plan, on_cluster(executor))
    finally:
        lock.release()
    assert [row.state for row in rows] == ["done", "elsewhere", "elsewhere"]
    assert [task.hash for task in executor.arrays[0]] == [waiting.hash, under_way.hash]
    said = capsys.readouterr().out
    assert "elsewhere 2 left to the process that runs them; the same command takes them up" in said


def test_what_a_job_finished_while_the_sweep_stopped_is_taken_up(tmp_path, capsys, monkeypatch):
    points = [a_point(tmp_path, seed=seed) for seed in range(2)]

    def launch(tasks):
        yield 0, Result("elsewhere", None, "left to job 71_0, which goes on")
        a_run(points[0], "done", summary={"val/accuracy": 0.5})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_plan(make_plan(points, tmp_path), launch)
    assert "points    1 done, 1 to do" in capsys.readouterr().out
    assert [entry["state"] for entry in entries_of(tmp_path)] == ["done", "to do"]


def test_a_job_that_ended_without_a_word_is_told_with_its_log_and_its_folder(tmp_path):
    tasks = tasks_of(tmp_path, 3)
    stopped = a_run(a_point(tmp_path, seed=1), "running", step=1)
    a_run(a_point(tmp_path, seed=2), "done", step=2)
    lost = [RuntimeError("OUT_OF_MEMORY\nmore") for _ in tasks]
    found, lines = ended(on_cluster(Executor(*lost))(tasks))
    assert lines is None
    error = f"{DIED} (OUT_OF_MEMORY); its log is 71_0_log.err"
    assert found[0] == Result("failed", None, error)
    assert (found[1].state, found[1].folder) == ("failed", str(stopped))
    assert found[2].state == "done", "its run had ended before its job was lost"


def test_jobs_of_this_machine_are_so_many_at_once_and_end_at_ctrl_c(tmp_path, monkeypatch):
    executor, slept = Processes(), []

    def sleep(seconds):
        slept.append(sum(not job.done() for job in executor.jobs))
        if len(slept) == 1:
            executor.jobs[0].ending = DONE
        if len(slept) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(cluster, "time", SimpleNamespace(sleep=sleep, monotonic=count().__next__))
    monkeypatch.setattr(cluster.os, "kill", executor.kill)
    found, lines = ended(by_submitit(tasks_of(tmp_path, 9), executor, threads=3, num_local=2))
    assert slept == [2, 1, 2]
    assert found == {0: DONE, 1: Result("interrupted", "4712"), 2: Result("interrupted", "4713")}
    assert lines == ()
    assert {task.threads for array in executor.arrays for task in array} == {3}


def test_a_process_that_does_not_end_is_not_waited_for_without_end(tmp_path, monkeypatch, ctrl_c):
    monkeypatch.setattr(cluster, "_PATIENCE_SECONDS", 0)
    monkeypatch.setattr(cluster.os, "kill", lambda number, sign: None)
    tasks = tasks_of(tmp_path, 3)
    found, lines = ended(by_submitit(tasks, Processes(), threads=1, num_local=2))
    assert found == {
        0: Result("elsewhere", None, "left to job 4711, which goes on"),
        1: Result("elsewhere", None, "left to job 4712, which goes on"),
    }
    assert lines == (
        "jobs      2 did not end within 0 s and still run here: ps -p 4711,4712 shows them, "
        "kill 4711 4712 asks them once more",
        "          the same command takes up what they have finished, and runs none of it twice",
    )


def test_jobs_that_the_cluster_refuses_are_told_in_its_words(tmp_path):
    class Refusing:
        def map_array(self, function, tasks):
            raise RuntimeError("sbatch: error: invalid partition\nspecified: nowhere")

    text = (
        "the cluster refused 2 jobs (sbatch: error: invalid partition specified: nowhere), so none "
        "of them was begun; mend the submitit.* words, and give the same command again"
    )
    with pytest.raises(ConfigError) as caught:
        list(on_cluster(Refusing())(tasks_of(tmp_path, 2)))
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("launcher", "parameters", "threads"),
    [
        ("submitit", {}, 1),
        ("submitit", {"cpus_per_task": 4}, 4),
        ("submitit", {"cpus_per_task": 4, "slurm_cpus_per_task": 8}, 8),
        ("submitit_local", {"slurm_cpus_per_task": 8}, 1),
    ],
)
def test_a_job_has_as_many_threads_as_it_asks_for_processors(launcher, parameters, threads):
    assert Settings(launcher, None, parameters).threads == threads


def test_a_cluster_is_asked_for_a_time_and_for_what_there_is(tmp_path, monkeypatch):
    class Auto:
        def __init__(self, folder, cluster):
            assert (folder, cluster) == (tmp_path / OWN_FOLDER / "submitit", "slurm")

        def update_parameters(self, **given):
            asked.append(given)
            if "nonsense" in given:
                raise NameError("Unknown argument\n  'nonsense'")

    asked = []
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=Auto))
    with pytest.raises(
        ConfigError, match=r"submitit would ask for 5 minutes; write submitit\.time"
    ):
        launcher_of(Settings("submitit"), tmp_path)
    launcher_of(Settings("submitit", 3, {"timeout_min": 60}), tmp_path)
    assert asked == [{"timeout_min": 60, "slurm_array_parallelism": 3}]
    with pytest.raises(ConfigError) as caught:
        launcher_of(Settings("submitit", None, {"slurm_time": 1, "nonsense": 2}), tmp_path)
    assert str(caught.value) == (
        "launcher=submitit: Unknown argument 'nonsense'; see submitit.* of dpexp sweep --help"
    )


@pytest.mark.parametrize("package", ["joblib", "submitit"])
def test_a_launcher_that_is_not_installed_is_told(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as caught:
        launcher_of(Settings(package, 2, {"timeout_min": 1}), tmp_path)
    assert str(caught.value) == (
        f"launcher={package}: the package {package} is not installed, and it starts the processes; "
        f"pip install 'dpexp[launchers]', or use launcher=inprocess"
    )


def test_in_this_process_an_interrupted_point_is_the_last(tmp_path, monkeypatch):
    states = iter(["done", "interrupted", "done"])
    monkeypatch.setattr(launchers, "run_point", lambda task: Result(next(states), None))
    found, lines = ended(launchers.in_this_process(tasks_of(tmp_path, 3)))
    assert [result.state for result in found.values()] == ["done", "interrupted"]
    assert lines == ()


def test_a_killed_process_loses_no_other_point(tmp_path, monkeypatch):
    # Nested, so that it travels to the processes by value.
    def placed(place, task):
        if place == 0 or not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return place, Result("done", f"seed {task.config.seed}")

    once = tmp_path / "died once"
    monkeypatch.setattr(pool, "_run_placed", placed)
    killed = a_run(a_point(tmp_path, seed=0), "running", step=1)
    found, lines = ended(pool.by_joblib(tasks_of(tmp_path, 2), 2))
    assert lines is None
    assert found == {0: Result("failed", str(killed), DIED), 1: Result("done", "seed 1")}


@pytest.fixture
def fake_pool(monkeypatch):
    """A pool in this process: place -> what becomes of each try, "dies" or a state."""
    fates, tried = {}, []

    def until_broken(left, jobs, begun, stop):
        for place in list(left):
            if stop:
                return
            begun += [near for near in list(left)[:jobs] if near not in begun]
            tried.append((place, jobs))
            fate = fates[place].pop(0)
            if fate == "stop":
                signal.raise_signal(signal.SIGINT)
                fate = "interrupted"
            if fate == "dies":
                return
            del left[place]
            yield place, Result(fate, None)

    monkeypatch.setattr(pool, "_until_broken", until_broken)
    return fates, tried


def test_of_two_under_way_the_one_that_dies_again_alone_has_failed(tmp_path, fake_pool):
    fates, tried = fake_pool
    fates |= {0: ["dies", "dies"], 1: ["done"], 2: ["diverged"]}
    found, lines = ended(pool.by_joblib(tasks_of(tmp_path, 3), 2))
    assert {place: result.state for place, result in found.items()} == {
        0: "failed", 1: "done", 2: "diverged",
    }  # fmt: skip
    assert tried == [(0, 2), (0, 1), (1, 1), (2, 2)]
    assert lines is None


def test_a_first_ctrl_c_begins_nothing_more_and_a_second_ends_at_once(tmp_path, fake_pool):
    fates, _ = fake_pool
    fates |= {0: ["done"], 1: ["stop"], 2: ["done"]}
    before = signal.getsignal(signal.SIGINT)  # ignored where tests run in the background
    found, lines = ended(pool.by_joblib(tasks_of(tmp_path, 3), 1))
    assert {place: result.state for place, result in found.items()} == {0: "done", 1: "interrupted"}
    assert lines == ()
    assert signal.getsignal(signal.SIGINT) is before
    with stopping.stop_requests(lambda: None) as heard:
        signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_sigterm_is_passed_on_to_the_processes_that_hold_points(tmp_path, monkeypatch):
    passed = []
    with stopping.stop_requests(lambda: passed.append("on")) as heard:
        signal.raise_signal(signal.SIGTERM)
    assert (heard, passed) == ([signal.SIGTERM], ["on"])
    killed = []
    monkeypatch.setattr(stopping.os, "kill", lambda number, sign: killed.append((number, sign)))
    theirs, ours, nobodys = tasks_of(tmp_path, 3)
    with claimed(tmp_path, theirs.hash), claimed(tmp_path, ours.hash):
        lock = tmp_path / OWN_FOLDER / theirs.hash / ".lock"
        lock.write_text(lock.read_text().replace(str(os.getpid()), "4711"))
        assert holder_of(tmp_path, nobodys.hash) is None
        stopping.stop_holders([theirs, ours, nobodys])
    assert killed == [(4711, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("state", "expected", "goes_on"),
    [(None, "failed", False), ("running", "failed", True), ("failed", "failed", False),
     ("done", "done", False), ("diverged", "diverged", False)],
)  # fmt: skip
def test_a_process_that_says_nothing_is_judged_by_its_folder(tmp_path, state, expected, goes_on):
    point = a_point(tmp_path)
    folder = str(a_run(point, state)) if state else None
    found = result_of_dead(a_task(point), "failed", DIED)
    assert (found.state, found.folder) == (expected, folder)
    if expected == "failed":
        assert found.error == DIED
        assert retry_command(point, found, " --config-dir x") == (
            f"dpexp train resume={folder}"
            if goes_on
            else shlex.join(["dpexp", "train", *point.words]) + " --config-dir x"
        )
