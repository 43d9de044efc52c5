"""What `import detr_d2` brings: all that it registers and nothing heavier, and in a light command no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from detr_d2 import cli

ROOT = Path(__file__).parents[1]
PROGRAM = """
import json, warnings
warnings.simplefilter("ignore")
import detectron2.data, detectron2.modeling
before = set(sys.modules)
import detr_d2
new = sorted(set(sys.modules) - before)
import detr_d2.__main__
try:
    detr_d2.__main__.main(["make-shapes", "--help"])
except SystemExit:
    pass
commands = [name for name in sys.modules if name.startswith("detr_d2.commands.")]
print(json.dumps({"new": new, "get_cfg": hasattr(detr_d2, "get_cfg"), "commands": commands}))
"""
HEAVY = {"matplotlib", "pandas", "scipy.optimize", "sklearn", "timm", "transformers", "safetensors"}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process says that imports this package as a library, in a script with the name and words of a light one.

    Then it asks for the help of a command.
    """
    path = script(tmp_path_factory.mktemp("imported"), "detr-d2", PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([path, "check-env"], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_heavy_is_imported(imported: dict[str, Any]) -> None:
    new = set(imported["new"])
    assert "detr_d2.modeling" in new
    assert new & HEAVY == set()


def test_a_script_named_as_it_likes_registers_all(imported: dict[str, Any]) -> None:
    assert "detr_d2.modeling" in imported["new"]
    assert imported["get_cfg"]


def test_only_the_command_asked_for_is_imported(imported: dict[str, Any]) -> None:
    assert imported["commands"] == ["detr_d2.commands.make_shapes"]


@pytest.mark.parametrize(
    ("arguments", "light"),
    [
        ("check-env", True),
        ("check-env --help", True),
        ("install-detectron2 --wheel-dir x", True),
        ("compare --from-json results.json --output x", True),
        ("compare --output x --from-json=results.json", True),
        ("compare --output x --opts --from-json y", False),
        ("compare --dataset x --output check-env", False),
        ("predict check-env", False),
        ("", False),
    ],
)
def test_commands_that_are_light(arguments: str, light: bool) -> None:
    assert cli.is_light(arguments.split()) == light


# Ends a process before its command runs, and says what `import detr_d2` has done.
SPY = """
import atexit, importlib, sys
def say():
    print("light" if sys.modules["detr_d2"].import_problem is None else "registers", "torch" in sys.modules)
def spy(name, package=None, find=importlib.import_module):
    return sys.exit() if name.startswith("detr_d2.commands.") else find(name, package)
atexit.register(say)
importlib.import_module = spy
"""


def start(tmp_path: Path, *command: str, without_detectron2: bool = True) -> str:
    """Runs a command line in a fresh process, where SPY is the first that Python imports.

    Without detectron2 the attempt to register is quick, and can be seen from its failure.
    """
    (tmp_path / "sitecustomize.py").write_text(SPY)
    stub = tmp_path / "stub"
    stub.mkdir(exist_ok=True)
    (stub / "detectron2.py").write_text("raise ImportError('for a quick start')\n")
    paths = [tmp_path, ROOT, *([stub] if without_detectron2 else [])]
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, paths))}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def script(tmp_path: Path, name: str, code: str) -> str:
    path = tmp_path / name
    path.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
    path.chmod(0o755)
    return str(path)


CALL = "from detr_d2.__main__ import main\nsys.exit(main())"  # what pip writes


@pytest.mark.parametrize("arguments", [["check-env"], ["install-detectron2"], ["compare", "--from-json", "x"]])
def test_a_light_command_starts_without_torch(arguments: list[str], tmp_path: Path) -> None:
    module = [sys.executable, "-W", "ignore", "-m", "detr_d2", *arguments]
    assert start(tmp_path, *module, without_detectron2=False) == "light False"
    pips = script(tmp_path, "detr-d2", CALL)
    assert start(tmp_path, pips, *arguments, without_detectron2=False) == "light False"


def test_other_commands_register(tmp_path: Path) -> None:
    arguments = ["make-shapes", "check-env", "--from-json", "x"]
    assert start(tmp_path, sys.executable, "-m", "detr_d2", *arguments) == "registers False"
    assert start(tmp_path, script(tmp_path, "detr-d2", CALL), *arguments) == "registers False"


def test_other_programs_with_such_arguments_register(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__init__.py").write_text("import detr_d2")
    (tmp_path / "other" / "__main__.py").touch()
    (tmp_path / "ours").mkdir()
    ours = script(tmp_path / "ours", "detr-d2", CALL)
    pretends = script(tmp_path, "pretends.py", "sys.argv = ['-m', 'check-env']\nimport detr_d2")
    hands_on = script(tmp_path, "hands_on.py", f"sys.argv[0] = {ours!r}\nimport detr_d2")
    of_our_name = script(tmp_path, "detr-d2", "import detr_d2")
    for command in (
        [of_our_name, "check-env"],
        [sys.executable, of_our_name, "check-env"],
        [sys.executable, pretends, "check-env"],
        [sys.executable, hands_on, "check-env"],
        [sys.executable, "-c", "import detr_d2", "check-env"],
        [sys.executable, "-m", "other", "check-env"],
        [sys.executable, "-m", "other", "detr_d2", "check-env"],
    ):
        assert start(tmp_path, *command) == "registers False", command
