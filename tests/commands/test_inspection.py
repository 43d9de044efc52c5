"""The commands `attention`, `queries` and `matching`, with small models of random weights."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_files import CocoFiles, make_tiny_coco
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from tiny_deformable import stir, tiny_deformable_cfg
from tiny_models import tiny_cfg

from detr_d2.__main__ import main
from detr_d2.checkpoint import Checkpointer
from detr_d2.commands._run import find_images

NAMES = ["red", "green", "blue"]
_SIZES = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96]


def save(cfg: CfgNode, folder: Path, name: str, seed: int = 0) -> None:
    torch.manual_seed(seed)
    model = build_model(cfg)
    stir(model, 0.2)
    checkpointer = Checkpointer(model, str(folder))
    checkpointer.metadata["class_names"] = NAMES
    checkpointer.save(name)
    (folder / f"{name}.yaml").write_text(cfg.dump())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs and checkpoints: detr, other (the same with other weights), deformable, two_stage; a Faster R-CNN."""
    folder = tmp_path_factory.mktemp("models")
    save(tiny_cfg(*_SIZES), folder, "detr")
    save(tiny_cfg(*_SIZES), folder, "other", seed=1)
    for variant in ("refine", "two_stage"):
        save(tiny_deformable_cfg(variant, *_SIZES), folder, variant)
    (folder / "faster_rcnn.yaml").write_text(tiny_cfg("MODEL.META_ARCHITECTURE", "GeneralizedRCNN").dump())
    return folder


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> CocoFiles:
    return make_tiny_coco(tmp_path_factory.mktemp("data") / "coco")


def run(*arguments: object) -> int:
    return main([str(x) for x in arguments])


def attention(models: Path, model: str, coco: CocoFiles, output: Path, *more: object) -> int:
    config = ["--config-file", models / f"{model}.yaml", "--weights", models / f"{model}.pth"]
    return run("attention", coco.image_root / "001.png", *config, "--output", output, *more)


def page_data(folder: Path) -> dict[str, Any]:
    page = (folder / "attention.html").read_text()
    return json.loads(page.split('id="looks">')[1].split("</script>")[0])


