"""What is paid before the work: the import, and reading a large COCO file; time and memory in fresh processes."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from ..compare.cost.fresh_process import run_python
from .coco import write_coco_file
from .report import print_machine, write_report

# What a program pays for anyway when it uses detectron2's models; `import detectron2` alone imports torch only.
IMPORTS = ("import detectron2", "import detectron2.modeling", "import detr_d2")

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
    steps.append({"seconds": time.perf_counter() - start, "peak_mb": peak() / 1e6})
print("steps:" + json.dumps(steps))
"""


def run_statements(statements: Sequence[str], environment: Mapping[str, str] | None = None) -> list[dict[str, float]]:
    """Runs statements one after the other in a fresh process.

    Args:
        statements: Python source.
        environment: variables to set in it.

    Returns:
        Of each "seconds", wall time, and "peak_mb", the largest resident size of the process so far, in MB of 10^6
        bytes.

    Raises:
        RuntimeError: one of them failed; the message is the last line of its traceback.
    """
    return json.loads(run_python(["-c", _PROGRAM, json.dumps(list(statements))], "steps:", environment))


def imports(args: argparse.Namespace) -> int:
    """What `import detr_d2` adds to the import of detectron2's models, in fresh processes."""
    rounds = tqdm(range(args.repeat), unit="process", leave=False, disable=not sys.stderr.isatty())
    found = [run_statements(IMPORTS) for _ in rounds]
    steps = dict(zip(IMPORTS, zip(*found, strict=True), strict=True))
    _print({name: {**x[0], "seconds": statistics.median(y["seconds"] for y in x)} for name, x in steps.items()})
    print_machine(args)
    write_report({"imports": [{"name": name, "steps": x} for name, x in steps.items()]}, args)
    return 0


def _print(rows: Mapping[str, Mapping[str, float]]) -> None:
    """A line for what `run_statements` says of each."""
    cells = [(name, f"{x['seconds']:.3f} s", f"{x['peak_mb']:.0f} MB") for name, x in rows.items()]
    alignment = ("left", "right", "right")
    print(tabulate(cells, ["", "time", "peak memory"], tablefmt="plain", disable_numparse=True, colalign=alignment))


def coco_file(args: argparse.Namespace) -> int:
    """Time and memory of what reads a large COCO file when a training starts, each in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "instances.json")
        write_coco_file(
            path,
            images=args.images,
            annotations=args.annotations,
            num_classes=args.classes,
            polygon_points=args.points,
            seed=args.seed,
        )
        size = path.stat().st_size / 1e6
        print(f"{args.images} images, {args.annotations} annotations, {size:.0f} MB")
        table = f"from detr_d2.data.coco.annotation_table import read_coco_table; read_coco_table({str(path)!r})"
        loader = (
            "from detr_d2.data.coco.dataset import CocoDataset\n"
            f"records = CocoDataset('benchmark', {str(path)!r}, {folder!r}, '')()"
        )
        stock = (
            "from detectron2.data.datasets import load_coco_json\n"
            f"load_coco_json({str(path)!r}, {folder!r}, 'benchmark')"
        )
        serialised = "from detectron2.data import DatasetFromList\nlist_ = DatasetFromList(records, copy=False)"
        works = {
            "checks, first time": [table],
            "checks, from the cache": [table],
            "checks, first time, and loader": [f"{table}\n{loader}"],
            "loader": [loader],
            "... and its copy for the workers": [loader, serialised],
            "detectron2's loader, without checks": [stock],
        }
        caches = dict.fromkeys(works, folder) | {"checks, first time, and loader": str(Path(folder, "empty"))}
        rows = {
            # of the last statement, after the imports
            name: run_statements(["import detr_d2", *statements], {"FVCORE_CACHE": caches[name]})[-1]
            for name, statements in works.items()
        }
    _print(rows)
    print_machine(args)
    write_report({"file_mb": size, "steps": rows}, args)
    return 0
