"""What README and docs tell to type is understood: by the commands' own parsers, and by make."""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from detr_d2.__main__ import ALIASES, COMMANDS
from detr_d2.commands import train

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_START = re.compile(r"(?:python -m detr_d2|detr-d2|(?:python|torchrun\b.*?) train_net\.py|make)(?= )")


def typed(text: str) -> Iterator[str]:
    """Command lines of a page: of its blocks, lines that go on joined, and between backticks those with arguments."""
    joined = re.sub(r" *\\\n\s*", " ", text)
    for line in joined.splitlines():
        pieces = [line] if line.startswith("    ") else re.findall(r"`([^`]+)`", line)
        for piece in pieces:
            found = _START.search(piece)
            if found is not None and re.fullmatch(r"(?:[A-Z_]+=\S+\s+)*", piece[: found.start()].lstrip()):
                yield piece[found.start() :]


TYPED = [(page.name, line) for page in PAGES for line in typed(page.read_text(encoding="utf-8"))]


def arguments(line: str) -> list[list[str]]:
    """Those behind the program, of each variant: of "a|b" one for each; [what may be left out] is there."""
    line = re.sub(r"\[([^\[\]]+)\]", r"\1", line) if "'" not in line and '"' not in line else line
    words = shlex.split(re.sub(r"\$\([^)]*\)", "NAME=a:b", line), comments=True)
    parts = [x.split("|") if re.fullmatch(r"[\w|-]+", x) else [x] for x in words if x != "..."]
    return [list(x) for x in itertools.product(*parts)]


def refuse(message: str) -> None:
    raise ValueError(message)


def parse(
    parser: argparse.ArgumentParser, argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> argparse.Namespace | None:
    """What a command line says; ValueError for what the parser would not take."""
    monkeypatch.setattr(argparse.ArgumentParser, "error", lambda _, message: refuse(message))
    try:
        return parser.parse_args(argv)
    except SystemExit:  # --help
        return None


def check(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in arguments(line):
        if words[0] == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            named = [x for x in words[1:] if "=" not in x]
            assert set(named) <= set(targets), f"make has no {named}"
            continue
        if "train_net.py" in words:
            argv, parser = words[words.index("train_net.py") + 1 :], train.build_parser()
        else:
            name, *argv = words[words.index("detr_d2") + 1 :] if "detr_d2" in words else words[1:]
            if name in ALIASES:
                name, *argv = [*ALIASES[name], *argv]
            assert name in COMMANDS
            parser = importlib.import_module(f"detr_d2.commands.{name.replace('-', '_')}").build_parser()
        given = parse(parser, argv, monkeypatch)
        opts = getattr(given, "opts", None) or []
        assert len(opts) % 2 == 0 or any("$" in x for x in opts), f"{opts} are no pairs of KEY VALUE"
        config = getattr(given, "config_file", None) or ""
        if config.startswith("configs/"):
            assert (ROOT / config).is_file(), config


def test_commands_are_found() -> None:
    assert len(TYPED) > 60
    assert {"README.md", "training.md", "results.md", "performance.md", "comparison.md"} <= {name for name, _ in TYPED}


@pytest.mark.parametrize("line", [line for _, line in TYPED], ids=[f"{name}, {line[:60]}" for name, line in TYPED])
def test_a_documented_command_is_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(line, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "python -m detr_d2 predict --no-such-option x",
        "python -m detr_d2 predikt --help",
        "python -m detr_d2 compare --dataset x",
        "python -m detr_d2 check-recipe --config-file configs/no_such.yaml",
        "python train_net.py --config-file configs/detr_r50.yaml MODEL.WEIGHTS",
        "make no-such-target",
    ],
)
def test_mistakes_are_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(line, monkeypatch)
