"""How every command ends: mistakes of the user as one line on stderr and exit code 2, all else with its traceback."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def fail(message: str) -> int:
    """Prints `error: message` as one line on stderr and returns the exit code for it."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return USER_ERROR


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Runs a command and turns what its user did wrong into one sentence.

    ValueError, OSError and FloatingPointError carry sentences for the user, and so does an ImportError raised by hand
    (it names the extra to install; one of the import system has a `name`). Other exceptions are defects and pass
    through. `DETR_D2_TRACEBACK=1` lets everything pass.

    Args:
        main: the command; gets `argv`, returns the exit code.
        argv: its arguments, without the command's own name; None for those of the process.

    Returns:
        The exit code.
    """
    if os.environ.get("DETR_D2_TRACEBACK", "0") not in ("", "0"):
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
