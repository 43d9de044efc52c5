"""What the main process does for all, and what goes wrong there, reaches every process."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.utils import comm

from detr_d2.engine.main_process import in_main_process
from detr_d2.engine.startup.launch import launch


def fail() -> str:
    raise KeyError("not a ValueError")


def work(folder: str) -> None:
    said = [in_main_process(lambda: f"by {comm.get_rank()}")]
    try:
        in_main_process(fail)
    except Exception as error:
        said.append(f"{type(error).__name__} {error}")
    Path(folder, str(comm.get_rank())).write_text("\n".join(said))


@pytest.mark.slow
def test_all_get_the_result_and_the_error(tmp_path: Path) -> None:
    launch(work, 2, args=(str(tmp_path),))
    assert (tmp_path / "0").read_text() == "by 0\nKeyError 'not a ValueError'"
    assert (tmp_path / "1").read_text() == "by 0\nValueError 'not a ValueError'"


def test_one_process_alone() -> None:
    assert in_main_process(lambda: 5) == 5
    with pytest.raises(KeyError):
        in_main_process(fail)


def test_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda own: [("theirs", ""), own])
    assert in_main_process(fail) == "theirs"
    monkeypatch.setattr(comm, "all_gather", lambda own: [(None, "no space"), own])
    with pytest.raises(ValueError, match="no space"):
        in_main_process(lambda: "own")
