"""The command line as a whole: help of every command, exit codes, mistakes as one line."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

import detr_d2
from detr_d2 import cli
from detr_d2.__main__ import ALIASES, COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "DETR_D2_TRACEBACK=1" in said
    lines = said.splitlines()
    for name, summary in COMMANDS.items():
        assert any(line.split(maxsplit=1) == [name, summary] for line in lines)


def test_no_command_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: python -m detr_d2 <command>" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == detr_d2.__version__


def test_an_unknown_command_is_named_with_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predikt"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'predikt'; did you mean 'predict'?\n"
    assert main(["xyz"]) == 2
    assert all(name in capsys.readouterr().err for name in ("train",))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage:")
    assert name in said.out
    assert "error" not in said.err.lower()  # warnings of other packages may be there
    assert "Traceback" not in said.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_explained(name: str) -> None:
    parser = importlib.import_module(f"detr_d2.commands.{name.replace('-', '_')}").build_parser()
    assert parser.description
    assert _unexplained(parser) == []


def _unexplained(parser: argparse.ArgumentParser) -> list[str]:
    missing = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                missing += _unexplained(child)
        elif not action.help:
            missing.append(f"{parser.prog}: {action.dest}")
    return missing


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_a_mistake(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--no-such-option"])
    assert left.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_every_file_of_commands_is_a_command() -> None:
    files = {path.stem for path in (ROOT / "detr_d2" / "commands").glob("*.py") if not path.stem.startswith("_")}
    assert files == {name.replace("-", "_") for name in COMMANDS}
    for name in files:
        module = importlib.import_module(f"detr_d2.commands.{name}")
        assert isinstance(module.build_parser(), argparse.ArgumentParser)
        assert callable(module.main)


def test_another_name_stands_for_a_command_and_its_first_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Sequence[str] | None] = []

    def command(argv: Sequence[str] | None) -> int:
        called.append(argv)
        return 0

    monkeypatch.setitem(ALIASES, "shapes-of-two", ["make-shapes", "out"])
    monkeypatch.setattr("detr_d2.commands.make_shapes.main", command)
    assert main(["shapes-of-two", "--images", "2"]) == 0
    assert called == [["out", "--images", "2"]]


def test_other_names_are_of_commands() -> None:
    for name, (command, *_) in ALIASES.items():
        assert name not in COMMANDS
        assert command in COMMANDS


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("a.json: annotation 7\n  has no bbox"), "error: a.json: annotation 7 has no bbox\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/x/y"),
            "error: /x/y: No such file or directory\n",
        ),
        (OSError("the disk is full"), "error: the disk is full\n"),
        (FloatingPointError("iteration 3: the loss is nan"), "error: iteration 3: the loss is nan\n"),
        (ImportError('pip install "detr_d2[report]"'), 'error: pip install "detr_d2[report]"\n'),
    ],
)
def test_mistakes_of_the_user_are_one_line(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(_: Sequence[str] | None) -> int:
        raise error

    monkeypatch.delenv("DETR_D2_TRACEBACK", raising=False)
    assert cli.run(command, []) == 2
    assert capsys.readouterr().err == message
    monkeypatch.setenv("DETR_D2_TRACEBACK", "1")
    with pytest.raises(type(error)):
        cli.run(command, [])


class _BadImage(ValueError):
    """Of a module, so that tracebacks call it by a dotted name."""


class _Images(Dataset[int]):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        try:
            raise KeyError("what a decoder met")
        except KeyError as cause:
            raise self.error from cause


def test_mistakes_in_loader_workers_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command(_: Sequence[str] | None) -> int:
        return len(list(DataLoader(_Images(_BadImage("a.png: is bad:\nno image")), num_workers=1)))

    assert cli.run(command, []) == 2
    assert capsys.readouterr().err == "error: a.png: is bad: no image\n"


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), ModuleNotFoundError("No module", name="yaml")])
def test_defects_keep_their_traceback(error: Exception) -> None:
    def command(_: Sequence[str] | None) -> int:
        raise error

    with pytest.raises(type(error)):
        cli.run(command, [])


@pytest.mark.parametrize("run", [lambda: main(["predict", "--help"]), lambda: cli.run_command("predict", ["--help"])])
def test_a_required_package_that_is_missing_is_one_line(
    run: Callable[[], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETR_D2_TRACEBACK", raising=False)
    monkeypatch.setitem(sys.modules, "cv2", None)  # an import of it fails
    for name in [x for x in sys.modules if x.startswith(("detr_d2.commands.predict", "detr_d2.prediction"))]:
        monkeypatch.delitem(sys.modules, name)
    assert run() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: 'predict' needs cv2, which cannot be imported here (")
    assert "check-env" in said
    monkeypatch.setenv("DETR_D2_TRACEBACK", "1")
    with pytest.raises(ModuleNotFoundError, match="cv2"):
        run()


@pytest.mark.parametrize("missing", ["detr_d2.prediction", "detr_d2.files"])
def test_a_missing_part_of_our_own_keeps_its_traceback(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "detr_d2.commands.predict", raising=False)
    with pytest.raises(ModuleNotFoundError, match=missing):
        cli.run_command("predict", ["--help"])


def test_exit_codes_are_passed_on() -> None:
    def command(argv: Sequence[str] | None) -> int:
        return len(argv or ())

    assert cli.run(command, ["a", "b", "c"]) == 3


def test_an_interrupt_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def command(_: Sequence[str] | None) -> int:
        raise KeyboardInterrupt

    assert cli.run(command, []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_closed_pipe_is_silent(tmp_path: Path) -> None:
    (tmp_path / "detectron2.py").write_text("raise ImportError('for a quick start')\n")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; from detr_d2 import cli\n"
        "def command(argv):\n    for _ in range(100000): print('x' * 100)\n    return 0\n"
        "sys.exit(cli.run(command, []))"
    )
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    os.close(write)
    assert done.stderr == b""


def test_without_detectron2_commands_say_so(tmp_path: Path) -> None:
    (tmp_path / "detectron2.py").write_text("raise ImportError('no such thing')\n")
    start = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"

    def run(code: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", start + code]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    done = run("from detr_d2.__main__ import main; sys.exit(main(['predict', '--help']))")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: 'predict' needs torch and detectron2")
    assert "RuntimeWarning: detr_d2 cannot be used (ImportError: no such thing)" in done.stderr

    done = run("import detr_d2; print(detr_d2.__version__, hasattr(detr_d2, '__path__')); detr_d2.get_cfg()")
    assert done.stdout.split() == [detr_d2.__version__, "True"]
    assert "ImportError: detr_d2.get_cfg needs torch and detectron2" in done.stderr


def test_unknown_attributes_of_the_package_are_attribute_errors() -> None:
    assert detr_d2.import_problem is None
    name = "no_such_name"
    with pytest.raises(AttributeError, match=name):
        getattr(detr_d2, name)