@pytest.mark.parametrize(("model", "kind"), [("detr", "heat"), ("refine", "samples"), ("two_stage", "samples")])
def test_attention(
    model: str, kind: str, models: Path, coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attention(models, model, coco, tmp_path, "--score-threshold", 0, "--max-detections", 3) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.png", "decoder.png", "attention.html"}
    assert "encoder.png, decoder.png, attention.html are in" in capsys.readouterr().out
    decoder, encoder = page_data(tmp_path)["groups"]
    assert len(decoder) == 3
    assert 48 + 1 <= len(encoder) <= 48 + 3  # a grid, and the centres of the detections
    assert all(set(look) == {"text", kind} for look in [*decoder, *encoder])


def test_attention_of_given_points_layers_and_heads(models: Path, coco: CocoFiles, tmp_path: Path) -> None:
    common = ["--score-threshold", 0, "--points", "0,0", "63.5,47"]
    maps = []
    for index, options in enumerate(([], ["--head", 2], ["--layer", 1, "--encoder-layer", 1])):
        folder = tmp_path / str(index)
        assert attention(models, "detr", coco, folder, *common, *options) == 0
        decoder, encoder = page_data(folder)["groups"]
        assert [look["text"].split(":")[0] for look in encoder] == ["point 0, 0", "point 64, 47"]
        maps.append((decoder[0]["heat"]["data"], encoder[0]["heat"]["data"]))
    assert len({x for x, _ in maps}) == len({y for _, y in maps}) == 3
    assert "decoder layer 1 and the encoder layer 1, the mean" in (tmp_path / "2" / "attention.html").read_text()


def test_attention_without_detections_shows_the_encoder(
    models: Path, coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attention(models, "detr", coco, tmp_path, "--score-threshold", 1) == 0
    assert "no detection scores 1 or more" in capsys.readouterr().out
    assert not (tmp_path / "decoder.png").exists()
    assert len(page_data(tmp_path)["groups"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--points", "64,3"], "--points 64,3 is outside of"),
        (["--points", "3,-1"], "which is 64 pixels wide and 48 high; x must be 0 to 63 and y 0 to 47"),
        (["--layer", "4"], "the decoder has 3 layers, so there is no layer 4"),
        (["--encoder-layer", "3"], "the encoder has 2 layers"),
        (["--head", "5"], "4 heads, so there is no head 5"),
        (["--score-threshold", "2"], "expected 0 to 1"),
        (["--max-detections", "0"], "expected 1 or more"),
        (["--weights", "missing.pth"], "missing.pth"),
    ],
)
def test_mistakes_are_one_sentence(
    options: list[str],
    message: str,
    models: Path,
    coco: CocoFiles,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert attention(models, "detr", coco, tmp_path, *options) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_point_that_is_none(
    models: Path, coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        attention(models, "detr", coco, tmp_path, "--points", "3;4")
    assert "'3;4' is not a place X,Y" in capsys.readouterr().err


def queries(models: Path, model: str, output: Path, *more: object) -> int:
    config = ["--config-file", models / f"{model}.yaml", "--weights", models / f"{model}.pth"]
    return run("queries", *config, "--output", output, *more)


def test_queries(models: Path, coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--coco", coco.spec("inside"), "--score-threshold", 0, "--show", 3]
    assert queries(models, "detr", tmp_path, *options) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"query_boxes.png", "query_classes.png", "queries.json"}
    result = json.loads((tmp_path / "queries.json").read_text())
    assert (result["dataset"], result["images"], len(result["queries"])) == ("inside", 3, 8)
    for query in result["queries"]:
        assert query["fires"] == 1
        assert sum(query["classes"].values()) == 3
        assert set(query["classes"]) <= set(NAMES)
    assert "8 of 8 queries fire (score >= 0) in some of 3 images" in capsys.readouterr().out


def test_queries_of_a_dataset_of_the_config_and_of_the_first_images(
    models: Path, coco: CocoFiles, tmp_path: Path
) -> None:
    options = ["--dataset", "own", "--limit", 2, "--opts", "DATASETS.COCO", [coco.spec("own")]]
    assert queries(models, "detr", tmp_path, *options) == 0
    assert json.loads((tmp_path / "queries.json").read_text())["images"] == 2


def matching(models: Path, output: Path, *more: object) -> int:
    return run("matching", "--output", output, "--config-file", models / "detr.yaml", *more)


def test_matching(models: Path, coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = [models / name for name in ("detr.pth", "detr.pth", "other.pth")]
    assert matching(models, tmp_path, "--coco", coco.spec("inside"), "--checkpoints", *checkpoints) == 0
    result = json.loads((tmp_path / "matching.json").read_text())
    assert (result["images"], result["objects"]) == (3, 3)  # the crowd region is no object
    same, changed = (x["layers"] for x in result["transitions"])
    assert [(x["layer"], x["same"], x["instability"]) for x in same] == [(1, 1, 0), (2, 1, 0), (3, 1, 0)]
    assert any(x["same"] < 1 for x in changed)
    assert (tmp_path / "matching.png").is_file()
    assert "100.0% of 3 objects keep their query, instability 0.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoints", "{models}/detr.pth", "--coco", "{coco}"], "it takes two"),
        (["--checkpoints", "{models}/detr.pth", "gone.pth", "--coco", "{coco}"], "there is no checkpoint gone.pth"),
        (["--checkpoints", "{models}/detr.pth", "{models}/refine.pth", "--coco", "{coco}"], "refine.pth"),
    ],
)
def test_mistakes_of_matching(
    options: list[str],
    message: str,
    models: Path,
    coco: CocoFiles,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [x.format(models=models, coco=coco.spec("inside")) for x in options]
    assert matching(models, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert message in error


def test_only_detrs_can_be_looked_into(
    models: Path, coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, data = coco.image_root / "001.png", ["--coco", coco.spec("inside")]
    other = ["--config-file", models / "faster_rcnn.yaml", "--output", tmp_path]
    weights = ["--weights", models / "detr.pth"]
    commands: list[list[Any]] = [
        ["attention", image, *other, *weights],
        ["queries", *data, *other, *weights],
        ["matching", *data, *other, "--checkpoints", models / "detr.pth", models / "other.pth"],
    ]
    for command in commands:
        assert run(*command) == 2
        assert "is a GeneralizedRCNN, which has no object queries" in capsys.readouterr().err


def test_data_that_does_not_fit(
    models: Path, coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, message in (
        (["--dataset", "nowhere"], "dataset nowhere is not registered"),
        (["--coco", coco.spec("inside"), "--limit", 0], "--limit is 0, expected 1 or more"),
        (["--coco", coco.spec("inside"), "--show", 0], "--show is 0"),
        (["--coco", coco.spec("inside"), "--score-threshold", -1], "expected 0 to 1"),
    ):
        assert queries(models, "detr", tmp_path, *options) == 2
        assert message in capsys.readouterr().err
    assert queries(models, "two_stage", tmp_path, "--coco", coco.spec("inside")) == 2
    assert "two_stage.yaml is a two-stage model" in capsys.readouterr().err
    coco_of_two = json.loads(coco.annotations.read_text())
    coco_of_two["images"] = []
    coco_of_two["annotations"] = []
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(coco_of_two))
    assert queries(models, "detr", tmp_path, "--coco", f"empty={empty}:{coco.image_root}") == 2
    assert "empty" in capsys.readouterr().err


def test_records_of_users_are_looked_through() -> None:
    DatasetCatalog.register("stream_inside", lambda: iter([]))
    with pytest.raises(ValueError, match=r"dataset stream_inside: its function returned .*, expected a list"):
        find_images(tiny_cfg(), Namespace(coco=None, dataset="stream_inside", limit=None))
    DatasetCatalog.register("boxless_inside", lambda: [{"file_name": "a.png", "annotations": [{"category_id": 0}]}])
    with pytest.raises(ValueError, match=r'boxless_inside: annotation a\.png #0 has no "bbox"'):
        find_images(tiny_cfg(), Namespace(coco=None, dataset="boxless_inside", limit=None))


def test_results_are_kept_unless_told_otherwise(
    models: Path, coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "encoder.png").write_text("mine")
    assert attention(models, "detr", coco, tmp_path) == 2
    assert "encoder.png exists already; choose another --output, or pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "encoder.png").read_text() == "mine"
    assert attention(models, "detr", coco, tmp_path, "--overwrite") == 0
    assert (tmp_path / "encoder.png").read_bytes().startswith(b"\x89PNG")
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert attention(models, "detr", coco, blocked / "below") == 2
    assert "cannot write into" in capsys.readouterr().err


def test_parts_of_the_user_are_imported(models: Path, coco: CocoFiles, tmp_path: Path) -> None:
    own = tmp_path / "inspected_parts.py"
    own.write_text(
        "from detr_d2.modeling import TRANSFORMER_REGISTRY\n"
        "from detr_d2.modeling.transformer import DETRTransformer\n"
        "@TRANSFORMER_REGISTRY.register()\n"
        "class InspectedTransformer(DETRTransformer):\n"
        "    pass\n"
        "def add_config(cfg):\n"
        "    cfg.MODEL.MINE = 0\n"
    )
    opts = ["--import", own, "--opts", "MODEL.MINE", 1, "MODEL.DETR.TRANSFORMER.NAME", "InspectedTransformer"]
    config, data = ["--config-file", models / "detr.yaml"], ["--coco", coco.spec("inside")]
    weights = ["--weights", models / "detr.pth"]
    checkpoints = ["--checkpoints", models / "detr.pth", models / "other.pth"]
    assert run("attention", coco.image_root / "001.png", *config, *weights, "--output", tmp_path / "a", *opts) == 0
    assert run("queries", *config, *weights, *data, "--output", tmp_path / "q", *opts) == 0
    assert run("matching", *config, *checkpoints, *data, "--output", tmp_path / "m", *opts) == 0
