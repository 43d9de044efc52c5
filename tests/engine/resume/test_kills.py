"""Killed at any moment, or stopped by a full disk at any write, a training continues as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_training import fork, killed_after, run_training, small_run, wait

from detr_d2.engine.resume import last_checkpoint
from detr_d2.files import WriteError, temporaries, writing

ITERATIONS = 15
FULL = 7  # exit code of a child that a full disk has stopped


def finished(folder: Path) -> dict[str, Any]:
    """What a run has to show at its end: weights, average, best AP, and for which iterations it has metrics."""
    assert not list(folder.glob("*.unreadable*"))
    assert [x.name for x in folder.iterdir() if x.name.startswith(".detr_d2")] == []
    content = torch.load(folder / "model_final.pth", weights_only=True)
    lines = [json.loads(x) for x in (folder / "metrics.json").read_text().splitlines()]
    ap = {x["iteration"]: x["bbox/AP"] for x in lines if "bbox/AP" in x}
    hooks = content["trainer"]["hooks"]
    best = torch.load(folder / "model_best.pth", weights_only=True)["model"]
    return {
        **{f"model.{k}": x for k, x in content["model"].items()},
        **{f"best.{k}": x for k, x in best.items()},
        **{f"kept.{k}": x for k, x in hooks["WeightAverage"]["kept"].items()},
        "best": torch.tensor([hooks["BestCheckpoint"]["best"], hooks["BestCheckpoint"]["best_iteration"]]),
        "ap": torch.tensor(sorted(ap.items())),
        "lines": torch.tensor(sorted(x["iteration"] for x in lines)),
    }


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    assert {k: (a[k], b[k]) for k in a if not torch.equal(a[k], b[k])} == {}


def check_what_is_there(folder: Path) -> None:
    """Every finished file can be read, and `last_checkpoint` names one of them."""
    for path in folder.glob("*.pth"):
        last_checkpoint._read(str(path))
    for path in folder.rglob("*.json"):
        if path.name != "metrics.json" and path.parent == folder:
            json.loads(path.read_text())
    if (folder / "last_checkpoint").exists():
        assert (folder / (folder / "last_checkpoint").read_text()).is_file()


@pytest.fixture
def whole(noise: str, tmp_path: Path) -> tuple[dict[str, Any], float]:
    """What an uninterrupted run ends with, and the seconds that it takes."""
    start = time.monotonic()
    assert wait(fork(lambda: run_training(small_run(noise, str(tmp_path / "whole"), ITERATIONS)))) == 0
    return finished(tmp_path / "whole"), time.monotonic() - start


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_is_not_disturbed(
    noise: str, tmp_path: Path, whole: tuple[dict[str, Any], float], kills: int
) -> None:
    rng = random.Random(kills)
    killed = runs = 0
    while killed < kills:
        folder = tmp_path / f"run{runs}"
        cfg = small_run(noise, str(folder), ITERATIONS)
        while killed_after(rng.uniform(0, whole[1] / 3), partial(run_training, cfg)):
            killed += 1
            check_what_is_there(folder)
            if killed >= kills:
                assert wait(fork(partial(run_training, cfg))) == 0
                break
        assert_same(finished(folder), whole[0])
        runs += 1
    print(f"{killed} kills, {runs} runs")


def run_until_full(cfg: Any, number: int, size: int) -> None:
    """Trains; from the file with this number on, no file may be larger than `size` bytes."""
    made = 0

    def create(path: str) -> int:
        nonlocal made
        made += 1
        if made == number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return temporaries.create(path)

    writing.create = create
    try:
        run_training(cfg)
    except WriteError as error:
        os._exit(FULL if "cannot be written: File too large" in str(error) else 1)


@pytest.mark.parametrize(
    "numbers", [pytest.param((4, 9), id="few"), pytest.param(range(1, 200), id="all", marks=pytest.mark.slow)]
)
def test_a_full_disk_at_any_write_loses_nothing(
    noise: str, tmp_path: Path, whole: tuple[dict[str, Any], float], numbers: Any
) -> None:
    stopped = 0
    for number in numbers:
        folder = tmp_path / f"full{number}"
        cfg = small_run(noise, str(folder), ITERATIONS)
        code = wait(fork(partial(run_until_full, cfg, number, size=number % 5)))
        if code == 0:  # there are not as many writes
            break
        assert code == FULL
        stopped += 1
        check_what_is_there(folder)
        assert [x.name for x in folder.iterdir() if x.name.startswith(".detr_d2")] == []
        assert wait(fork(partial(run_training, cfg))) == 0
        assert_same(finished(folder), whole[0])
    assert stopped == len(numbers) or stopped > 2 * ITERATIONS
    print(f"{stopped} full disks")


def test_a_run_that_was_killed_before_its_last_file_gets_it(
    noise: str, tmp_path: Path, whole: tuple[dict[str, Any], float]
) -> None:
    folder = tmp_path / "whole"
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text(f"model_{ITERATIONS - 1:07d}.pth")
    assert wait(fork(partial(run_training, small_run(noise, str(folder), ITERATIONS)))) == 0
    assert_same(finished(folder), whole[0])
