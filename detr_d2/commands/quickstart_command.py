"""The command line that the quickstarts share: options, the folder that is theirs, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..cli import quiet_libraries
from ..experiments.own_folders import settle_output
from ..experiments.timed_training import TrainingError
from ..files import hold_folder


def add_common_options(parser: argparse.ArgumentParser, *, output: str, max_iter: str) -> None:
    """Adds --output, --seed, --fresh and --max-iter; `max_iter` says whose iterations these are."""
    parser.add_argument("--output", default=output, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of data, initialisation and training (default: 0)")
    parser.add_argument("--fresh", action="store_true", help="delete what was trained there, and train again")
    parser.add_argument("--max-iter", type=int, metavar="N", help=max_iter)


def run_quickstart(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    work: Callable[[argparse.Namespace, Sequence[str]], int],
    *,
    counts: Sequence[str] = (),
    check: Callable[[argparse.Namespace], object] = lambda _: None,
) -> int:
    """Reads the command line, checks its numbers, does the work, and tells the user how it ended.

    Args:
        parser: with the options of `add_common_options` and those of `counts`.
        argv: what it parses; the process's own arguments when None.
        work: takes the options and the arguments as they were given; returns the exit code.
        counts: further options that must be at least 1.
        check: what else can be wrong with the options, before anything is written.

    Returns:
        The exit code; 1 when a training fails.

    Raises:
        ValueError: a number is too small.
    """
    args = parser.parse_args(argv)
    for name, least in (*((x, 1) for x in (*counts, "max_iter")), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}, expected at least {least}")
    quiet_libraries()
    check(args)
    command = parser.prog.split()[-1]
    settings = {key: value for key, value in vars(args).items() if key not in ("output", "fresh")}
    defaults = {key: parser.get_default(key) for key in settings}
    output = settle_output(Path(args.output), command, settings, defaults, fresh=args.fresh)
    args.output = str(output)
    try:
        with hold_folder(output):
            return work(args, sys.argv[1:] if argv is None else argv)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        raise
