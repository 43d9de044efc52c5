"""Folders that commands make: found again, never emptied unasked, never taken from others."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_models import tiny_cfg

from detr_d2.compare.records.results import RunResult
from detr_d2.experiments import timed_training
from detr_d2.experiments.own_folders import settle_output
from detr_d2.experiments.timed_training import run_training
from detr_d2.experiments.training_job import TrainingJob


def silent(**_: Any) -> None:
    """Nobody wants to know how a pretended training goes."""


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    (tmp_path / "detr.yaml").write_text(tiny_cfg("SEED", 7).dump())
    coco = ("shapes_train=train.json:images", "shapes_val=val.json:images")
    return TrainingJob("DETR", str(tmp_path / "detr.yaml"), str(tmp_path / "run"), coco=coco, opts=("SEED", "3"))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[TrainingJob]:
    """The jobs that a pretended training was given; AP 1, 2, ..."""
    trained: list[TrainingJob] = []

    def pretend(job: TrainingJob, _: Any) -> None:
        trained.append(job)
        RunResult(job.title, "c", "d", float(len(trained)), 0, 0).save(job.result)
        (Path(job.output_dir) / "model_0000001.pth").touch()
        (Path(job.output_dir) / "model_final.pth").touch()

    monkeypatch.setattr(timed_training, "_train_in_a_process", pretend)
    return trained


def files(folder: Path) -> dict[str, bytes]:
    return {x.relative_to(folder).as_posix(): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


def test_results_are_used_again_only_with_the_same_settings(
    job: TrainingJob, pretended: list[TrainingJob], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(job.output_dir)
    assert run_training(job, silent).ap == 1
    assert [path.name for path in folder.glob("*.pth")] == ["model_final.pth"]
    assert run_training(job, silent).ap == 1
    assert "trained already" in capsys.readouterr().out
    first = files(folder)

    changed = replace(job, opts=("SEED", "4"))
    assert run_training(changed, silent).ap == 2
    sentence = rf"DETR: {folder} has other settings \(config\.SEED 3, now 4; .*\) and stays as it is"
    assert re.match(sentence, capsys.readouterr().out)
    assert files(folder) == first
    assert Path(pretended[-1].output_dir).parent == tmp_path
    assert run_training(changed, silent).ap == 2
    assert run_training(job, silent).ap == 1

    Path(job.config_file).write_text(Path(job.config_file).read_text().replace("NUM_QUERIES: 8", "NUM_QUERIES: 9"))
    assert run_training(changed, silent).ap == 3
    assert len({x.output_dir for x in pretended}) == 3
    pretended[-1].result.unlink()  # interrupted: the same folder is continued
    (Path(pretended[-1].output_dir) / "kept").touch()
    assert run_training(changed, silent).ap == 4
    assert (Path(pretended[-1].output_dir) / "kept").exists()
    assert files(folder) == first


def test_fresh_deletes_what_a_training_has_made_and_nothing_else(
    job: TrainingJob, pretended: list[TrainingJob]
) -> None:
    folder = Path(job.output_dir)
    run_training(job, silent)
    ours = (
        "metrics.json",
        "model_0000009.pth",
        "model_0000009.pth.unreadable",
        "plan.json",
        "inference/predictions.json",
    )
    theirs = ("thesis.tex", "model_0000009_mine.pth", "my_model.pth", "inference/notes.txt", "results/model_final.pth")
    for name in (*ours, *theirs):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    changed = replace(job, opts=("SEED", "4"))
    assert run_training(changed, silent, fresh=True).ap == 2
    assert pretended[-1].output_dir == str(folder)
    left = files(folder)
    assert {x for x in left if left[x] == x.encode()} == set(theirs)
    assert set(left) == {*theirs, "job.json", "result.json", "model_final.pth"}


def test_another_version_is_a_note(
    job: TrainingJob, pretended: list[TrainingJob], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_training(job, silent)
    record = Path(job.output_dir) / "job.json"
    # What an older version has left: without a mark, a key of its configs less and one more.
    content = json.loads(record.read_text())
    config = re.sub(r"\n +NUM_QUERIES: 8", "", content["config"])
    older = {k: x for k, x in content.items() if k not in ("made_by", "format", "coco_panoptic")}
    assert config != content["config"]
    record.write_text(json.dumps({**older, "config": f"{config}GONE: 1\n", "version": "0.0.1"}))
    assert run_training(job, silent).ap == 1
    assert f"note: {job.output_dir} was begun by version 0.0.1, this is" in capsys.readouterr().out
    monkeypatch.setattr("detr_d2.__version__", "99.0")
    assert run_training(job, silent).ap == 1
    assert run_training(replace(job, seconds=9.0), silent).ap == 2
    assert len(pretended) == 2


def test_a_training_is_found_again_under_the_old_names_of_its_keys(
    job: TrainingJob, pretended: list[TrainingJob]
) -> None:
    key, old = "MODEL.DETR.TRANSFORMER.DETR.PRE_NORM", "MODEL.DETR.TRANSFORMER.PRE_NORM"
    job = replace(job, opts=(key, "True"))
    run_training(job, silent)
    record = Path(job.output_dir) / "job.json"
    content = json.loads(record.read_text())
    config = yaml.safe_load(content["config"])
    transformer, solver = config["MODEL"]["DETR"]["TRANSFORMER"], config["SOLVER"]
    transformer["PRE_NORM"] = transformer.pop("DETR")["PRE_NORM"]
    solver["ONE_CYCLE_PCT"] = 0.1
    record.write_text(json.dumps({**content, "config": yaml.safe_dump(config), "opts": [old, "True"]}))
    assert run_training(job, silent).ap == 1
    transformer["PRE_NORM"] = False  # as its file said then
    record.write_text(json.dumps({**content, "config": yaml.safe_dump(config)}))
    assert run_training(job, silent).ap == 2
    solver.update(ONE_CYCLE_PCT=0.3, LR_SCHEDULER_NAME="OneCycleLR")
    record.write_text(json.dumps({**content, "config": yaml.safe_dump(config)}))
    assert run_training(job, silent).ap == 2
    assert len(pretended) == 2


@pytest.mark.parametrize("content", ['{"slurm": 1}', "[]", "no json", "", '{"made_by": "slurm", "format": 1}'])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_record_of_others_is_not_taken_for_ours(
    job: TrainingJob, pretended: list[TrainingJob], content: str, fresh: bool
) -> None:
    folder = Path(job.output_dir)
    folder.mkdir()
    for name in ("thesis.tex", "model_final.pth", "result.json", "model_0000001.pth"):
        (folder / name).write_text(name)
    (folder / "job.json").write_text(content)
    before = files(folder)
    with pytest.raises(ValueError, match="was not made by this command"):
        run_training(job, silent, fresh=fresh)
    assert files(folder) == before
    assert pretended == []


def test_a_command_leaves_what_it_made_with_other_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, defaults = tmp_path / "out", {"max_iter": None, "seed": 0, "data": None}

    def settle(*, fresh: bool = False, **settings: Any) -> Path:
        folder = settle_output(output, "quickstart", {**defaults, **settings}, defaults, fresh=fresh)
        (folder / "results.md").touch()
        return folder

    assert settle() == output
    assert settle() == output
    assert capsys.readouterr().out == ""
    assert settle(max_iter=50, seed=1) == tmp_path / "out-max_iter-50-seed-1"
    line = capsys.readouterr().out
    assert "settings.max_iter None, now 50; settings.seed 0, now 1" in line
    assert "stays as it is: this is for" in line
    assert settle(max_iter=50, seed=1) == tmp_path / "out-max_iter-50-seed-1"
    assert settle() == output
    others = [settle(data="a/b"), settle(data="a b")]
    assert len(set(others)) == 2
    assert settle(fresh=True, seed=3) == output
    assert settle(seed=3) == output
    assert settle() == tmp_path / "out-default"
    (tmp_path / "out-default" / "made_with.json").write_text('{"slurm": 1}')
    with pytest.raises(ValueError, match=r"out-default holds results\.md and was not made by this command"):
        settle()
