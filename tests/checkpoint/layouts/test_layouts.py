"""Layouts of other libraries: told apart by their names, and converted without the change of a bit."""

from __future__ import annotations

import random

import pytest
import torch
from foreign_models import DEFORMABLE, assert_same_state, foreign_state, small_detr

from detr_d2 import model_zoo
from detr_d2.checkpoint.layouts.identify import (
    DETECTRON2,
    HUGGINGFACE,
    LAYOUTS,
    OFFICIAL,
    WRAPPER,
    Layout,
    convert,
    identify,
)
from detr_d2.checkpoint.layouts.rules import ConversionError
from detr_d2.modeling import DETR


def by_name(layout: Layout) -> str:
    return f"{layout.family}: {layout.name}"


@pytest.mark.parametrize("layout", LAYOUTS, ids=by_name)
def test_a_layout_is_recognised_and_comes_back_unchanged(layout: Layout) -> None:
    ours = small_detr(family=layout.family).state_dict()
    theirs = convert(ours, layout, source="x")
    assert identify(theirs) is layout
    assert_same_state(convert(theirs, DETECTRON2, source="x"), ours)


@pytest.mark.parametrize("layout", [x for x in LAYOUTS if x.name.startswith("huggingface")], ids=by_name)
def test_the_authors_files_go_to_huggingface_and_back(layout: Layout) -> None:
    official = foreign_state(small_detr(family=layout.family), OFFICIAL)
    there = convert(official, layout, source="x")
    assert len(there) > len(official)  # stacked projections come apart
    assert_same_state(convert(there, OFFICIAL, source="x"), official)


def test_learned_positions_and_pre_norm_are_carried_where_a_library_has_them() -> None:
    model = small_detr(
        "MODEL.DETR.POSITION_ENCODING.NAME", "learned", "MODEL.DETR.TRANSFORMER.DETR.PRE_NORM", True
    )  # fmt: skip
    official = foreign_state(model, OFFICIAL)
    assert "backbone.1.row_embed.weight" in official
    assert "transformer.encoder.norm.weight" in official
    assert_same_state(convert(official, DETECTRON2, source="x"), model.state_dict())
    with pytest.raises(ConversionError, match=r"transformer\.encoder\.norm"):
        convert(official, HUGGINGFACE, source="x")


def test_version_4_of_transformers_kept_learned_positions_in_the_backbone() -> None:
    model = small_detr("MODEL.DETR.POSITION_ENCODING.NAME", "learned")
    state = foreign_state(model, HUGGINGFACE)
    old = {
        name.replace("model.position_embedding", "model.backbone.position_embedding"): x for name, x in state.items()
    }
    assert old.keys() != state.keys()
    assert_same_state(convert(old, DETECTRON2, source="x"), model.state_dict())


def test_an_encoder_may_be_empty() -> None:
    model = small_detr("MODEL.DETR.TRANSFORMER.NUM_ENCODER_LAYERS", 0)
    for layout in (OFFICIAL, HUGGINGFACE):
        assert_same_state(convert(foreign_state(model, layout), DETECTRON2, source="x"), model.state_dict())


@pytest.mark.parametrize(
    ("name", "entries"), [("detr_r50", 458), ("detr_r101", 458 + 17 * 3 * 5)]
)  # a block of layer3: 3 convolutions with 1 + 4 tensors each
def test_the_papers_models_have_the_entries_of_the_authors(name: str, entries: int) -> None:
    cfg = model_zoo.get_config(name)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.DETR.NUM_CLASSES = "", "cpu", 91
    with torch.device("meta"):
        model = DETR(cfg)
    official = convert(model.state_dict(), OFFICIAL, source="x")
    assert len(official) == entries
    shapes = {
        "backbone.0.body.layer4.0.downsample.1.running_var": (2048,),
        "transformer.encoder.layers.5.self_attn.in_proj_weight": (768, 256),
        "transformer.decoder.layers.0.multihead_attn.out_proj.bias": (256,),
        "transformer.decoder.layers.5.norm3.weight": (256,),
        "class_embed.weight": (92, 256),
        "bbox_embed.layers.2.bias": (4,),
        "query_embed.weight": (100, 256),
        "input_proj.weight": (256, 2048, 1, 1),
    }
    assert {key: tuple(official[key].shape) for key in shapes} == shapes


def test_the_wrappers_class_weights_are_no_part_of_the_model() -> None:
    model = small_detr()
    state = {**foreign_state(model, WRAPPER), "criterion.empty_weight": torch.ones(4)}
    assert_same_state(convert(state, DETECTRON2, source="x"), model.state_dict())


