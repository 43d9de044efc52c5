"""`convergence` with two tiny models on a tiny dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from coco_files import CocoFiles
from tiny_models import tiny_cfg

from detr_d2.__main__ import main
from detr_d2.commands.convergence import MODELS, parse_model
from detr_d2.compare.records.results import RunResult
from detr_d2.experiments import timed_training
from detr_d2.experiments.training_job import TrainingJob

DATA = [
    *("DATASETS.TRAIN", ("cells_train",), "DATASETS.TEST", ("cells_val",), "DATALOADER.NUM_WORKERS", 0),
    *("INPUT.MIN_SIZE_TRAIN", (48,), "INPUT.MIN_SIZE_TEST", 48, "INPUT.CROP.ENABLED", False),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 40, "SOLVER.STEPS", (20,), "TEST.EVAL_PERIOD", 0),
    *("SOLVER.OPTIMIZER", "ADAMW", "MODEL.DETR.NUM_CLASSES", 0),
]


def test_default_models_are_five_configs_with_their_overrides() -> None:
    parsed = [parse_model(text) for text in MODELS]
    assert [name for name, _, _ in parsed] == [
        "DETR",
        "Deformable DETR",
        "+ refinement",
        "+ two stages",
        "Faster R-CNN",
    ]
    assert parsed[1][2] == ("MODEL.DETR.TRANSFORMER.DEFORMABLE.BOX_REFINEMENT", "False")
    assert parsed[2][2] == ()


@pytest.mark.parametrize("text", ["DETR", "=detr_r50.yaml", "DETR=", "DETR=detr_r50.yaml SEED"])
def test_a_model_of_another_form(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=CONFIG"):
        parse_model(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "1", "1"], "--seeds are [1, 1]"),
        (["--minutes", "0"], "--minutes is 0.0, expected at least 0.01"),
        (["--evaluations", "0"], "--evaluations is 0"),
        (["--model", "A B=detr_r50.yaml", "--model", "a-b=detr_r50.yaml"], "each model needs a name of its own"),
        (["--model", "A=no_such.yaml"], "no_such.yaml"),
    ],
)
def test_wrong_options_before_anything_is_written(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convergence", "--output", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("override", ["DATALOADER.NUM_WORKERS 2", "MODEL.DEVICE cuda"])
def test_the_processor_time_of_workers_and_gpus_is_not_known(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    models = ["--model", f"A=quickstart/detr_shapes.yaml MODEL.DEVICE cpu {override}"]
    assert main(["convergence", "--output", str(tmp_path / "out"), "--clock", "cpu", *models]) == 2
    error = capsys.readouterr().err
    assert override in error.partition(": override")[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_models(
    tmp_path: Path, tiny_coco: CocoFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained in this process: that of `quickstart` is one of its own, which takes seconds to start."""

    def in_this_process(job: TrainingJob, report: Any) -> None:
        timed_training.train(job, report).save(job.result)

    monkeypatch.setattr(timed_training, "_train_in_a_process", in_this_process)
    elsewhere = ("DATASETS.TRAIN", ("elsewhere",), "DATASETS.TEST", ("elsewhere",))
    (tmp_path / "detr.yaml").write_text(tiny_cfg(*DATA, *elsewhere).dump())
    command = ["convergence", "--minutes", "0.01", "--evaluations", "2", "--output", str(tmp_path / "out")]
    command += [
        "--model",
        f"DETR={tmp_path}/detr.yaml",
        "--model",
        f"Wide={tmp_path}/detr.yaml MODEL.DETR.NUM_QUERIES 7",
    ]
    command += ["--coco", tiny_coco.spec("cells_train"), tiny_coco.spec("cells_val")]
    command += ["--seeds", "3"]
    assert main(command) == 0
    assert "DETR, seed-3: AP" in capsys.readouterr().out
    assert main(command) == 0
    assert "trained already" in capsys.readouterr().out
    runs = json.loads((tmp_path / "out" / "convergence.json").read_text())["runs"]
    assert [(run["model"], run["seed"]) for run in runs] == [("DETR", 3), ("Wide", 3)]
    for run in runs:
        assert 1 <= len(run["iterations"]) <= 2
        assert run["train_seconds"] > 0
        saved = json.loads(
            (tmp_path / "out" / run["model"].lower() / f"seed-{run['seed']}" / "result.json").read_text()
        )
        assert run["iterations"][-1] == saved["iterations"]
        assert run["ap"][-1] == saved["ap"]
    assert "| Wide    |       1 |" in (tmp_path / "out" / "convergence.md").read_text()
    assert (tmp_path / "out" / "convergence.png").exists()

    jobs: list[tuple[TrainingJob, bool]] = []

    def noted(job: TrainingJob, _: Any, *, fresh: bool) -> RunResult:
        jobs.append((job, fresh))
        return RunResult.load(job.result)

    monkeypatch.setattr("detr_d2.experiments.convergence.run_training", noted)
    assert main([*command, "--fresh"]) == 0
    tiny_coco.annotations.write_text(tiny_coco.annotations.read_text() + "\n")
    assert main(command) == 2  # other data go into another folder, where nothing is
    assert [fresh for _, fresh in jobs] == [True, True, False]
    assert jobs[0][0].input_hash != jobs[2][0].input_hash
    assert jobs[0][0].output_dir != jobs[2][0].output_dir
