"""`python -m detr_d2 check-recipe`: table, sentences, file, and where the number of images comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coco_files import CocoFiles

from detr_d2.__main__ import main
from detr_d2.recipes.effects import EFFECTS


def test_the_papers_config_has_no_difference(capsys: pytest.CaptureFixture[str]):
    assert main(["check-recipe", "--config-file", "detr_r50.yaml"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("detr_r50.yaml against DETR (Carion et al. 2020); training images: 118,287\n")
    columns = ["setting", "this config", "the paper", "mark"]
    header, _, *lines = out.splitlines()[2:]
    assert all(column in header for column in columns)
    (queries,) = [line for line in lines if line.startswith("MODEL.DETR.NUM_QUERIES ")]
    assert queries.split() == ["MODEL.DETR.NUM_QUERIES", "100", "100"]
    assert out.endswith("No setting differs from the recipe.\n")


def test_differences_are_marked_and_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    file = tmp_path / "folder" / "recipe.json"
    options = ["SEED", "7", "INPUT.FORMAT", "BGR", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.01"]
    assert main(["check-recipe", "--config-file", "detr_r50_dc5.yaml", "--json", str(file), "--opts", *options]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("INPUT.FORMAT ")]
    assert line.split() == ["INPUT.FORMAT", "BGR", "RGB", "differs"]
    assert "2 settings differ from the recipe:\n  SOLVER.CLIP_GRADIENTS.CLIP_VALUE: " in out
    assert "Worth knowing, no departure from it:\n  SEED: any seed will do" in out

    content = json.loads(file.read_text())
    assert content["config_file"] == "detr_r50_dc5.yaml"
    assert content["recipe"] == "DETR (Carion et al. 2020)"
    assert content["num_images"] == 118_287
    rows = {row["setting"]: row for row in content["settings"]}
    assert rows["SOLVER.CLIP_GRADIENTS.CLIP_VALUE"] == {
        "setting": "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
        "keys": ["SOLVER.CLIP_GRADIENTS.CLIP_VALUE"],
        "here": "0.01",
        "paper": "0.1",
        "source": "detr_r50_dc5.yaml",
        "mark": "differs",
        "effect": EFFECTS["SOLVER.CLIP_GRADIENTS."],
    }
    assert (rows["SEED"]["mark"], rows["MODEL.RESNETS.RES5_DILATION"]["here"]) == ("note", "2")


def schedule(out: str) -> str:
    (line,) = [line for line in out.splitlines() if line.startswith("SOLVER.MAX_ITER ")]
    return line.removeprefix("SOLVER.MAX_ITER").strip().partition("   ")[0]


def test_images_are_counted_in_the_data(tiny_coco: CocoFiles, capsys: pytest.CaptureFixture[str]):
    """With 1 image a step an epoch has as many steps as the data has images."""
    images = tiny_coco.content["images"]
    call = ["check-recipe", "--config-file", "detr_r50.yaml", "--coco", tiny_coco.spec("tiny")]
    options = ["DATASETS.TRAIN", "('tiny',)", "SOLVER.IMS_PER_BATCH", "1", "SOLVER.STEPS", "(60,)"]
    options += ["SOLVER.MAX_ITER", "120"]
    assert main([*call, "--opts", *options]) == 0
    out = capsys.readouterr().out
    assert f"; training images: {len(images)}\n" in out
    epochs = [120 / len(images), 60 / len(images)]
    assert schedule(out).startswith(f"{epochs[0]:.1f} epochs, x 0.1 after {epochs[1]:.1f}")

    assert main([*call, "--num-images", "40", "--opts", *options]) == 0
    out = capsys.readouterr().out
    assert "; training images: 40\n" in out
    assert schedule(out).startswith("3.0 epochs, x 0.1 after 1.5")


def test_images_without_objects_are_not_counted_when_they_are_left_out(
    tiny_coco: CocoFiles, capsys: pytest.CaptureFixture[str]
):
    """Image 1 has objects, image 2 is left with a crowd, image 3 has nothing: one image, as detectron2 counts."""
    content = json.loads(tiny_coco.annotations.read_text())
    content["annotations"] = [x for x in content["annotations"] if x["image_id"] == 1 or x["iscrowd"]]
    assert {x["image_id"] for x in content["annotations"]} == {1, 2}
    tiny_coco.annotations.write_text(json.dumps(content))
    options = ["DATASETS.TRAIN", "('tiny',)", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "True"]
    call = ["check-recipe", "--config-file", "detr_r50.yaml", "--coco", tiny_coco.spec("tiny"), "--opts", *options]
    assert main(call) == 0
    assert "; training images: 1\n" in capsys.readouterr().out


def test_unknown_data_is_said_to_be_unknown(capsys: pytest.CaptureFixture[str]):
    assert main(["check-recipe", "--config-file", "quickstart/detr_bccd.yaml"]) == 0
    out = capsys.readouterr().out
    assert "the number of training images is unknown (dataset bccd_train is not registered" in out
    assert "--num-images gives it" in out
    assert "SOLVER.MAX_ITER: the paper's schedule has one drop" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["faster_rcnn_r50_fpn.yaml"],
            "MODEL.META_ARCHITECTURE is 'GeneralizedRCNN': recipes are known for 'DETR' alone",
        ),
        (["detr_r50.yaml", "--num-images", "0"], "the number of training images is 0, expected 1 or more"),
        (["nowhere.yaml"], "there is no file nowhere.yaml"),
        (["detr_r50.yaml", "--opts", "SOLVER.BASE"], "are not pairs of KEY VALUE"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["check-recipe", "--config-file", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
