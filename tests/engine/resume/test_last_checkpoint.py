"""A run continues from the last checkpoint that can be read, and what cannot be is kept under another name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from other_processes import another_process, hold_for_ever
from torch import nn

from detr_d2.checkpoint import Checkpointer
from detr_d2.engine import Trainer
from detr_d2.engine.resume import last_checkpoint
from detr_d2.engine.resume.last_checkpoint import find_last_checkpoint
from detr_d2.engine.resume.metrics_file import forget_metrics


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_checkpoint, "SECOND_TRY", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three checkpoints of a run, of iterations 9, 19 and 29."""
    checkpointer = Checkpointer(nn.Linear(40, 40), str(tmp_path))
    for iteration in (9, 19, 29):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration, trainer={"iteration": iteration})
    return tmp_path


def find(folder: Path) -> tuple[str, int]:
    """Name and iteration of what a run would continue from."""
    path, content = find_last_checkpoint(Checkpointer(nn.Linear(40, 40), str(folder)))
    return os.path.basename(path), -1 if content is None else content["iteration"]


def cut(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes()[: before.st_size // 2])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk loses what was written then


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip_a_weight(path: Path) -> None:
    """torch reads it without a word."""
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["model"]["weight"].numpy().tobytes()
    content[content.index(weight[:64]) + 100] ^= 0x40
    path.write_bytes(content)


def forget_the_iteration(path: Path) -> None:
    before = path.stat()
    torch.save({**torch.load(path, weights_only=True), "trainer": {"iteration": None}}, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_the_training_state(path: Path) -> None:
    before = path.stat()
    torch.save({**torch.load(path, weights_only=True), "trainer": [3]}, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGES = (cut, empty, zeros, flip_a_weight, forget_the_iteration, replace_the_training_state)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(
    folder: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder / "model_0000029.pth")
    damaged = (folder / "model_0000029.pth").read_bytes()
    assert find(folder) == ("model_0000019.pth", 19)
    assert (folder / "model_0000029.pth.unreadable").read_bytes() == damaged
    assert not (folder / "model_0000029.pth").exists()
    assert (folder / "last_checkpoint").read_text() == "model_0000019.pth"
    (line,) = (x.getMessage() for x in caplog.records if x.name.startswith("detr_d2.engine"))
    assert "model_0000029.pth" in line
    assert "kept as model_0000029.pth.unreadable; this run continues from model_0000019.pth" in line
    # Once more: the name that was free is not any more.
    shutil.copy(folder / "model_0000019.pth", folder / "model_0000029.pth")
    damage(folder / "model_0000029.pth")
    (folder / "last_checkpoint").write_text("model_0000029.pth")
    assert find(folder) == ("model_0000019.pth", 19)
    assert (folder / "model_0000029.pth.unreadable1").exists()


def test_a_good_checkpoint_is_taken_without_a_word(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find(folder) == ("model_0000029.pth", 29)
    assert [x for x in caplog.records if x.name.startswith("detr_d2.engine")] == []


@pytest.mark.parametrize("content", [None, "", "\0\0\0", "model_0000039.pth", "gone.pth", "dangling link", "folder"])
def test_last_checkpoint_that_names_nothing(folder: Path, content: str | None) -> None:
    (folder / "last_checkpoint").unlink()
    if content == "dangling link":
        (folder / "last_checkpoint").symlink_to("nowhere")
    elif content == "folder":
        (folder / "last_checkpoint").mkdir()
    elif content is not None:
        (folder / "last_checkpoint").write_text(content)
    if content == "folder":
        with pytest.raises(ValueError, match="last_checkpoint"):
            find(folder)
        return
    assert find(folder) == ("model_0000029.pth", 29)
    assert (folder / "last_checkpoint").read_text() == "model_0000029.pth"
    assert len(list(folder.glob("model*"))) == 3


def test_none_that_can_be_read_is_one_sentence_and_nothing_is_changed(folder: Path) -> None:
    for path in folder.glob("*.pth"):
        cut(path)
    before = {x.name: x.read_bytes() for x in folder.iterdir()}
    with pytest.raises(ValueError, match=r"none of the checkpoints .*0000029\.pth, .*Nothing was changed") as caught:
        find(folder)
    assert "\n" not in str(caught.value)
    assert {x.name: x.read_bytes() for x in folder.iterdir()} == before


def test_a_name_without_any_checkpoint_is_said(tmp_path: Path) -> None:
    assert find(tmp_path) == ("", -1)
    (tmp_path / "last_checkpoint").write_text("model_0000029.pth")
    with pytest.raises(ValueError, match=r"names model_0000029\.pth, which is not there, and .* no other checkpoint"):
        find(tmp_path)


def test_files_of_others_and_of_earlier_runs_are_not_continued(folder: Path) -> None:
    cut(folder / "model_0000029.pth")
    (folder / "model_0000028.pth").symlink_to("nowhere")
    old = (folder / "model_0000009.pth").stat().st_mtime - 100
    shutil.copy(folder / "model_0000019.pth", folder / "model_0000025.pth")
    os.utime(folder / "model_0000025.pth", (old, old))  # written before that of iteration 9
    torch.save({"model": {"weight": torch.zeros(1)}}, folder / "model_0000024.pth")  # weights alone
    assert find(folder) == ("model_0000019.pth", 19)
    (folder / "last_checkpoint").write_text("model_0000019.pth")
    shutil.copy(folder / "model_0000009.pth", folder / "model_0000999.pth")
    cut(folder / "model_0000019.pth")
    assert find(folder) == ("model_0000009.pth", 9)


def test_a_second_try_comes_before_anything_is_renamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "model_0000029.pth"
    whole = path.read_bytes()
    cut(path)
    monkeypatch.setattr(last_checkpoint.time, "sleep", lambda _: path.write_bytes(whole))  # the network has caught up
    assert find(folder) == ("model_0000029.pth", 29)


def test_permissions_are_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(last_checkpoint, "read_model_file", refuse)
    with pytest.raises(ValueError, match="Permission denied"):
        find(folder)
    assert len(list(folder.glob("*.pth"))) == 3


def test_files_without_check_sums(folder: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(torch.load(folder / "model_0000029.pth", weights_only=True), folder / "model_0000029.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert find(folder) == ("model_0000029.pth", 29)  # by a process that knows nothing of it


def test_the_main_process_decides_for_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    answers = iter([[(str(folder / "model_0000009.pth"), ""), None], [True, True]])
    monkeypatch.setattr(comm, "all_gather", lambda _: next(answers))
    assert find(folder) == ("model_0000009.pth", 9)
    answers = iter([[(str(folder / "elsewhere.pth"), ""), None], [True, False]])
    with pytest.raises(ValueError, match=r"process 1 cannot read .*elsewhere\.pth.*all machines share"):
        find(folder)
    answers = iter([[("", "no checkpoint is good"), None]])
    with pytest.raises(ValueError, match="no checkpoint is good"):
        find(folder)


def test_best_ap_average_and_metrics_go_back_with_the_checkpoint(
    detr_cfg: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detr_d2.engine.trainer.WRITE_PERIOD", 1)
    evaluated = ["DATASETS.TEST", ("noise",), "TEST.EVAL_PERIOD", 2, "TEST.BEST_CHECKPOINT", True]
    cfg = detr_cfg("SOLVER.EMA_DECAY", 0.25, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 1, *evaluated)

    def run(*, resume: bool) -> Trainer:
        torch.manual_seed(1)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        trainer.train()
        return trainer

    run(resume=False)
    out = tmp_path / "out"
    whole = torch.load(out / "model_final.pth", weights_only=True)
    lines = [json.loads(x)["iteration"] for x in (out / "metrics.json").read_text().splitlines()]
    for name in ("model_final.pth", "model_0000003.pth", "model_0000002.pth"):
        cut(out / name)
    with (out / "metrics.json").open("a") as file:
        file.write('{"iteration": 3, "total_lo')
    trainer = run(resume=True)
    assert trainer.start_iter == 2
    assert sorted(x.name for x in out.glob("*.unreadable")) == [
        f"model_{x}.pth.unreadable" for x in ("0000002", "0000003", "final")
    ]
    resumed = torch.load(out / "model_final.pth", weights_only=True)
    assert [k for k, x in whole["model"].items() if not torch.equal(x, resumed["model"][k])] == []
    hooks = [x["trainer"]["hooks"] for x in (whole, resumed)]
    assert hooks[0]["BestCheckpoint"] == hooks[1]["BestCheckpoint"]
    kept = [x["WeightAverage"]["kept"] for x in hooks]
    assert [k for k, x in kept[0].items() if not torch.equal(x, kept[1][k])] == []
    assert [json.loads(x)["iteration"] for x in (out / "metrics.json").read_text().splitlines()] == lines


def test_nothing_of_a_run_that_goes_on_is_touched(folder: Path, detr_cfg: Callable[..., CfgNode]) -> None:
    cfg = detr_cfg("OUTPUT_DIR", str(folder))
    trainer = Trainer(cfg)
    (folder / "metrics.json").write_text('{"iteration": 70}\n')
    cut(folder / "model_0000029.pth")
    with another_process(lambda: hold_for_ever(folder)):
        before = {x.name: x.read_bytes() for x in folder.iterdir()}
        with pytest.raises(ValueError, match="is written to by process"):
            trainer.resume_or_load(resume=True)
        assert {x.name: x.read_bytes() for x in folder.iterdir()} == before


def test_metrics_of_an_earlier_run_stay(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    forget_metrics(str(tmp_path), 3)
    rows = [{"iteration": x} for x in (1, 3, 5, 0, 1, 2)]
    text = "".join(json.dumps(x) + "\n" for x in rows)
    path.write_text(text + '{"iteration": 3}\n{"iteration": 4}\n{"itera')
    with path.open("a") as still_open:
        forget_metrics(str(tmp_path), 3)
        assert path.read_text() == text
        still_open.write("next\n")
    assert path.read_text() == text + "next\n"
