"""Plant each fault of tests/reference/privacy_bugs.py and audit: what is found, and by what.

    python scripts/audit_bugs.py results/audit/bugs.json
    python scripts/audit_bugs.py results/audit/bugs.json eps=2 audit.trials=200

Words after the file are those of `dpexp audit`. A fault is planted in the engine, or in what it
draws from; the audit is as it is. Exit 1 if a fault is not found, or if the
engine without a fault passes its claim.
"""

import importlib.util
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dpexp.audit.attack import lower_bound
from dpexp.audit.audit import Audit, perform
from dpexp.audit.subject import load_materials
from dpexp.cli.audit import read
from dpexp.record.provenance import describe_provenance
from dpexp.record.strict_json import write_json

BUGS_FILE = Path(__file__).resolve().parents[1] / "tests" / "reference" / "privacy_bugs.py"
# Several micro-batches in every step, so that what goes wrong between them shows.
WORDS = ("audit.canaries=6000", "audit.trials=250", "micro_batch=128")


def main(argv: list[str]) -> int:
    """Audit every fault and write the file."""
    path, *words = argv
    request = read([*WORDS, *words])
    materials = load_materials(request.config, print)
    rows = []
    for name, bug in {"none": nullcontext, **planted()}.items():
        with bug():
            audit = perform(request, materials, lambda line: None)
        rows.append({"fault": name, **found(audit)})
        print(rows[-1], flush=True)
        write_json(
            Path(path),
            {
                "provenance": describe_provenance(["scripts/audit_bugs.py", *argv]),
                "words": [*WORDS, *words],
                "claimed_epsilon": audit.parts[0].claimed,
                "delta": audit.deal.delta,
                "confidence": audit.confidence,
                "rows": rows,
            },
        )
    wrong = [row["fault"] for row in rows if row["is_found"] == (row["fault"] == "none")]
    print("not as it should be:", ", ".join(wrong) or "nothing")
    return 1 if wrong else 0


def planted() -> dict[str, Any]:
    """Return the faults by name: each, called, is in force for a block."""
    spec = importlib.util.spec_from_file_location("privacy_bugs", BUGS_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BUGS


def found(audit: Audit) -> dict[str, Any]:
    """Return the largest lower bound of each part, and what gave it."""
    parts = {
        part.name: {"epsilon_lower": lower_bound(part.best), "attack": part.best.name}
        for part in audit.parts
    }
    if audit.run:
        parts |= {
            f"one run, {part.name}": {
                "epsilon_lower": part.best.epsilon,
                "attack": part.best.score,
            }
            for part in audit.run.parts
        }
    return {"is_found": audit.is_violated, "parts": parts}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