def test_counters_of_a_flop_counter_are_skipped() -> None:
    model = small_detr()
    state = foreign_state(model, OFFICIAL)
    state["transformer.encoder.layers.0.linear1.total_params"] = torch.zeros(1)
    assert_same_state(convert(state, DETECTRON2, source="x"), model.state_dict())


def test_another_model_is_refused_with_its_names() -> None:
    with pytest.raises(
        ConversionError, match=r"net\.pth is not a DETR or Deformable DETR of .*: its tensors are named a\.b, c, \.\.\."
    ):
        convert({"a.b": torch.zeros(1), "c": torch.zeros(1)}, DETECTRON2, source="net.pth")


@pytest.mark.parametrize("layout", [x for x in LAYOUTS if x.name != "detectron2"], ids=by_name)
def test_no_tensor_can_be_missing(layout: Layout) -> None:
    """Left out one at a time: all of a block, a layer and the heads, and some at random."""
    state = foreign_state(small_detr(family=layout.family), layout)
    replaceable = ("_embed", "bbox_predictor")  # of heads with several names, another one will do
    for name in random.sample(sorted(state), 30) + [x for x in state if "input_proj" in x or ".layers.1." in x]:
        if any(part in name for part in replaceable) and layout.family in DEFORMABLE:
            continue
        with pytest.raises(ConversionError):
            convert({x: tensor for x, tensor in state.items() if x != name}, DETECTRON2, source=f"without {name}")


def test_an_incomplete_file_names_what_it_lacks() -> None:
    state = foreign_state(small_detr(), OFFICIAL)
    without = {name: x for name, x in state.items() if not name.startswith("bbox_embed")}
    with pytest.raises(ConversionError, match=r"a\.pth \(of the authors' code\): 1 rules find nothing, such as bbox"):
        convert(without, DETECTRON2, source="a.pth")


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("deformable_detr_r50_single_scale", 549),
        ("deformable_detr_r50", 561),
        ("deformable_detr_r50_refine", 597),
        ("deformable_detr_r50_two_stage", 630),
    ],
)
def test_deformable_models_have_the_entries_of_the_authors(name: str, entries: int) -> None:
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DETR.NUM_CLASSES = 91
    model = DETR(cfg)
    official = convert(model.state_dict(), OFFICIAL, source="x")
    assert len(official) == entries
    heads = 7 if "two_stage" in name else 6
    assert sum(name.startswith("class_embed.") for name in official) == 2 * heads


def test_heads_that_should_be_one_and_differ_are_an_error() -> None:
    official = foreign_state(small_detr(family="Deformable DETR"), OFFICIAL)
    official["class_embed.1.bias"] = official["class_embed.1.bias"] + 1
    with pytest.raises(ConversionError, match=r"class_embed\.0\.bias and class_embed\.1\.bias must be the same tensor"):
        convert(official, DETECTRON2, source="x")


@pytest.mark.parametrize("kept", ["bbox_embed", "model.decoder.bbox_embed"])
def test_transformers_saves_only_one_name_of_tied_heads(kept: str) -> None:
    ours = small_detr(family="Deformable DETR with box refinement").state_dict()
    state = convert(ours, HUGGINGFACE, source="x")
    dropped = {"bbox_embed": "model.decoder.bbox_embed", "model.decoder.bbox_embed": "bbox_embed"}[kept]
    saved = {name: x for name, x in state.items() if not name.startswith(f"{dropped}.")}
    assert len(saved) == len(state) - 12
    assert_same_state(convert(saved, DETECTRON2, source="x"), ours)


def test_transformers_ties_the_classifiers_of_refining_layers_when_it_saves() -> None:
    ours = small_detr(family="Deformable DETR with box refinement").state_dict()
    state = convert(ours, HUGGINGFACE, source="x")
    saved = {name: x for name, x in state.items() if not name.startswith("class_embed.1.")}
    read = convert(saved, DETECTRON2, source="x")
    assert torch.equal(read["head.class_embed.1.weight"], ours["head.class_embed.0.weight"])
    assert read.keys() == ours.keys()


def test_a_library_without_such_models_is_an_error() -> None:
    with pytest.raises(ConversionError, match="detectron2 wrapper has no Deformable DETR"):
        convert(small_detr(family="Deformable DETR").state_dict(), WRAPPER, source="x")
