"""Installs detectron2 into the Python that runs this file, unless it can be imported there already.

detectron2 has no release on PyPI. Upstream's way is `pip install git+https://github.com/facebookresearch/detectron2.git`,
which needs git access and a compiler (`--source` does that). Where only PyPI is reachable, this file takes the wheel of
the PyPI project LabGym, which redistributes detectron2's tree at commit e9f7e2b (2023-12-20, Apache-2.0) as the folder
`LabGym/detectron2/`, checks its hash, and repacks that folder as an ordinary wheel of detectron2: the imports get their
own name back (`LabGym.detectron2` -> `detectron2`), nothing else changes. The result is pure Python; what it lacks is
`detectron2._C` (deformable convolution, rotated boxes, the compiled COCO evaluator).

`python -m detr_d2 install-detectron2`, and by path before torch, detectron2 or detr_d2 exist: only the standard library
is imported. The environment variable PIP_ARGS holds more arguments for pip, such as those of a private index.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

CARRIER = "LabGym==3.1.2"
CARRIER_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
CARRIER_PREFIX = "LabGym/"
VERSION = "0.6+e9f7e2b"
UPSTREAM = "https://github.com/facebookresearch/detectron2"

_DIST_INFO = f"detectron2-{VERSION}.dist-info"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file can hold: equal input gives equal bytes

# What the tree imports at run time. Its model zoo needs pkg_resources, which setuptools 81 dropped.
_REQUIREMENTS = (
    "Pillow>=7.1",
    "cloudpickle",
    "fvcore<0.1.6,>=0.1.5",
    "hydra-core>=1.1",
    "iopath<=0.1.10,>=0.1.7",
    "matplotlib",
    "numpy",
    "omegaconf<2.4,>=2.1",
    "opencv-python",
    "packaging",
    "pycocotools>=2.0.2",
    "setuptools<81",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "yacs>=0.1.8",
)

_LICENCE_NOTE = f"""detectron2
Copyright (c) Facebook, Inc. and its affiliates.

Licensed under the Apache License, Version 2.0 (the "License"); you may not use these files except in compliance with
the License. You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on an
"AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific
language governing permissions and limitations under the License.

Source: {UPSTREAM}, commit e9f7e2b of 2023-12-20, as redistributed by the PyPI project {CARRIER}.
Repacked on this machine: imports of `LabGym.detectron2` were turned back into `detectron2`; nothing else was changed.
"""


class InstallError(Exception):
    """What went wrong, as one sentence for the user."""


# Whether the target Python can import detectron2 is asked in a fresh process outside the checkout: exit code 0 when it
# can, 3 when there is none, and 1 when there is one that fails, with its version on stdout and the reason as the last
# line on stderr.
_PROBE = """
import importlib.metadata, importlib.util, sys
if importlib.util.find_spec("detectron2") is None:
    sys.exit(3)
try:
    import detectron2
except BaseException:
    print(next((x.version for x in importlib.metadata.distributions(name="detectron2")), ""))
    raise
print(detectron2.__version__, "at", detectron2.__path__[0])
"""


def find_detectron2(python: str) -> str | None:
    """Version and folder of the detectron2 that a Python can import.

    Args:
        python: path of the interpreter to ask.

    Returns:
        Such as `0.6 at /home/me/site-packages/detectron2`; None when there is none, or the remains of one of ours.

    Raises:
        InstallError: somebody else's detectron2 is installed there and cannot be imported.
    """
    command = [python, "-W", "ignore", "-c", _PROBE]
    probe = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tempfile.gettempdir())
    if probe.returncode == 0:
        return probe.stdout.strip()
    installed = probe.stdout.strip()
    if probe.returncode == 3 or installed in ("", VERSION):
        return None
    reason = (probe.stderr.strip().splitlines() or ["no message"])[-1]
    raise InstallError(
        f"detectron2 {installed} is installed for {python} but cannot be imported ({reason}): repair it, "
        "or remove it with `pip uninstall detectron2` and run this again."
    )


def check_hash(path: Path, sha256: str) -> None:
    """Raises InstallError unless the file has this SHA-256 (hexadecimal)."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InstallError(f"{path}: the wheel that carries detectron2 cannot be read ({error.strerror}).") from error
    if found != sha256:
        raise InstallError(
            f"hash mismatch: {path.name} has sha256 {found}, expected {sha256}: it was damaged or altered on the way; "
            "empty pip's cache (`pip cache purge`) and run this again, or give another source with --source."
        )


def build_wheel(carrier: Path, out_dir: Path, *, sha256: str = CARRIER_SHA256) -> Path:
    """Repacks the detectron2 inside LabGym's wheel as a wheel of its own.

    Args:
        carrier: LabGym's wheel.
        out_dir: existing folder for the result.
        sha256: the hash that the carrier must have.

    Returns:
        Path of the new wheel. The same carrier always gives the same bytes.

    Raises:
        InstallError: the carrier has another hash, or does not hold the tree.
    """
    check_hash(carrier, sha256)
    with zipfile.ZipFile(carrier) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith(f"{CARRIER_PREFIX}detectron2/"))
        files = {name.removeprefix(CARRIER_PREFIX): archive.read(name) for name in names if not name.endswith("/")}
    if "detectron2/__init__.py" not in files:
        raise InstallError(f"{carrier.name} holds no {CARRIER_PREFIX}detectron2/: expected the wheel of {CARRIER}.")
    for name in files:
        if name.endswith(".py"):
            files[name] = files[name].replace(b"LabGym.detectron2", b"detectron2")
    files.update(_metadata())
    files[f"{_DIST_INFO}/RECORD"] = _record(files)

    wheel = out_dir / f"detectron2-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    return wheel


