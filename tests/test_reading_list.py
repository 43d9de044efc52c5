"""What has to be read to understand forward and losses of DETR is short."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

START = ("meta_arch", "transformer/detr", "matcher", "criterion", "targets")  # of modeling
EXCLUDED = ("layers/fast", "modeling/segmentation", "modeling/backbone", "config", "panoptic_classes")
MOST_FILES, MOST_LINES = 14, 1150


def imports(path: Path) -> set[Path]:
    """Files of the package whose names a file imports, inside functions, too.

    `from a import b` names a/b.py if there is one, otherwise a.py or a/__init__.py. The `__init__` files of folders on
    the way to a module that is named itself need not be read.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            found |= {file for alias in node.names for file in [module(folder / alias.name) or module(folder)] if file}
        else:
            names = [x.name for x in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("detr_d2") for name in names), f"{path} names the package: make it relative"
    return found


def module(path: Path) -> Path | None:
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def closure() -> set[Path]:
    """All files that must be read, those of `EXCLUDED` and what only they import left out."""
    package = ROOT / "detr_d2"
    todo, found = [package / "modeling" / f"{name}.py" for name in START], set()
    while todo:
        file = todo.pop()
        name = file.relative_to(package).with_suffix("").as_posix()
        if file in found or any(name == x or name.startswith(f"{x}/") for x in EXCLUDED):
            continue
        found.add(file)
        todo.extend(imports(file))
    return found


def lines_of_code(source: str) -> int:
    """Lines that hold anything but docstrings and comments."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = [x for x in tokenize.generate_tokens(io.StringIO(source).readline) if x.type not in layout]
    return len({line for x in tokens for line in range(x.start[0], x.end[0] + 1)} - docstrings)


def test_lines_of_code_are_counted() -> None:
    assert (
        lines_of_code(
            '"""Doc.\n\nMore."""\n\nx = (  # why\n    1\n)\n\n\ndef f():\n    """Doc."""\n    return """a\nb"""\n'
        )
        == 6
    )


def test_detr_is_short() -> None:
    files = closure()
    lines = {str(x.relative_to(ROOT)): lines_of_code(x.read_text(encoding="utf-8")) for x in files}
    assert len(files) <= MOST_FILES, sorted(lines)
    assert sum(lines.values()) <= MOST_LINES, lines
    assert {"detr_d2/layers/attention.py", "detr_d2/modeling/query_head.py"} < lines.keys()


def test_the_readme_names_them_all() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    start = readme.index("`meta_arch.py`")
    section = readme[start : readme.index("\n\n", start)]
    names = {"`transformer/detr.py`", *(f"`{x.name}`" for x in closure() if x.stem != "detr")}
    assert set(re.findall(r"`[\w/]+\.py`", section)) == names
    assert f"{MOST_FILES} files with at most {MOST_LINES:,} lines of code" in section
