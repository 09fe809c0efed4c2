"""Bad input to each command: a line a problem on stderr, exit code 2, and nothing on disk changed.

What goes wrong in train, budget and bench beside this is in test_cli.py, test_cli_budget.py,
bench/test_words.py, train/test_failures.py and train/test_resume.py.
"""

from pathlib import Path

import pytest

from dpexp.cli.main import RUNNERS, main

# For each command, what is typed after it, and what the lines on stderr must hold, one each. {made}
# is a folder with: run (a finished run), empty, notes (a folder of something else), half (a
# configuration alone), text.pt (no weights), list.yaml (no mapping).
WRONG: dict[str, list[tuple[str, list[str]]]] = {
    "train": [
        ("noise_multiplier=-1", ["noise_multiplier=-1.0: sigma must be finite and at least 0"]),
        ("noise_multiplier=inf", ["noise_multiplier=inf: sigma must be finite"]),
        ("batch=0", ["batch=0: the expected batch size must be at least 1"]),
        ("clipping.norm=inf", ["clipping.norm=inf: must be finite and above 0"]),
        ("clipping.function=autos clipping.stability=0", ["clipping.stability=0.0: must be"]),
        ("clipping.algorithm=ghost clipping.style=layerwise", ["it can only clip flat; use auto"]),
        ("clipping.algorithm=nonprivate", ["any epsilon would be false"]),
        ("protocol=published noise.secure=true", ["shuffled batches carry no guarantee"]),
        ("sampling=shuffle", ["sampling=shuffle: must be one of"]),
        ("protocol=vaild", ["protocol=vaild: must be one of valid, published"]),
        ("optimizer=adam optimizer.momentum=0.9", ["only sgd has momentum"]),
        ("optimizer.lr=nan", ["optimizer.lr=nan: must be a number"]),
        ("seed=-1", ["seed=-1: must be finite and at least 0"]),
        ("model.trainable=nosuch*", ["'nosuch*' matches no parameter"]),
        ("model.checkpoint={made}/text.pt", ["text.pt: not a checkpoint"]),
        ("model.checkpoint=/nowhere.pt", ["model.checkpoint=/nowhere.pt: no such file"]),
        ("experiment=nosuch", ["experiment=nosuch: no such experiment"]),
        ("config={made}/list.yaml", ["holds no keys"]),
        ("dataset=parquet", ["dataset.root is not given"]),
        ("eps=-1 steps=0 batch=x", ["batch=x: must be", "eps=-1.0: eps", "steps=0: must be"]),
    ],
    "train resume=": [
        ("", ["resume=: no such folder; give the run folder that stopped"]),
        ("{made}/empty", ["has no status.json, so it is not a run's"]),
        ("{made}/notes", ["has no status.json, so it is not a run's"]),
        ("{made}/half", ["has no status.json, so it is not a run's"]),
        ("{made}/text.pt", ["no such folder; give the run folder that stopped"]),
        ("{made}/run eps=2", ["eps=2: would change what the run computes"]),
        ("{made}/run delta=1e-6 batch=3", ["delta=1e-6: would change", "batch=3: would change"]),
        ("{made}/run noise.secure=true", ["noise.secure=true: would change"]),
        ("{made}/run micro_batch=many", ["micro_batch=many: must be a whole number"]),
        ("{made}/run clippin.norm=2", ["did you mean clipping.norm=2?"]),
    ],
    "eval": [
        ("eps=1", ["eps=1: no such folder or file"]),
        ("{made}/empty", ["no such file"]),
        ("{made}/half", ["has no status.json, so it is not a run's"]),
        ("{made}/text.pt", ["text.pt: not a checkpoint"]),
        ("{made}/run eps=1", ["eps=1: changes nothing about measuring saved weights"]),
        ("{made}/run {made}/run", ["not an override; write key=value"]),
        ("{made}/run micro_batch=few", ["micro_batch=few: must be a whole number"]),
        ("{made}/run device=tpu", ["device=tpu: must be auto, cpu, cuda"]),
        ("{made}/run dataset=imagefolder dataset.root=/nowhere", ["/nowhere"]),
        ("{made}/run model.name=nosuch", ["model.name=nosuch: no such network"]),
        ("{made}/run seed=1 delta=1", ["seed=1: changes nothing", "delta=1: changes nothing"]),
    ],
    "sweep": [
        ("seed=0,0", ["seed=0,0: 0 is there twice, and would be the same run twice"]),
        ("seed=0,1 eps=-1,1", ["eps=-1.0: epsilon bounds the privacy loss"]),
        ("clippin.norm=1,2", ["clippin.norm=1: no such key", "clippin.norm=2: no such key"]),
        ("seed=0,1 eps=1,2,3 zip=seed,eps", ["seed has 2, eps has 3 values"]),
        ("seed=0 launcher=inprocess jobs=2", ["one process runs one point at a time"]),
        ("seed=0 jobs=0 launcher=slurm", ["launcher=slurm: must be one of", "jobs=0: at least 1"]),
        ("seed=0 resume={made}/run", ["a sweep goes on by itself with what has stopped"]),
        ("device=cpu,auto", ["what differs changes nothing that is computed; leave one out"]),
    ],
    "budget": [
        ("eps=1 batch=100 n=1000", ["epochs or steps is missing"]),
        ("eps=1 batch=100 n=1000 steps=3 epochs=2", ["epochs=2.0 and steps=3"]),
        ("eps=1 batch=100 n=1000 steps=3 delta=0", ["delta=0.0: delta is a probability"]),
        ("eps=1 batch=1.5 n=1000 steps=3", ["batch=1.5: must be a whole number"]),
        ("noise_multiplier=-2 batch=100 n=1000 steps=3", ["sigma must be finite and at least 0"]),
        ("eps=1 batch=100 n=1000 dataset=mnist steps=3", ["n=1000 and dataset=mnist: two sizes"]),
        ("eps=1 batch=9 dataset=mnist dataset.validation=70000 steps=3", ["none would be left"]),
        ("eps=1 batch=100 n=1000 steps=3 seed=1", ["seed=1: no such key"]),
        ("eps=1 batch=100 n=1000 epochs=0", ["epochs=0.0: must be finite and above 0"]),
        ("--eps 1", ["--eps 1: keys take no dashes", "eps or", "batch is", "epochs or", "n or"]),
    ],
    "selfcheck": [
        ("digits_cnn", ["digits_cnn: not an override; write key=value"]),
        ("model=nosuch", ["model=nosuch: no such model; known: "]),
        ("model.image_size=0", ["model.image_size=0: must be at least 1 pixel"]),
        ("model.norm=batch", ["model.norm=batch: must be one of groupnorm, keep"]),
        ("model.trainable=nosuch*", ["'nosuch*' matches no parameter"]),
        ("model=vit model.image_size=3", ["takes none of the input sizes tried"]),
        ("clipping.norm=-1 seed=x", ["seed=x: must be", "clipping.norm=-1.0: must be"]),
    ],
    "bench step": [
        ("batch=0", ["batch=0: the expected batch size"]),
        ("rounds=-1", ["rounds=-1: a median needs at least 1 round"]),
        ("styles=", ["styles=: nothing to measure"]),
        ("device=tpu", ["device=tpu: must be auto, cpu, cuda"]),
        ("model.name=nosuch", ["model.name=nosuch: no such network"]),
    ],
    "bench plan": [
        ("algorithms=nosuch", ["algorithms=nosuch: no such algorithm"]),
        ("model=nosuch", ["model=nosuch: no such model"]),
        ("clipping.plan=fast", ["clipping.plan=fast: must be one of balanced, time"]),
        ("clipping.workspace_mib=0", ["clipping.workspace_mib=0.0: must be finite and above 0"]),
    ],
    "bench layers": [
        ("rounds=two", ["rounds=two: must be a whole number"]),
        ("device=cuda:99", ["device=cuda:99: "]),
        ("dataset=mnist", ["dataset=mnist: changes nothing that bench measures"]),
        ("seed=-1 batch=0", ["batch=0: the expected", "seed=-1: must be"]),
    ],
    "bench max-batch": [
        ("memory_gib=-1", ["memory_gib=-1.0: must be finite and above 0 GiB"]),
        ("memory_gib=lots", ["memory_gib=lots: must be a number"]),
        ("algorithms=auto,", ["algorithms=: no such algorithm"]),
        ("model.image_size=0", ["model.image_size=0: must be at least 1 pixel"]),
    ],
    "audit": [
        ("audit.kind=black_box", ["audit.kind=black_box: no such audit; known: "]),
        ("audit.canaries=0", ["audit.canaries=0: an audit needs at least"]),
        ("audit.trials=few", ["audit.trials=few: must be a whole number"]),
        ("audit.confidence=2", ["audit.confidence=2.0: the chance"]),
        ("audit.kinds=both", ["did you mean audit.kind=both?"]),
        ("gradient", ["gradient: not an override; write key=value"]),
        ("dp=off", ["dp=off: no finite epsilon is claimed"]),
        ("protocol=published", ["protocol=published: shuffled batches claim no epsilon"]),
        ("eps=-1 audit.images=-1", ["eps=-1.0: epsilon bounds", "audit.images=-1: an audit needs"]),
    ],
    "theory": [
        ("claims=A99", ["claims=A99: no such claim"]),
        ("claims=A10", ["claims=A10: is put to the test by training runs"]),
        ("seeds=5 states=0", ["states=0: a claim needs a state", "seeds=5: seeds come in pairs"]),
        ("eps=1", ["eps=1: no such key"]),
    ],
    "report": [
        ("/nowhere", ["/nowhere: no such folder or file, so there are no runs to report on"]),
        ("{made}/empty", ["no run here has ended, so there is nothing to report on"]),
        ("{made}/notes eps=1", ["eps=1: no such key"]),
        ("{made}/half", ["no run here has ended", "has no status.json"]),
    ],
    "doctor": [
        ("eps=1", ["eps=1: doctor takes no keys; write dpexp doctor"]),
        ("now", ["now: doctor takes no keys"]),
        ("--fix", ["--fix: doctor takes no keys"]),
        ("--cfg", ["--cfg: only train has a configuration to print"]),
        ("--config-dir /nowhere", ["--config-dir /nowhere: no such folder"]),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Folders and files that a command may be given by mistake, and one run to be given rightly."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("empty", "notes", "half"):
        (folder / name).mkdir()
    (folder / "notes" / "a.txt").write_text("something else")
    (folder / "half" / "config.yaml").write_text("seed: 0\n")
    (folder / "text.pt").write_text("no weights")
    (folder / "list.yaml").write_text("- 1\n")
    words = ["steps=1", "batch=64", "noise_multiplier=1", "wandb.mode=disabled"]
    assert main(["train", *words, f"output={folder / 'outputs'}"]) == 0
    (run,) = (folder / "outputs").iterdir()
    run.rename(folder / "run")
    (folder / "outputs").rmdir()
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder: of work, of the user and of every cache."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(place))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return place


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When every file was written, and what it holds."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


CASES = [(command, *case) for command, cases in WRONG.items() for case in cases]


@pytest.mark.parametrize(("command", "words", "parts"), CASES, ids=lambda value: str(value)[:60])
def test_a_line_a_problem_and_nothing_on_disk(command, words, parts, made, place, capsys):
    before = contents(made)
    typed = f"{command}{words}" if command.endswith("=") else f"{command} {words}"
    code = main(typed.format(made=made).split())
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == len(parts), captured.err
    for line, part in zip(lines, parts, strict=True):
        assert line.startswith("error: ")
        assert part in line
    assert list(place.iterdir()) == []
    assert contents(made) == before


def test_the_check_of_the_disk_can_fail(made, place):
    """A good command leaves something in the same place."""
    assert main(["budget", "noise_multiplier=1", "batch=10", "n=100", "steps=1"]) == 0
    assert list(place.iterdir()) != []


def test_every_command_has_bad_input_here():
    from dpexp.cli.bench import PARTS

    assert {command.split()[0] for command in WRONG} == set(RUNNERS)
    assert {f"bench {part}" for part in PARTS} <= WRONG.keys()
    assert min(map(len, WRONG.values())) >= 4
