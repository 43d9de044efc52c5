"""Makes the virtual environment of a checkout: `make setup` runs it by path with the system's Python.

Creates the environment when there is none, installs torch, this package with its dependencies, and detectron2, and says
in one sentence what is wrong when something is. uv does it where it is on the PATH, else venv and pip. Running it again
repairs what an interrupted run left and is quick when nothing is missing. Only the standard library is imported.

Environment variables: PIP_ARGS (more arguments for every `pip install`, those of uv, too), DETECTRON2_SOURCE (folder or
git URL to install detectron2 from), DETR_D2_MIN_DISK_GB (free space to ask for), and pip's own, which uv is told.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALLER = Path(__file__).resolve().with_name("install_detectron2.py")

# Measured: torch with its CUDA libraries takes 6.3 GB, their downloads 3 GB more until they are unpacked; pip's cache
# would keep another copy of these.
_FRESH_DISK_GB = 9.0
_CACHE_DISK_GB = 3.5

# detectron2's model zoo imports pkg_resources, which setuptools 81 dropped; torch would bring a newer one.
_SETUPTOOLS = "setuptools>=64,<81"

_AGAIN = "and run this again."
_PURGE = "empty the cache (`pip cache purge`, of uv `uv cache clean`)"

# Setting of pip -> variable in which uv looks for the same.
_UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
}

# What a failed command wrote on stderr -> the sentence for it. The first that matches wins: causes before effects.
_SENTENCES = (
    (
        r"No space left on device|Errno 28|Disk quota exceeded",
        f"the disk is full: free about {{need:g}} GB where {{root}} lies, {_PURGE} {_AGAIN}",
    ),
    (
        r"DO NOT MATCH THE HASHES|Hashes are required|Hash mismatch",
        f"hash mismatch: a downloaded file is not the one that was published; {_PURGE} {_AGAIN}",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|invalid peer certificate",
        "the package index cannot be trusted (TLS certificate): behind a proxy, point PIP_CERT at its certificate "
        f"{_AGAIN}",
    ),
    (
        r"NewConnectionError|ConnectionError|ConnectTimeout|ReadTimeout|Read timed out|NameResolutionError|ProxyError"
        r"|Temporary failure in name resolution|Network is unreachable|Connection refused|Connection reset"
        r"|IncompleteRead|Failed to establish|error sending request",
        "no network: the package index cannot be reached; check the connection (or the proxy, or PIP_INDEX_URL) "
        f"{_AGAIN}",
    ),
    (
        r"No matching distribution found for (?P<what>\S+)",
        "the package index has no {what} for Python {python} on this machine: name another Python with "
        "`make PYTHON=python3.11 ...`.",
    ),
    (
        r"Permission denied|Errno 13|Read-only file system",
        "files cannot be written below {root}: run this as its owner.",
    ),
)


class SetupError(Exception):
    """What went wrong, as one sentence for the user."""


def explain(stderr: str, code: int, what: str, need_gb: float = _FRESH_DISK_GB) -> str:
    """One sentence for a failed command.

    Args:
        stderr: what the command wrote there.
        code: its exit code; negative for a signal.
        what: what it was doing, such as "installing torch".
        need_gb: disk space to name when the disk is full.
    """
    own = re.search(r"^error: (?!`pip)(.+)$(?!\n +(?:cause|Caused by))", stderr, re.MULTILINE)
    if own is not None:  # the installer's own sentence, or one of uv that it does not explain
        return own[1]
    for pattern, sentence in _SENTENCES:
        match = re.search(pattern, stderr)
        if match is not None:
            python = ".".join(map(str, sys.version_info[:2]))
            return sentence.format(root=ROOT, need=need_gb, python=python, **match.groupdict())
    if code == -9:
        return f"{what} was killed, probably for lack of memory: close other programs and run this again."
    lines = stderr.splitlines() or ["no message"]
    errors = [line for line in lines if re.search("error|cause", line, re.IGNORECASE)] or lines
    return f"{what} failed (exit code {code}): {errors[-1].strip()}"


def run(command: Sequence[str], what: str) -> None:
    """Runs a command with its progress on the terminal; raises SetupError with one sentence when it fails."""
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if not line.startswith("error: "):  # said once, at the end
                sys.stderr.write(line)
                sys.stderr.flush()
    if process.returncode != 0:
        raise SetupError(explain("".join(lines), process.returncode, what))


def check_venv_module() -> None:
    """Raises SetupError when this Python cannot make virtual environments, as on a bare Debian."""
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        raise SetupError(
            f"{sys.executable} cannot make virtual environments: run `apt-get install python3-venv python3-pip` "
            "as root, then run this again."
        )


def check_disk(need_gb: float) -> float:
    """Gigabytes (10^9 bytes) that are free where the checkout lies; raises SetupError below `need_gb`."""
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < need_gb:
        raise SetupError(
            f"the disk is too full: {ROOT} has {free_gb:.1f} GB left and the environment needs about {need_gb:g} GB; "
            f"free some {_AGAIN[:-1]} (DETR_D2_MIN_DISK_GB=0 skips this check)."
        )
    return free_gb


def make_venv(venv: Path, uv: str | None = None) -> Path:
    """Creates a virtual environment with pip, or completes one that an interrupted run left.

    Args:
        venv: its folder.
        uv: path of uv, to do it with.

    Returns:
        Its Python.
    """
    python = venv / "bin" / "python"
    if not _succeeds(python, "pass"):
        print(f"creating {venv.name} with {sys.executable}", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        make = [uv, "venv", "--python", sys.executable] if uv else [sys.executable, "-m", "venv", "--without-pip"]
        run([*make, str(venv)], f"making {venv.name}")
    if not _succeeds(python, "import pip._internal.cli.main"):
        pip = [uv, "pip", "install", "--python", str(python), "pip"] if uv else [str(python), "-m", "ensurepip"]
        run(pip, "installing pip")
    return python


def tell_uv(listed: str) -> None:
    """Gives uv the settings of pip, which it does not read.

    Args:
        listed: what `pip config list` says.
    """
    for section in ("global", "install", ":env:"):  # the later ones count
        for name, value in re.findall(rf"^{section}\.([\w-]+)='(.*)'$", listed, re.MULTILINE):
            if name in _UV_NAMES:
                os.environ[_UV_NAMES[name]] = ",".join(value.split()) if name == "find-links" else value
    os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # the best of all indexes, as with pip


def _succeeds(python: Path, code: str) -> bool:
    try:
        return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def forget_unfinished(venv: Path) -> list[str]:
    """Removes the records of packages whose installation was cut short, so that pip installs them again.

    pip writes METADATA early, INSTALLER late and RECORD last; a package with the first alone looks installed to it.

    Returns:
        The names of the removed records.
    """
    unfinished = [
        record
        for record in venv.glob("lib/python*/site-packages/*.dist-info")
        if not ((record / "INSTALLER").is_file() and (record / "RECORD").is_file())
    ]
    for record in unfinished:
        shutil.rmtree(record)
    return sorted(record.name for record in unfinished)


def install(venv: Path, extras: Sequence[str], need_gb: float | None) -> None:
    """Makes or completes the environment.

    Args:
        venv: its folder.
        extras: extras of `setup.py` to install with the package.
        need_gb: free disk space to ask for; None asks for what a fresh environment takes if torch is not there yet.
    """
    uv = shutil.which("uv")
    if uv is None:
        check_venv_module()
    if need_gb is None:
        need_gb = 0.0 if any(venv.glob("lib/python*/site-packages/torch-*.dist-info/RECORD")) else _FRESH_DISK_GB
    if check_disk(need_gb) < need_gb + _CACHE_DISK_GB:
        os.environ.setdefault("PIP_NO_CACHE_DIR", "1")
        os.environ.setdefault("UV_NO_CACHE", "1")
    if uv is not None:
        print(f"using {uv}", flush=True)
        settings = [sys.executable, "-m", "pip", "config", "list"]
        tell_uv(subprocess.run(settings, capture_output=True, text=True, check=False).stdout)
    python = str(make_venv(venv, uv))
    for name in forget_unfinished(venv):
        print(f"{name.removesuffix('.dist-info')} was not installed completely: once more")

    # Downloads go beside the environment: /tmp is often a small memory disk.
    scratch = venv / "detr_d2-downloads"  # a name that only this file uses: what an interrupted run left is deleted
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    os.environ.update(TMPDIR=str(scratch), PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    pip = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    pip += shlex.split(os.environ.get("PIP_ARGS", ""))
    package = f".[{','.join(extras)}]" if extras else "."
    source = os.environ.get("DETECTRON2_SOURCE")
    steps = (
        ("installing build tools", [*pip, _SETUPTOOLS, "wheel"]),
        ("installing torch (the largest part, about 3 GB to download)", [*pip, "torch", "torchvision", _SETUPTOOLS]),
        ("installing detr_d2 and its dependencies", [*pip, "--no-build-isolation", "--editable", package]),
        ("installing detectron2", [python, str(INSTALLER), *(["--source", source] if source else [])]),
        ("trying the import", [python, "-c", "import detr_d2, sys; sys.exit(detr_d2.import_problem)"]),
    )
    for number, (what, command) in enumerate(steps, start=1):
        print(f"[{number}/{len(steps)}] {what}", flush=True)
        run(command, what)
    shutil.rmtree(scratch, ignore_errors=True)


def build_parser() -> argparse.ArgumentParser:
    """The command line of this file."""
    parser = argparse.ArgumentParser(prog="bootstrap.py", description="Make the virtual environment of a checkout.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="its folder (default: .venv in the checkout)")
    parser.add_argument(
        "--extra", action="append", default=[], metavar="NAME", help="extra of setup.py to install; repeatable"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Makes or completes the environment; 0, or 2 with one sentence on stderr."""
    args = build_parser().parse_args(argv)
    threshold = os.environ.get("DETR_D2_MIN_DISK_GB")
    try:
        install(args.venv.absolute(), args.extra, None if threshold is None else float(threshold))
    except KeyboardInterrupt:
        print("error: interrupted; the same command continues where this one stopped.", file=sys.stderr)
        return 130
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {explain(str(error), 1, 'the set-up')}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
