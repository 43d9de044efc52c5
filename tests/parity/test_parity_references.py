"""What is said when the other implementation is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from parity_models import small_cfg

from detr_d2.other_libraries.references import authors_modules, build_authors_model, build_transformers_model


@pytest.mark.parametrize("content", [None, "empty", "other"])
def test_a_wrong_path_to_the_authors_code(content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if content is None:
        monkeypatch.delenv("DETR_REPO", raising=False)
    else:
        monkeypatch.setenv("DETR_REPO", str(tmp_path))
    if content == "other":
        (tmp_path / "models").mkdir()
    named = "''" if content is None else str(tmp_path)
    with pytest.raises(ValueError, match=f"DETR_REPO is .*{named}.*expected the folder of a checkout") as info:
        build_authors_model(small_cfg())
    assert "models/detr.py" in str(info.value)


def test_the_authors_modules_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`models`, `util` and `datasets` are names that others have, too."""
    (tmp_path / "models").mkdir()
    for name in ("__init__.py", "detr.py"):
        (tmp_path / "models" / name).write_text(f"NAME = {name!r}\n", encoding="utf-8")
    monkeypatch.setenv("DETR_REPO", str(tmp_path))
    mine = type(sys)("models")
    monkeypatch.setitem(sys.modules, "models", mine)
    path = list(sys.path)
    with authors_modules() as authors:
        assert authors.module("models.detr").NAME == "detr.py"
        assert sys.modules["models"] is not mine
    assert sys.modules["models"] is mine
    assert "models.detr" not in sys.modules
    assert sys.path == path


def test_without_transformers_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "detr_d2\[hf\]"'):
        build_transformers_model(small_cfg(), {})
