from __future__ import annotations

import ast
import importlib.abc
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from detr_d2.commands.check_env import main
from detr_d2.installation import check_env

ROOT = Path(__file__).resolve().parents[2]


# What a process imports instead, so that it starts quickly.
STUBS = {
    "torch": "import types\n__version__, version = '9', types.SimpleNamespace(cuda=None)\n"
    "cuda = types.SimpleNamespace(is_available=lambda: False)\n",
    **dict.fromkeys(("torchvision", "tensorboard", "transformers"), ""),
}


def test_a_good_environment_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr()
    lines = {line.split()[0]: line for line in said.out.splitlines() if line.startswith("  ")}
    assert torch.__version__.partition("+")[0] in lines["torch"]
    assert numpy.__version__ in lines["numpy"]
    assert {"torchvision", "detectron2", "detectron2._C", "detr_d2", "GPU", "PyYAML", "packaging"} <= set(lines)
    assert {"safetensors", "shapely", "transformers"} <= set(lines)
    assert said.err == ""


def test_what_the_package_requires_is_what_is_checked() -> None:
    """setup.py is read, not run: its list is a literal."""
    (required,) = [
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REQUIREMENTS"
    ]
    assert {text.partition(">")[0] for text in required} == set(check_env.REQUIRED.values()) - {"detectron2"}


def test_a_missing_detectron2_is_said_in_one_sentence(tmp_path: Path) -> None:
    for module, text in {**STUBS, "detectron2": "raise ImportError('no such thing')\n"}.items():
        (tmp_path / f"{module}.py").write_text(text)
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from detr_d2.__main__ import main; sys.exit(main(['check-env']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors[0].startswith("error: detectron2 cannot be imported (ImportError: no such thing)")
    assert "torch  " in done.stdout  # the rest of the report is there
    assert "detectron2._C" not in done.stdout  # what belongs to it is not lamented one by one
    assert "Traceback" not in done.stderr


def test_nothing_is_needed_to_find_out_what_is_missing() -> None:
    command = [sys.executable, "-S", "-m", "detr_d2", "check-env"]  # -S: without any installed package
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env={"PATH": ""})
    assert done.returncode == 1
    assert "msgspec cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_library_below_is_said_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            if name == "scipy.optimize":
                raise ImportError("libgfortran.so is gone")

    monkeypatch.delitem(sys.modules, "scipy.optimize")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert main([]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        "error: scipy cannot be imported (ImportError: libgfortran.so is gone); `python -m pip install scipy`."
    ]


def test_a_missing_optional_part_costs_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_env, "OPTIONAL", {"no_such_module": "nothing flies without it."})
    assert main([]) == 0
    assert "no_such_module" in (said := capsys.readouterr().out)
    assert "missing: nothing flies without it." in said


def test_a_version_below_the_bound_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = ["numpy>=1000", "scipy>=0.1", "not-installed-at-all>=1", 'mypy>=1000; extra == "dev"']
    monkeypatch.setattr(check_env.importlib.metadata, "requires", lambda name: bounds if name == "detr_d2" else None)
    assert main([]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors == [f"error: numpy is {numpy.__version__}, expected >=1000: `pip install 'numpy>=1000'`."]


@pytest.mark.parametrize(("version", "warned"), [("2.9.1+cu130", True), ("2.10.0", False), ("2.14.1", False)])
def test_a_torch_with_a_known_hole_is_a_warning(
    version: str, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = check_env.importlib.metadata.version
    monkeypatch.setattr(
        check_env.importlib.metadata, "version", lambda name: version if name == "torch" else real(name)
    )
    assert main([]) == 0
    said = capsys.readouterr()
    assert ("warning: CVE-2026-24747" in said.out) == warned
    assert said.err == ""


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Model {index}")
    part = check_env.gpu_part()
    assert part.state.startswith("2 x Model 0")
    assert part.cost == ""


def test_no_gpu_costs_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    part = check_env.gpu_part()
    assert part.state == "none"
    assert "CPU" in part.cost
