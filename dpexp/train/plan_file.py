"""How each use of a parameter is clipped, in the run folder: sums round alike only by one plan."""

from collections.abc import Mapping
from typing import Any

from dpexp.errors import RunFolderError
from dpexp.record.folder import RunFolder
from dpexp.train.job import Job

NAME = "plan.json"


def write_plan(job: Job, folder: RunFolder) -> bool:
    """Write how each use was clipped so far; return whether there was anything to say."""
    clipping = job.config.clipping
    uses = job.engine.plan_rows() if job.engine else []
    document = {
        "algorithm": clipping.algorithm if job.engine else "none",
        "plan": clipping.plan,
        "micro_batch": job.micro_batch,
        "uses": uses,
    }
    folder.write_document(NAME, document)
    return bool(uses)


def read_plan(folder: RunFolder) -> Mapping[str, Any]:
    """Return how the run clipped so far; nothing if it stopped before it had a plan.

    Raises:
        RunFolderError: If the file says something else.
    """
    if not (folder.path / NAME).exists():
        return {}
    plan = folder.read_document(NAME)
    is_whole = isinstance(plan.get("micro_batch"), int) and isinstance(plan.get("uses"), list)
    if not is_whole:
        raise RunFolderError(
            f"{folder.path / NAME} does not say micro_batch and uses: it is damaged, or of "
            f"another version of dpexp, and sums would round in another way than before. Restore "
            f"the file, or start a new run"
        )
    return plan
