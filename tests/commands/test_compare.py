"""`python -m detr_d2 compare` on tiny models with random weights."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_files import CocoFiles
from comparison_example import example_comparison
from detectron2.modeling import build_model
from PIL import Image
from tiny_baselines import build_lively, tiny_faster_rcnn_cfg, tiny_retinanet_cfg
from tiny_models import tiny_cfg

from detr_d2 import cli
from detr_d2.checkpoint import Checkpointer
from detr_d2.commands import compare
from detr_d2.compare.found import boxes as collect
from detr_d2.compare.measure.intervals import METRICS
from detr_d2.compare.records.comparison import Comparison, load_comparison, save_comparison

NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs and checkpoints of the three families; the class names of RetinaNet are those of the data but one."""
    folder = tmp_path_factory.mktemp("models")
    small = ["INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 96]
    for name, cfg in {
        "detr": tiny_cfg(*small),
        "rcnn": tiny_faster_rcnn_cfg(*small),
        "retina": tiny_retinanet_cfg(*small),
    }.items():
        (folder / f"{name}.yaml").write_text(cfg.dump())
        torch.manual_seed(0)
        model = build_model(cfg) if name == "detr" else build_lively(cfg)
        names = ["red", "other", "blue"] if name == "retina" else NAMES
        Checkpointer(model, str(folder)).save(name, class_names=names)
    return folder


def run(models: Path, data: CocoFiles, output: Path, labels: Sequence[str], *extra: Any) -> int:
    specs = [x for label in labels for x in ("--model", f"{label}={models / label}.yaml,{models / label}.pth")]
    arguments = ["--coco", data.spec("compared"), *specs, "--output", str(output), "--cpu", "--resamples", "10"]
    return cli.run(compare.main, [*arguments, *map(str, extra)])


def results(output: Path) -> Comparison:
    return load_comparison(output / "results.json")


def test_three_families(
    models: Path,
    tiny_coco: CocoFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("detr_d2.compare.cost.cost.image_memory_mb", lambda *_: 123.0)
    extra = ["--repeat", 2, "--batch-sizes", 1, 2, "--score-threshold", 0.3]
    assert run(models, tiny_coco, tmp_path, ["detr", "rcnn", "retina"], *extra) == 0
    found = results(tmp_path)
    assert [x.label for x in found.models] == ["detr", "rcnn", "retina"]
    assert [x.family for x in found.models] == ["DETR", "R-CNN", "dense"]
    assert (found.dataset.num_images, found.dataset.num_objects, found.dataset.num_crowd) == (3, 3, 1)
    assert found.dataset.class_names == NAMES
    assert len(found.gallery) == 3
    pairs = [("detr", "rcnn"), ("detr", "retina"), ("rcnn", "retina")]
    for metric in (*METRICS, "latency_ms"):
        assert [(x.first, x.second) for x in found.differences if x.metric == metric] == pairs
    for model in found.models:
        assert not model.failed
        assert model.coco is not None
        assert model.cost is not None
        assert 0 <= model.coco.ap <= 100
        assert model.run.ap == model.coco.ap
        assert len(model.nms) == (3 if model.label == "detr" else 1) * 15
        assert [x.shipped for x in model.nms].count(True) == 1
        shipped = next(x for x in model.nms if x.shipped)
        assert shipped.ap == pytest.approx(model.coco.ap, abs=1e-9)
        assert model.confidence["ap"].value == pytest.approx(model.coco.ap, abs=1e-9)
        other = "with NMS" if model.label == "detr" else "without NMS"  # the others ship with NMS at 0.5
        assert [x.setting for x in model.extra_boxes] == ["shipped", other]
        assert model.counting is not None
        assert model.operating is not None
        assert (model.operating.given, model.operating.scores) == (True, [0.3, 0.3])
        for name, value in {
            "ar_max": model.coco.ar_max,
            "recall": model.operating.at.recall,
            "extra": model.operating.at.extra,
            "count_error": model.counting.mean_absolute_error,
        }.items():
            assert model.confidence[name].value == pytest.approx(value, abs=1e-9, nan_ok=True)
        assert len(model.errors) == 6
        assert model.cost.latency[0].stage == "total"
        assert all(x.p95_ms >= x.p50_ms >= 0 for x in model.cost.latency)
        assert [x.batch_size for x in model.cost.throughput] == [1, 2]
        assert model.cost.gflops > 0
        assert model.cost.image_memory_mb == 123
        assert 0 < model.cost.weights_memory_mb < 200
        assert model.cost.backbone_path == "fast"
        assert model.run.parameters == model.cost.parameters > 1000
        assert set(found.gallery[0].detections) == {"detr", "rcnn", "retina"}
    detr, rcnn, retina = found.models
    assert detr.query_limit is not None
    assert detr.query_limit.num_queries == 8
    assert rcnn.query_limit is None
    assert [x.stage for x in detr.cost.latency] == ["total", "backbone", "transformer", "rest"]  # type: ignore[union-attr]
    parts = ["backbone", "proposals", "heads", "NMS", "rest"]
    assert [x.stage for x in rcnn.cost.latency] == ["total", *parts]  # type: ignore[union-attr]
    assert any("does not know 1 of the classes: green" in note for note in retina.notes)
    assert any("1 classes that the data do not have" in note for note in retina.notes)
    assert f"note: {retina.label}: it does not know 1 of the classes: green" in capsys.readouterr().out
    kept = [x.kept_per_image for x in rcnn.nms]
    assert kept[0] > kept[1] > 0  # none, then the strictest
    assert kept[1:] == sorted(kept[1:])

    rows = list(csv.DictReader((tmp_path / "models.csv").open()))
    assert [float(x["ap"]) for x in rows] == pytest.approx([x.run.ap for x in found.models])
    assert len(list(csv.DictReader((tmp_path / "nms.csv").open()))) == 75
    assert len(list(csv.DictReader((tmp_path / "per_class.csv").open()))) == 9
    assert (tmp_path / "table.md").read_text().split("|")[1:3] == [" model   ", "   AP "]
    assert r"\toprule" in (tmp_path / "table.tex").read_text()


@pytest.mark.usefixtures("no_figures")
def test_a_second_report_runs_no_model(
    models: Path,
    tiny_coco: CocoFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(models, tiny_coco, tmp_path, ["detr", "rcnn"], "--skip-cost") == 0
    first = results(tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("the model is run again")

    monkeypatch.setattr(collect, "raw_outputs", never)
    assert run(models, tiny_coco, tmp_path, ["detr", "rcnn"], "--skip-cost") == 0
    assert results(tmp_path).models == first.models
    # Other figures from the same predictions.
    assert run(models, tiny_coco, tmp_path, ["detr"], "--skip-cost", "--score-threshold", 0.1) == 0
    # From the file alone, without models and data.
    table = (tmp_path / "table.md").read_text()
    output = tmp_path / "again"
    arguments = ["--from-json", str(tmp_path / "results.json"), "--output", str(output)]
    assert cli.run(compare.main, arguments) == 0
    assert (output / "table.md").read_text() == table
    # A record of somebody else that asks for pictures of other folders.
    record = json.loads((tmp_path / "results.json").read_text())
    page = (output / "report.html").read_text()
    shown = page.count("data:image/jpeg")
    assert shown > 0
    for root in ("", "/", str(tmp_path / "elsewhere"), record["dataset"]["image_root"] + "/../elsewhere"):
        record["dataset"]["image_root"] = root
        (tmp_path / "sent.json").write_text(json.dumps(record))
        capsys.readouterr()
        assert cli.run(compare.main, ["--from-json", str(tmp_path / "sent.json"), "--output", str(output)]) == 0
        assert "images of the record are not shown" in capsys.readouterr().err
        assert "data:image/jpeg" not in (output / "report.html").read_text()
    assert run(models, tiny_coco, tmp_path, ["rcnn"], "--skip-cost", "--fresh") == 1
    assert "AssertionError: the model is run again" in results(tmp_path).models[0].failed


def test_a_page_from_json_needs_no_torch(tmp_path: Path) -> None:
    for name in ("0.png", "1.png"):
        Image.new("RGB", (128, 96), "grey").save(tmp_path / name)
    example = example_comparison((str(tmp_path / "0.png"), str(tmp_path / "1.png")))
    example = replace(example, dataset=replace(example.dataset, image_root=str(tmp_path)))
    save_comparison(example, tmp_path / "results.json")
    command = ["-X", "importtime", "-m", "detr_d2", "compare", "--from-json", str(tmp_path / "results.json")]
    done = subprocess.run(
        [sys.executable, *command, "--output", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr  # as one of the models has failed
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"detr_d2", "jinja2", "matplotlib", "PIL"} <= imported
    assert not imported & {"torch", "torchvision", "detectron2", "fvcore", "cv2", "pycocotools", "faster_coco_eval"}
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/jpeg") == 3  # two of the gallery, a removal
    assert "Faster R-CNN" in done.stdout


@pytest.mark.usefixtures("no_figures")
def test_new_weights_or_data_are_run_anew(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    original = collect.raw_outputs

    def counted(*arguments: Any) -> Any:
        ran.append(1)
        return original(*arguments)

    monkeypatch.setattr(collect, "raw_outputs", counted)
    own = tmp_path / "own"
    own.mkdir()
    for suffix in ("yaml", "pth"):
        (own / f"detr.{suffix}").write_bytes((models / f"detr.{suffix}").read_bytes())
    for change in ("nothing", "weights", "data", "nothing"):
        if change == "weights":
            content = torch.load(own / "detr.pth")
            content["model"]["head.class_embed.bias"] += 1
            torch.save(content, own / "detr.pth")
        elif change == "data":
            with (tiny_coco.image_root / "001.png").open("ab") as file:
                file.write(b"\0")
        assert run(own, tiny_coco, tmp_path / "out", ["detr"], "--skip-cost") == 0
    assert len(ran) == 9


@pytest.mark.usefixtures("no_figures")
def test_a_failed_model_does_not_take_the_others_along(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = tmp_path / "strange.pth"
    torch.save({"model": {"nothing.weight": torch.zeros(1)}}, strange)
    wrong = ["--model", f"Wrong={models / 'rcnn.yaml'},{strange}", "--skip-cost"]
    assert run(models, tiny_coco, tmp_path / "out", ["detr"], *wrong) == 1
    found = results(tmp_path / "out")
    assert [bool(x.failed) for x in found.models] == [False, True]
    assert "is not a trained model of this config" in found.models[1].failed
    assert "error: Wrong: " in capsys.readouterr().err
    assert "Wrong failed" in (tmp_path / "out" / "table.md").read_text()
    assert list(found.gallery[0].detections) == ["detr"]


@pytest.mark.usefixtures("no_figures")
def test_several_checkpoints_of_a_model(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, strange = (tmp_path / f"{name}.pth" for name in ("first", "second", "strange"))
    content = torch.load(models / "detr.pth")
    torch.save(content, first)
    content["model"]["head.class_embed.bias"] += torch.linspace(-1, 1, len(content["model"]["head.class_embed.bias"]))
    torch.save(content, second)
    torch.save({"model": {"nothing.weight": torch.zeros(1)}}, strange)
    config = models / "detr.yaml"
    specs = [f"Both={config},{first},{second}", f"One={config},{second}", f"Wrong={config},{first},{strange}"]
    more = ["--score-threshold", 0.3, *(x for spec in specs for x in ("--model", spec))]
    assert run(models, tiny_coco, tmp_path / "out", [], *more, "--skip-cost") == 1
    found = results(tmp_path / "out")
    both, one, wrong = found.models
    assert [x.weights for x in both.checkpoints] == [both.weights, str(second)] == [str(first), str(second)]
    assert both.checkpoints[1].ap == one.run.ap
    assert both.counting is not None
    assert one.counting is not None
    assert both.counting.mean_error != one.counting.mean_error
    assert both.confidence["ap"].checkpoints == [x.ap for x in both.checkpoints]
    assert both.run.ap == both.confidence["ap"].value == pytest.approx(sum(x.ap for x in both.checkpoints) / 2)
    assert one.checkpoints == []
    assert wrong.failed.startswith(f"{strange} (detectron2) has no values")
    assert {(x.first, x.second) for x in found.differences} == {("Both", "One")}
    assert "note: Both: its figures are the means of 2 checkpoints" in capsys.readouterr().out
    same = ["--model", f"Same={config},{models / 'detr.pth'},{first}", "--skip-cost"]
    shutil.copy(models / "detr.pth", first)
    assert run(models, tiny_coco, tmp_path / "again", [], *same) == 2
    assert "are the same weights" in capsys.readouterr().err


@pytest.mark.usefixtures("no_figures")
def test_an_image_that_crashes_is_reported(
    models: Path,
    tiny_coco: CocoFiles,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tiny_coco.image_root / "002.png").write_bytes(b"broken")
    assert run(models, tiny_coco, tmp_path, ["detr"], "--skip-cost") == 0
    (model,) = results(tmp_path).models
    assert [Path(x.file_name).name for x in model.crashed_images] == ["002.png"]
    assert "detr failed on 1 image, first on" in capsys.readouterr().err


@pytest.mark.usefixtures("no_figures")
def test_an_image_that_failed_is_tried_again(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, done = collect.raw_outputs, []

    def once(*arguments: Any) -> Any:
        done.append(1)
        if len(done) == 2:
            raise RuntimeError("no memory")
        return original(*arguments)

    monkeypatch.setattr(collect, "raw_outputs", once)
    assert run(models, tiny_coco, tmp_path, ["detr"], "--skip-cost") == 0
    assert len(results(tmp_path).models[0].crashed_images) == 1
    assert run(models, tiny_coco, tmp_path, ["detr"], "--skip-cost") == 0
    assert results(tmp_path).models[0].crashed_images == []
    assert len(done) == 4  # that image alone


@pytest.mark.usefixtures("no_figures")
def test_costs_that_cannot_be_measured_lose_nothing(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("the clock\nis broken")

    monkeypatch.setattr("detr_d2.compare.run_costs.measure_costs", fails)
    assert run(models, tiny_coco, tmp_path, ["detr"]) == 0
    (model,) = results(tmp_path).models
    assert model.cost is None
    assert model.coco is not None
    assert model.notes[-1] == "the cost of the models could not be measured (RuntimeError: the clock is broken)"
    assert (tmp_path / "report.html").exists()


_OWN = """
from detr_d2.modeling import TRANSFORMER_REGISTRY
from detr_d2.modeling.transformer import DETRTransformer


def add_config(cfg):
    cfg.MODEL.MINE = 0


@TRANSFORMER_REGISTRY.register()
class ComparedTransformer(DETRTransformer):
    pass
"""


@pytest.mark.usefixtures("no_figures")
def test_parts_of_the_user_are_imported_and_belong_to_what_predictions_depend_on(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "compared_parts.py"
    own.write_text(_OWN)
    wanted: list[str] = []

    def measure(*_: object, imports: Sequence[str], **__: object) -> None:
        wanted.extend(imports)
        raise RuntimeError("not here")

    monkeypatch.setattr("detr_d2.compare.run_costs.measure_costs", measure)
    options = ["--import", own, "--opts", "MODEL.MINE", 3, "MODEL.DETR.TRANSFORMER.NAME", "ComparedTransformer"]
    assert run(models, tiny_coco, tmp_path / "out", ["detr"], *options) == 0
    assert wanted == [str(own)]
    (first,) = (tmp_path / "out" / "cache").glob("*/classes.json")
    assert results(tmp_path / "out").versions["compared_parts.py"]
    own.write_text(_OWN + "# changed")
    assert run(models, tiny_coco, tmp_path / "out", ["detr"], *options) == 0
    assert len(list((tmp_path / "out" / "cache").glob("*/classes.json"))) == 2
    assert first.exists()


@pytest.mark.usefixtures("no_figures")
def test_stopping_keeps_what_is_finished(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = collect.raw_outputs
    done: list[int] = []

    def stop(*arguments: Any) -> Any:
        done.append(1)
        if len(done) == 5:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(collect, "raw_outputs", stop)
    assert run(models, tiny_coco, tmp_path, ["detr", "rcnn"], "--skip-cost") == cli.INTERRUPTED
    assert [x.label for x in results(tmp_path).models] == ["detr"]
    assert run(models, tiny_coco, tmp_path, ["detr", "rcnn"], "--skip-cost") == 0
    assert [x.label for x in results(tmp_path).models] == ["detr", "rcnn"]
    assert len(done) == 5 + 3


@pytest.mark.usefixtures("no_figures")
def test_random_weights(models: Path, tiny_coco: CocoFiles, tmp_path: Path) -> None:
    specs = ["--model", f"A={models / 'detr.yaml'},", "--model", f"B={models / 'rcnn.yaml'},", "--skip-cost"]
    assert run(models, tiny_coco, tmp_path, [], *specs, "--limit", 2) == 0
    found = results(tmp_path)
    assert all("its weights are random" in x.notes for x in found.models)
    assert found.dataset.limited
    assert found.dataset.num_images == 2


def test_mistakes_are_one_sentence(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detr = f"A={models / 'detr.yaml'}"
    content = {**tiny_coco.content, "annotations": []}
    empty = tiny_coco.annotations.with_name("empty.json")
    empty.write_text(json.dumps(content))
    spec = f"empty={empty}:{tiny_coco.image_root}"
    coco, out = ["--coco", tiny_coco.spec("compared")], ["--output", str(tmp_path / "out"), "--cpu"]
    cases: dict[str, list[str]] = {
        "no model is given": [*coco, *out],
        "no data are given": ["--model", f"{detr},", *out],
        "expected LABEL=config.yaml,weights": [*coco, *out, "--model", detr],
        "the label 'A' is given twice": [*coco, *out, "--model", f"{detr},", "--model", f"{detr},"],
        "--model A: The checkpoint no.pth does not exist": [*coco, *out, "--model", f"{detr},no.pth"],
        "no such config": [*coco, *out, "--model", "A=no.yaml,"],
        "has no objects in the 3 images": ["--coco", spec, *out, "--model", f"{detr},"],
        "--limit is 0": [*coco, *out, "--model", f"{detr},", "--limit", "0"],
        "dataset nothing is not registered": ["--dataset", "nothing", *out, "--model", f"{detr},"],
        "--repeat is 0": [*coco, *out, "--model", f"{detr},", "--repeat", "0"],
        "is not a result of `compare`": ["--from-json", str(empty), *out],
    }
    for message, arguments in cases.items():
        assert cli.run(compare.main, arguments) == cli.USER_ERROR, message
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: "), error
        assert message in error
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.usefixtures("no_figures")
def test_classes_in_common_are_needed(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny_coco.annotations.read_text()
    for name in NAMES:
        text = text.replace(f'"{name}"', f'"new {name}"')
    tiny_coco.annotations.write_text(text)
    assert run(models, tiny_coco, tmp_path, ["detr"], "--skip-cost") == 1
    assert "detr knows none of the classes of the data" in results(tmp_path).models[0].failed
    assert capsys.readouterr().err.strip().endswith("none of the models could be measured, so there is no page")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("no_figures")
def test_the_length_of_the_training_is_in_the_record(models: Path, tiny_coco: CocoFiles, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    folder.mkdir()
    content = torch.load(models / "detr.pth")
    torch.save({**content, "iteration": 39}, folder / "detr.pth")
    (folder / "last_checkpoint").write_text("detr.pth")
    (folder / "detr.yaml").write_bytes((models / "detr.yaml").read_bytes())
    (folder / "config.yaml").write_text("SEED: 3\nSOLVER: {IMS_PER_BATCH: 8}\n")
    (folder / "metrics.json").write_text('{"iteration": 19, "time": 0.5}\n{"iteration": 39, "time": 1.5}\n')
    assert run(folder, tiny_coco, tmp_path / "out", ["detr"], "--skip-cost") == 0
    found = results(tmp_path / "out").models[0].run
    assert (found.iterations, found.train_seconds, found.seed) == (40, 40.0, 3)
    assert found.train_images_per_second == 8
    assert found.extra == {"images_per_iteration": 8}
