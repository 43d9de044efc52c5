"""`convert` of models with a mask head: there and back, what other libraries make of it, what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from converting import run, weights
from foreign_models import small_cfg
from state_dicts import assert_same

from detr_d2.checkpoint import read_checkpoint
from detr_d2.checkpoint.class_head import PANOPTIC
from detr_d2.checkpoint.layouts.identify import WITH_MASKS
from detr_d2.modeling import DETR


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, and the checkpoint of a small panoptic DETR with 133 classes that knows no names."""
    folder = tmp_path_factory.mktemp("masks")
    options = ("INPUT.MIN_SIZE_TEST", 96, "MODEL.DETR.NUM_CLASSES", 133, "MODEL.DETR.PANOPTIC.ENABLED", True)
    cfg = small_cfg(*options, "MODEL.DETR.PANOPTIC.NUM_THINGS", 80, family=WITH_MASKS)
    (folder / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    torch.save({"model": DETR(cfg).state_dict()}, folder / "ours.pth")
    return folder


@pytest.mark.parametrize("backbone", [(), ("--without-timm",)], ids=["timm", "native"])
def test_transformers_opens_a_segmentation_model_and_predicts_the_same_masks(
    masks: Path, tmp_path: Path, backbone: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    if not backbone:
        pytest.importorskip("timm")
    assert run(masks, masks / "ours.pth", tmp_path / "hf", "huggingface", "--verify", *backbone) == 0
    printed = capsys.readouterr().out
    assert "verified, detr_d2 against Hugging Face" in printed
    assert ", of mask logits " in printed
    model, info = transformers.DetrForSegmentation.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.id2label[200] == "rug"
    assert json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())["format"] == "coco_panoptic"
    assert run(masks, tmp_path / "hf", tmp_path / "back.pth", "detectron2") == 0
    assert_same(weights(tmp_path / "back.pth"), weights(masks / "ours.pth"))


def test_a_panoptic_model_goes_to_the_authors_and_back(
    masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(masks, masks / "ours.pth", tmp_path / "theirs.pth", "official") == 0
    theirs = weights(tmp_path / "theirs.pth")
    assert theirs["detr.class_embed.weight"].shape == (251, 32)
    assert "bbox_attention.q_linear.weight" in theirs
    assert run(masks, tmp_path / "theirs.pth", tmp_path / "back.pth", "detectron2") == 0
    assert_same(weights(tmp_path / "back.pth"), weights(masks / "ours.pth"))
    content = read_checkpoint(str(tmp_path / "back.pth"))
    assert content["class_names"] == list(PANOPTIC.names)
    assert content["category_ids"] == list(PANOPTIC.ids)
    assert "keeps the rows of COCO panoptic's 133 classes" in capsys.readouterr().out


@pytest.mark.skipif("DETR_REPO" not in os.environ, reason="DETR_REPO names no checkout of the authors' repository")
def test_the_authors_code_predicts_the_same_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their mask head is for bottleneck ResNets, and its norms need a width of 128 at least."""
    wide = ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256, "MODEL.DETR.TRANSFORMER.HIDDEN_DIM", 128)
    options = ("MODEL.DETR.NUM_CLASSES", 133, "MODEL.RESNETS.STRIDE_IN_1X1", False)
    cfg = small_cfg(*options, *wide, family=WITH_MASKS)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": DETR(cfg).state_dict()}, tmp_path / "ours.pth")
    assert run(tmp_path, tmp_path / "ours.pth", tmp_path / "theirs.pth", "official", "--verify") == 0
    printed = capsys.readouterr().out
    assert "verified, detr_d2 against the authors' code" in printed
    assert ", of mask logits " in printed


def test_a_config_without_masks_is_not_that_of_a_model_with_them(
    masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(small_cfg("MODEL.DETR.NUM_CLASSES", 80).dump())
    assert run(tmp_path, masks / "ours.pth", tmp_path / "hf", "huggingface") == 2
    assert "is not a config of this model, which is a DETR with a mask head" in capsys.readouterr().err