def _metadata() -> dict[str, bytes]:
    metadata = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        "Summary: Detectron2 is FAIR's next-generation research platform for object detection and segmentation.",
        f"Home-page: {UPSTREAM}",
        "Author: FAIR",
        "License: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.7",
        *(f"Requires-Dist: {requirement}" for requirement in _REQUIREMENTS),
    ]
    wheel = ["Wheel-Version: 1.0", "Generator: detr_d2", "Root-Is-Purelib: true", "Tag: py3-none-any"]
    return {
        f"{_DIST_INFO}/LICENSE": _LICENCE_NOTE.encode(),
        f"{_DIST_INFO}/METADATA": ("\n".join(metadata) + "\n").encode(),
        f"{_DIST_INFO}/WHEEL": ("\n".join(wheel) + "\n").encode(),
        f"{_DIST_INFO}/top_level.txt": b"detectron2\n",
    }


def _record(files: dict[str, bytes]) -> bytes:
    """The wheel's list of files: path, urlsafe base64 of the SHA-256 without padding, size; itself without a hash."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={digest}", len(content)])
    writer.writerow([f"{_DIST_INFO}/RECORD", "", ""])
    return text.getvalue().encode()


def _pip(python: str, *arguments: str) -> None:
    """Runs pip with the arguments of the environment variable PIP_ARGS, as the other steps of the set-up do."""
    own = shlex.split(os.environ.get("PIP_ARGS", ""))
    if arguments[0] == "download":
        _, own = _of_install_alone().parse_known_args(own)
    command = [python, "-m", "pip", arguments[0], *own, *arguments[1:]]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        raise InstallError(f"`pip {' '.join(arguments)}` failed with exit code {code}; its last lines above say why.")


def _of_install_alone() -> argparse.ArgumentParser:
    """The options of `pip install` that `pip download` does not know."""
    parser = argparse.ArgumentParser(prog="PIP_ARGS", add_help=False, allow_abbrev=False)
    flags = "-U --upgrade -I --ignore-installed --user --force-reinstall --compile --no-compile"
    for name in f"{flags} --break-system-packages --no-warn-script-location".split():
        parser.add_argument(name, action="store_true")
    for name in ("--upgrade-strategy", "--prefix", "--root", "-t", "--target", "--report"):
        parser.add_argument(name)
    return parser


def download_carrier(python: str, out_dir: Path) -> Path:
    """Downloads LabGym's wheel with pip, whatever Python its metadata asks for, and returns its path."""
    exact = ["--no-deps", "--only-binary=:all:", "--python-version", "3.10"]
    _pip(python, "download", *exact, "--dest", str(out_dir), CARRIER)
    wheels = sorted(out_dir.glob("*.whl"))
    if len(wheels) != 1:
        raise InstallError(f"pip download {CARRIER} left {len(wheels)} wheels in {out_dir}, expected one.")
    return wheels[0]


def install_source(python: str, source: str) -> None:
    """Installs detectron2 from a folder, a wheel or a git URL as upstream says: against the torch that is there."""
    is_url = "://" in source
    if not is_url and not Path(source).exists():
        raise InstallError(f"--source {source}: no such file or folder, expected detectron2's checkout or a git URL.")
    if is_url and not source.startswith("git+") and source.removesuffix("/").endswith(".git"):
        source = f"git+{source}"
    _pip(python, "install", "--no-build-isolation", source if is_url else str(Path(source).resolve()))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 install-detectron2",
        description="Install detectron2 into the Python that runs this file; one that can be imported is kept.",
    )
    parser.add_argument("--source", metavar="PATH_OR_URL", help="install this folder, wheel or git URL instead")
    parser.add_argument("--wheel", metavar="FILE", type=Path, help=f"repack this wheel of {CARRIER}: no download")
    parser.add_argument("--wheel-dir", metavar="DIR", type=Path, help="only put detectron2's wheel into DIR")
    return parser


def main(argv: Sequence[str] | None = None, *, python: str = sys.executable, sha256: str = CARRIER_SHA256) -> int:
    """Installs, keeps or only builds detectron2.

    Args:
        argv: command line; the process's own when None.
        python: the interpreter to install into.
        sha256: the hash that LabGym's wheel must have.

    Returns:
        The exit code: 0, or 2 with one sentence on stderr.
    """
    args = build_parser().parse_args(argv)
    try:
        if args.wheel_dir is None:
            kept = find_detectron2(python)
            if kept is not None:
                hint = "; to use --source, `pip uninstall detectron2` first" if args.source else ""
                print(f"detectron2 {kept} can be imported: kept{hint}.")
                return 0
        if args.source is not None:
            install_source(python, args.source)
            return 0
        with tempfile.TemporaryDirectory() as scratch:
            carrier = args.wheel or download_carrier(python, Path(scratch))
            out_dir = args.wheel_dir or Path(scratch)
            out_dir.mkdir(parents=True, exist_ok=True)
            wheel = build_wheel(carrier, out_dir, sha256=sha256)
            if args.wheel_dir is None:
                _pip(python, "install", "--force-reinstall", "--no-deps", str(wheel))
                _pip(python, "install", "--quiet", str(wheel))  # what it depends on
        print(f"detectron2 {VERSION} was {'installed' if args.wheel_dir is None else f'built: {wheel}'}")
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
