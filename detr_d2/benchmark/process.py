"""Time and memory of Python statements in fresh processes: imports, and reading a COCO file at the start of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..compare.cost.fresh_process import run_python

# Runs every statement of sys.argv[1] in turn; prints the seconds and the peak memory after each.
_PROGRAM = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
def peak():
    try:
        with open("/proc/self/status") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
steps = []
for statement in json.loads(sys.argv[1]):
    start = time.perf_counter()
    exec(statement)
    steps.append({"seconds": time.perf_counter() - start, "peak": peak()})
print("steps:" + json.dumps(steps))
"""


@dataclass(frozen=True)
class Step:
    """What one statement took.

    Attributes:
        seconds: wall time.
        peak_mb: largest resident size of the process so far, in MB of 10^6 bytes.
    """

    seconds: float
    peak_mb: float


def run_statements(statements: Sequence[str], environment: Mapping[str, str] | None = None) -> list[Step]:
    """Runs statements one after the other in a fresh process.

    Args:
        statements: Python source.
        environment: variables to set in it.

    Raises:
        RuntimeError: one of them failed; the message is the last line of its traceback.
    """
    steps = run_python(["-c", _PROGRAM, json.dumps(list(statements))], "steps:", environment)
    return [Step(x["seconds"], x["peak"] / 1e6) for x in json.loads(steps)]
