"""How a command starts and ends: what it needs, and its mistakes as one line on stderr with exit code 2."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

from .files.output_folder import freeing_folders

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# Commands that need neither torch nor detectron2 -> the option with which this is so; "" without any.
LIGHT = {"check-env": "", "install-detectron2": "", "compare": "--from-json"}


def is_light(arguments: Sequence[str]) -> bool:
    """Whether a command works without torch and detectron2.

    Args:
        arguments: its name and what follows it.
    """
    option = LIGHT.get(arguments[0]) if arguments else None
    given = takewhile(lambda x: x != "--opts", arguments)  # everything behind --opts is its own
    return option == "" or option in [x.partition("=")[0] for x in given]


def own_arguments() -> list[str]:
    """Name and arguments of the command that this process is; empty in any other program.

    Programs may write what they like into `sys.argv`, and call their files as they like: what counts is what Python was
    started with, and of the script that pip makes also that it does nothing but call the command.
    """
    argv = getattr(sys, "argv", [])
    started_with = sys.orig_argv[-len(argv) :]
    if not argv or not started_with or started_with[1:] != argv[1:]:
        return []
    if argv[0] == "-m":  # until the module is found, which is after the import of its package
        return argv[1:] if started_with[0] == "detr_d2" else []
    script = Path(argv[0])
    if started_with[0] != argv[0] or script.name != "detr-d2" or not script.is_file():
        return []
    return argv[1:] if b"from detr_d2.__main__ import main" in script.read_bytes() else []


def quiet_libraries() -> None:
    """Hides warnings that libraries address to their own developers; errors and our own messages stay."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|detectron2|fvcore)\..*")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|detectron2|fvcore)\..*")
    logging.getLogger("torch").setLevel(logging.ERROR)


def fail(message: str) -> int:
    """Prints `error: message` as one line on stderr and returns the exit code for it."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return USER_ERROR


def run_command(name: str, argv: Sequence[str] | None = None) -> int:
    """Imports a command and runs it; a package that it needs and that cannot be imported is the user's to mend.

    Args:
        name: of the command; `a-b` is the module detr_d2.commands.a_b.
        argv: its arguments, see `run`.

    Returns:
        The exit code.
    """
    try:
        module = importlib.import_module(f"detr_d2.commands.{name.replace('-', '_')}")
    except ImportError as error:
        package = str(error.name or "").partition(".")[0]
        if package in ("", "detr_d2") or _shows_tracebacks():
            raise
        return fail(
            f"{name!r} needs {package}, which cannot be imported here ({error}): install the requirements again "
            "(`pip install .` in the checkout), or see `python -m detr_d2 check-env`"
        )
    return run(module.main, argv)


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Runs a command and turns what its user did wrong into one sentence; frees its folders in the end.

    ValueError, OSError and FloatingPointError carry sentences for the user, and so does an ImportError raised by hand
    (it names the extra to install; one of the import system has a `name`). Other exceptions are defects and pass
    through. `DETR_D2_TRACEBACK=1` lets everything pass.

    Args:
        main: the command; gets `argv`, returns the exit code.
        argv: its arguments, without the command's own name; None for those of the process.

    Returns:
        The exit code.
    """
    with freeing_folders():
        if _shows_tracebacks():
            return main(argv)
        try:
            return main(argv)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            # The reader of our output (`| head`) has left; keep Python from complaining again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            return fail(_describe(error))
        except (ValueError, FloatingPointError) as error:
            return fail(_sentence(error) or repr(error))
        except ImportError as error:
            if error.name is not None:
                raise
            return fail(str(error))


def _shows_tracebacks() -> bool:
    return os.environ.get("DETR_D2_TRACEBACK", "0") not in ("", "0")


def _describe(error: OSError) -> str:
    if error.strerror is None or error.filename is None:
        return _sentence(error) or repr(error)
    return f"{error.filename}: {error.strerror}"


def _sentence(error: Exception) -> str:
    """What was raised; torch hands on an error of a loader worker as the text of its traceback."""
    text = str(error)
    if "Original Traceback (most recent call last)" not in text:
        return text
    last = list(re.finditer(rf"^(?:[\w.]+\.)?{type(error).__name__}: ", text, flags=re.MULTILINE))
    return text[last[-1].end() :] if last else text
