"""How a run or an evaluation ends, in its folder and on the screen."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dpexp.errors import RunFailedError, RunFolderError
from dpexp.metrics.calibration import calibration
from dpexp.metrics.diagram import save_reliability_diagram
from dpexp.record.folder import RunFolder
from dpexp.train.evaluate import Evaluation


@contextmanager
def recorded(folder: RunFolder) -> Iterator[None]:
    """Write into the folder how the block failed, if it does.

    Raises:
        RunFailedError: In place of any other error.
        KeyboardInterrupt: If the block was interrupted.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        with suppress(RunFolderError):
            folder.fail(error, "interrupted")
        raise
    except Exception as error:
        with suppress(RunFolderError):  # as on a full disk; the first error is the one to tell
            folder.fail(error)
        reason = next(iter(str(error).splitlines()), "")
        raise RunFailedError(
            f"the run failed ({type(error).__name__}: {reason}); where, is in "
            f"{folder.path / 'error.txt'}, and its last checkpoint, if any, can be resumed"
        ) from error


def write_reliability(folder: RunFolder, found: Evaluation, *, title: str, subtitle: str) -> None:
    """Write the bins and draw them, and every measure with its interval and calibrated band.

    Nothing for a model that has diverged or says no confidence. Intervals take about a second on
    10,000 samples, so this is for the last evaluation alone.
    """
    if found.reliability is None:
        return
    folder.write_document("reliability.json", found.reliability.to_dict())
    folder.write_document("calibration.json", calibration(found.logits, found.labels).to_dict())
    save_reliability_diagram(
        found.reliability, folder.reliability_figure, title=title, subtitle=subtitle
    )


def measures(found: Evaluation) -> str:
    """Return what was measured on the test set, in one line."""
    return f"test      {found.task.words(found.metrics)}"
