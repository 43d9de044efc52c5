"""The wheel: pure Python, configs inside, usable away from the checkout, built without torch and network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "tests", "docs", "build", "*.egg-info", "__pycache__")
    )
    stubs = folder / "stubs"
    stubs.mkdir()
    for name in ("torch", "detectron2"):  # a build that imported them would fail
        (stubs / f"{name}.py").write_text("raise ImportError('needed while building')\n")
    environment = {**os.environ, "PYTHONPATH": str(stubs)}
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, cwd=folder, env=environment
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_wheel_is_pure_python(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", ".cpp", ".cu"))]


def test_wheel_holds_the_package_and_its_configs_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "detr_d2").rglob("*.py")}
    configs = {f"detr_d2/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    templates = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "detr_d2").rglob("*")
        if path.is_file() and "templates" in path.parts
    }
    assert configs
    assert templates
    assert names == {*code, *configs, *templates, "detr_d2/py.typed"}


def test_detectron2_is_not_required_and_extras_are_named(metadata: Message) -> None:
    required = metadata.get_all("Requires-Dist") or []
    names = {text.partition(">")[0] for text in required}
    assert {"torch", "torchvision", "scipy"} <= names
    assert not [text for text in required if "detectron2" in text]
    assert all(">=" in text for text in required)
    assert set(metadata.get_all("Provides-Extra") or []) == {"dev", "export", "hf", "masks", "report", "video"}
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License"] == "Apache-2.0" or metadata["License-Expression"] == "Apache-2.0"


def test_wheel_declares_the_console_script(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "detr-d2 = detr_d2.__main__:main" in archive.read(name).decode()


def test_installed_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (tmp_path / "configs").mkdir()  # another project's, in the current folder
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import detr_d2, detr_d2.model_zoo as zoo\n"
        "print(detr_d2.__file__)\nprint(zoo.get_config_file('detr_r50.yaml'))\n"
        "print(zoo.get_config('detr_r50.yaml').MODEL.META_ARCHITECTURE)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        str(site / "detr_d2" / "__init__.py"),
        str(site / "detr_d2" / "configs" / "detr_r50.yaml"),
        "DETR",
    ]
