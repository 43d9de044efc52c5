"""`python -m detr_d2 check-env`: versions, the GPU, and what each missing optional part costs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..installation.check_env import collect, render


def build_parser() -> argparse.ArgumentParser:
    """The command line of check-env."""
    return argparse.ArgumentParser(
        prog="python -m detr_d2 check-env",
        description="Show versions, the GPU, and which optional parts are present and what each missing one costs. "
        "Exit code 1 when something required is broken.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the report; 1 when something required is broken, with one sentence for each on stderr."""
    build_parser().parse_args(argv)
    groups = collect()
    print(render(groups))
    problems = [part.problem for _, parts in groups for part in parts if part.problem]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print("Something required is broken." if problems else "Everything required is there.")
    return 1 if problems else 0
