"""The console script `dpexp`: a command, then overrides key=value. Torch is imported to compute."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dpexp import __version__
from dpexp.cli import help as texts
from dpexp.errors import AccountingError, ConfigError, DpexpError
from dpexp.schema import did_you_mean

INTERRUPTED = 130


@dataclass
class Words:
    """The words after a command, options taken out.

    Attributes:
        overrides: What is left, key=value or not.
        asks_help: --help was among them.
        asks_config: --cfg was among them.
        config_dir: Folder given with --config-dir.
    """

    overrides: list[str] = field(default_factory=list)
    asks_help: bool = False
    asks_config: bool = False
    config_dir: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are lines on stderr, not tracebacks."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_verbose = bool({"-v", "--verbose"} & set(arguments) or os.environ.get("DPEXP_TRACEBACK"))
    arguments = [word for word in arguments if word not in ("-v", "--verbose")]
    try:
        return _dispatch(arguments)
    except DpexpError as error:
        if is_verbose:
            traceback.print_exc()
        sys.stderr.write(_as_lines(error))
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader left, as in `dpexp budget ... | head -1`; writing on would fail at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        sys.stdout.write(texts.general())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"dpexp {__version__}\n")
        return 0
    command, *rest = arguments
    if command not in RUNNERS:
        raise ConfigError(_unknown_command(command))
    words = _take_options(rest)
    if words.asks_help:
        sys.stdout.write(_help_of(command, words))
        return 0
    if words.asks_config and command != "train":
        raise ConfigError(f"--cfg: only train has a configuration to print; dpexp {command} --help")
    return RUNNERS[command](words)


def _unknown_command(command: str) -> str:
    if "=" in command:
        return f"{command}: a command comes first; write dpexp train {command}"
    return (
        f"{command}: no such command; {did_you_mean(command, RUNNERS)}"
        f"commands: {', '.join(RUNNERS)}"
    )


def _take_options(rest: Sequence[str]) -> Words:
    """Sort options from overrides.

    Raises:
        ConfigError: If --config-dir names no folder.
    """
    words = Words()
    queue = list(rest)
    while queue:
        word = queue.pop(0)
        if word in ("--help", "-h"):
            words.asks_help = True
        elif word == "--cfg":
            words.asks_config = True
        elif word.split("=")[0] == "--config-dir":
            _, is_pair, value = word.partition("=")
            words.config_dir = Path(value if is_pair or not queue else queue.pop(0))
        else:
            words.overrides.append(word)
    if words.config_dir is not None and not words.config_dir.is_dir():
        raise ConfigError(
            f"--config-dir {words.config_dir}: no such folder; give one that holds model/, "
            f"dataset/, experiment/ and so on, as conf/ does"
        )
    return words


def _help_of(command: str, words: Words) -> str:
    if command == "budget":
        from dpexp.cli import budget

        return budget.HELP
    from dpexp.cli.compose import group_options

    return texts.of_command(command, group_options(words.config_dir))


def _train(words: Words) -> int:
    resumed = [word for word in words.overrides if word.startswith("resume=")]
    if resumed and resumed[-1] != "resume=null":
        return _resume(resumed[-1].partition("=")[2], words)
    from dpexp.cli.compose import compose

    config = compose(words.overrides, config_dir=words.config_dir)
    if words.asks_config:
        sys.stdout.write(texts.as_yaml(config))
        return 0
    from dpexp.train import run

    run.run(config, command=["dpexp", "train", *words.overrides])
    return 0


def _resume(folder: str, words: Words) -> int:
    from dpexp.cli.compose import RESUME_KEYS, changes

    rest = [word for word in words.overrides if not word.startswith("resume=")]
    overrides = changes(rest, command="train", only=RESUME_KEYS, config_dir=words.config_dir)
    if not folder or not Path(folder).is_dir():
        raise ConfigError(f"resume={folder}: no such folder; give the run folder that stopped")
    from dpexp.train import run

    run.resume(Path(folder), overrides)
    return 0


def _eval(words: Words) -> int:
    from dpexp.cli import saved

    return saved.run(words.overrides, words.config_dir)


def _sweep(words: Words) -> int:
    from dpexp.cli import sweep

    return sweep.run(words.overrides, words.config_dir)


def _budget(words: Words) -> int:
    from dpexp.cli import budget

    return budget.run(words.overrides)


def _selfcheck(words: Words) -> int:
    from dpexp.cli.compose import compose

    config = compose(words.overrides, command="selfcheck", config_dir=words.config_dir)
    # Every parameter is randomized there, so that no zero gradient hides a fault.
    config.model.pretrained = False
    from dpexp import selfcheck

    return 0 if selfcheck.run(config) else 1


def _bench(words: Words) -> int:
    from dpexp.cli import bench

    return bench.run(words.overrides, words.config_dir)


def _audit(words: Words) -> int:
    from dpexp.cli import audit

    return audit.run(words.overrides, words.config_dir)


def _theory(words: Words) -> int:
    from dpexp.cli import theory

    return theory.run(words.overrides)


def _report(words: Words) -> int:
    from dpexp.cli import report

    return report.run(words.overrides)


def _doctor(words: Words) -> int:
    if words.overrides:
        raise ConfigError(f"{words.overrides[0]}: doctor takes no keys; write dpexp doctor")
    from dpexp import doctor

    sys.stdout.write(doctor.report())
    return 0


RUNNERS: dict[str, Callable[[Words], int]] = {
    "train": _train,
    "eval": _eval,
    "sweep": _sweep,
    "budget": _budget,
    "selfcheck": _selfcheck,
    "bench": _bench,
    "audit": _audit,
    "theory": _theory,
    "report": _report,
    "doctor": _doctor,
}


def _as_lines(error: DpexpError) -> str:
    """Return an error as lines; where each line is a problem of its own, each is marked as one."""
    lines = str(error).splitlines()
    if isinstance(error, (ConfigError, AccountingError)):
        return "".join(f"error: {line}\n" for line in lines)
    return "error: " + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
