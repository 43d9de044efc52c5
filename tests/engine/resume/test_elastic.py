"""A run that torchrun has restarted recognises itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.utils import comm

from detr_d2.engine.resume.elastic import RECORD, continues_elastic_run
from detr_d2.files import processes


@pytest.fixture
def under_torchrun(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def pretend(run_id: str = "job", agent: int = 500, restarts: int = 0) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        monkeypatch.setattr(os, "getppid", lambda: agent)

    return pretend


def test_without_torchrun_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert not continues_elastic_run(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_first_start_is_new_and_a_counted_restart_continues(tmp_path: Path, under_torchrun: Callable[..., None]):
    under_torchrun()
    assert not continues_elastic_run(str(tmp_path))
    under_torchrun(agent=501, restarts=1)
    assert continues_elastic_run(str(tmp_path))


def test_same_agent_continues_without_a_count(tmp_path: Path, under_torchrun: Callable[..., None]):
    under_torchrun()
    continues_elastic_run(str(tmp_path))
    assert continues_elastic_run(str(tmp_path))  # a machine has joined: nothing has failed


@pytest.mark.parametrize("changed", [{"agent": 777}, {"run_id": "another"}])
def test_another_run_in_the_same_folder_is_new(
    tmp_path: Path, under_torchrun: Callable[..., None], changed: dict[str, str | int]
):
    under_torchrun()
    continues_elastic_run(str(tmp_path))
    under_torchrun(**changed)
    assert not continues_elastic_run(str(tmp_path))


def test_an_agent_of_the_same_number_that_began_at_another_time_is_new(
    tmp_path: Path, under_torchrun: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    under_torchrun(agent=os.getpid())  # a process that runs
    continues_elastic_run(str(tmp_path))
    assert continues_elastic_run(str(tmp_path))
    monkeypatch.setattr(processes, "_start", lambda _: 12345)  # of a container that was started again
    assert not continues_elastic_run(str(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process began")
def test_one_surviving_machine_or_one_counted_restart_is_enough(
    tmp_path: Path, under_torchrun: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    under_torchrun()
    others: list[tuple[str, bool]] = []
    monkeypatch.setattr(comm, "all_gather", lambda x: [x, *(others if isinstance(x, tuple) else [x])])
    (tmp_path / RECORD).write_text(json.dumps(["job far 9"]))
    others[:] = [("job near 8", False)]
    assert not continues_elastic_run(str(tmp_path))
    (tmp_path / RECORD).write_text(json.dumps(["job far 9"]))
    others[:] = [("job far 9", False)]
    assert continues_elastic_run(str(tmp_path))
    (tmp_path / RECORD).write_text("damaged")
    others[:] = [("job near 8", True)]
    assert continues_elastic_run(str(tmp_path))
