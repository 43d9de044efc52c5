"""`python -m detr_d2 <command>`, also the console script `detr-d2`: imports only the command asked for."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence

import detr_d2

from . import cli

# Command -> what it does.
COMMANDS = {
    "attention": "show where a DETR looks in an image: maps of its encoder and of each detection",
    "benchmark": "time models, training steps, criterion, mapper and evaluation against other implementations",
    "check-env": "show versions, the GPU and which optional parts are present",
    "check-recipe": "compare a config with the recipe of the paper, setting by setting",
    "compare": "compare detectors on the same images, with and without NMS: one page",
    "convergence": "train detectors for the same time with several seeds and draw how fast they learn",
    "convert": "convert checkpoints between the authors' code, detectron2 and Hugging Face",
    "install-detectron2": "install detectron2 from PyPI or a source, unless it is there",
    "make-shapes": "make a dataset of coloured shapes with COCO annotations",
    "matching": "show how stable the assignment of queries is over checkpoints",
    "predict": "detect objects in images, folders and videos",
    "queries": "show where the boxes of each object query fall over a dataset",
    "quickstart": "train two detectors on shapes or real images, or masks on shapes, and compare them on one page",
    "train": "train or evaluate any detectron2 config (the same as train_net.py)",
}

# Other names of commands -> what they stand for.
ALIASES = {"quickstart-real": ["quickstart", "real"], "quickstart-segmentation": ["quickstart", "segmentation"]}


def usage() -> str:
    """The help text: one line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            f"detr_d2 {detr_d2.__version__}: DETR for detectron2",
            "",
            "usage: python -m detr_d2 <command> [options]",
            "",
            *lines,
            "",
            "`python -m detr_d2 <command> --help` shows the options of a command.",
            "With the environment variable DETR_D2_TRACEBACK=1, an error shows where it came from.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: command and its arguments; the process's own when None.

    Returns:
        The exit code: 0, the command's own, or 2 for a mistake of the user.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(detr_d2.__version__)
        return 0
    name, *rest = [*ALIASES.get(arguments[0], arguments[:1]), *arguments[1:]]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, [*COMMANDS, *ALIASES], n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(COMMANDS)}."
        return cli.fail(f"there is no command {name!r}; {hint}")
    if not cli.is_light([name, *rest]) and detr_d2.import_problem is not None:
        return cli.fail(
            f"{name!r} needs torch and detectron2, which cannot be imported here ({detr_d2.import_problem}); "
            "use the Python of .venv (`. .venv/bin/activate`), or see `python -m detr_d2 check-env`."
        )
    return cli.run_command(name, rest)


if __name__ == "__main__":
    sys.exit(main())
