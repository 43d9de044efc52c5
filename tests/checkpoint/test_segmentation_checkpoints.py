"""Models with a mask head: the authors' names, heads by panoptic id, and box models on either side."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from foreign_models import assert_same_state, foreign_state, small_detr
from torch import Tensor, nn

from detr_d2 import model_zoo
from detr_d2.checkpoint import Checkpointer
from detr_d2.checkpoint.class_head import DETECTION, PANOPTIC
from detr_d2.checkpoint.converting import convert_checkpoint, write_checkpoint
from detr_d2.checkpoint.layouts.identify import LAYOUTS, OFFICIAL, WITH_MASKS, Layout, convert, identify
from detr_d2.checkpoint.layouts.rules import ConversionError
from detr_d2.checkpoint.reading.open import read_model_file
from detr_d2.modeling import DETR

CLASS_HEAD = ("head.class_embed.weight", "head.class_embed.bias")
SEGMENTATION = [layout for layout in LAYOUTS if layout.family == WITH_MASKS]

# Name in the authors' files -> shape, for 256 channels, 8 heads and a bottleneck ResNet.
AUTHORS_MASK_HEAD = {
    **{f"bbox_attention.{x}_linear.weight": (256, 256) for x in "qk"},
    **{f"bbox_attention.{x}_linear.bias": (256,) for x in "qk"},
    **{
        f"mask_head.{name}.{part}": shape
        for name, n_out, n_in, kernel in (
            ("lay1", 264, 264, 3),
            ("lay2", 128, 264, 3),
            ("lay3", 64, 128, 3),
            ("lay4", 32, 64, 3),
            ("lay5", 16, 32, 3),
            ("out_lay", 1, 16, 3),
            ("adapter1", 128, 1024, 1),
            ("adapter2", 64, 512, 1),
            ("adapter3", 32, 256, 1),
        )
        for part, shape in (("weight", (n_out, n_in, kernel, kernel)), ("bias", (n_out,)))
    },
    **{
        f"mask_head.gn{i}.{part}": (channels,)
        for i, channels in enumerate((264, 128, 64, 32, 16), start=1)
        for part in ("weight", "bias")
    },
}


def segmenter(num_classes: int = 3) -> DETR:
    return small_detr("MODEL.DETR.NUM_CLASSES", num_classes, family=WITH_MASKS)


def boxes_alone(num_classes: int = 3) -> DETR:
    return small_detr("MODEL.DETR.NUM_CLASSES", num_classes, "MODEL.DETR.TRANSFORMER.NUM_HEADS", 8)


def save(path: Path, state: dict[str, Tensor]) -> str:
    torch.save({"model": state}, path)
    return str(path)


def masks_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in state.items() if name.startswith("mask_head.")}


def load(model: nn.Module, path: str, *, class_names: list[str] | None = None, mode: str = "rows") -> str:
    checkpointer = Checkpointer(model, class_head_from=mode)
    if class_names:
        checkpointer.metadata["class_names"] = class_names
    checkpointer.load(path, checkpointables=[])
    return str(checkpointer.report)


def official(name: str = "detr_r50", num_classes: int = 250) -> dict[str, Tensor]:
    """Names and shapes of a whole model of the paper, in the authors' layout."""
    cfg = model_zoo.get_config(name)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.DETR.NUM_CLASSES, cfg.MODEL.MASK_ON = "", "cpu", num_classes, True
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    with torch.device("meta"):
        return convert(DETR(cfg).state_dict(), OFFICIAL, source="x")


def test_the_papers_model_has_the_names_and_shapes_of_the_authors() -> None:
    state = official()
    assert len(state) == 490
    assert state["detr.class_embed.weight"].shape == (251, 256)
    masks = {name: tuple(x.shape) for name, x in state.items() if not name.startswith("detr.")}
    assert masks == AUTHORS_MASK_HEAD
    assert len(official("detr_r101")) == 490 + 17 * 3 * 5


@pytest.mark.skipif("DETR_REPO" not in os.environ, reason="DETR_REPO names no checkout of the authors' repository")
def test_every_tensor_of_the_authors_module_has_its_place() -> None:
    from detr_d2.other_libraries.references import authors_arguments, authors_modules

    cfg = model_zoo.get_config("detr_r50")
    with authors_modules() as authors, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        authors.module("models.backbone").is_main_process = lambda: False
        arguments = authors_arguments(cfg, masks=True, dataset_file="coco_panoptic")
        theirs = authors.module("models").build_model(arguments)[0].state_dict()
    expected = official()
    assert {name: x.shape for name, x in theirs.items()} == {name: x.shape for name, x in expected.items()}
    ours = convert(theirs, "detectron2", source="x")
    assert_same_state(convert(ours, OFFICIAL, source="x"), theirs)


@pytest.mark.parametrize("layout", SEGMENTATION, ids=lambda layout: layout.name)
def test_no_tensor_of_a_mask_head_can_be_missing(layout: Layout) -> None:
    state = foreign_state(segmenter(), layout)
    names = [name for name in state if "mask_head." in name or "bbox_attention." in name]
    assert len(names) == 32
    target = "official" if layout.name == "detectron2" else "detectron2"
    for name in names:
        without = {x: tensor for x, tensor in state.items() if x != name}
        with pytest.raises(ConversionError):
            convert(without, target, source=f"without {name}")
    with pytest.raises(ConversionError, match=r"1 tensors are unknown, such as .*mask_head\.lay6"):
        convert(
            {**state, f"{names[-1].rpartition('mask_head.')[0]}mask_head.lay6.weight": torch.zeros(1)},
            target,
            source="x",
        )


def test_a_box_model_and_one_with_masks_are_told_apart() -> None:
    for layout in SEGMENTATION:
        assert identify(foreign_state(segmenter(), layout)) is layout
    boxes = foreign_state(boxes_alone(), OFFICIAL)
    found = identify(boxes)
    assert found is not None
    assert found.family == "DETR"
    with pytest.raises(ConversionError, match="is not a DETR"):  # one prefix for both is that of no library
        convert({f"x.{name}": tensor for name, tensor in boxes.items()}, "detectron2", source="a.pth")


@pytest.mark.parametrize("layout", SEGMENTATION, ids=lambda layout: layout.name)
def test_a_panoptic_file_keeps_the_rows_of_133_classes(layout: Layout, tmp_path: Path) -> None:
    source, model = segmenter(250), segmenter(133)
    path = save(tmp_path / "a.pth", foreign_state(source, layout))
    if layout.name == "detectron2":  # our own files count classes, not ids
        with pytest.raises(ValueError, match=r"has shape \(251, 32\) in the file and \(134, 32\) in the model"):
            Checkpointer(model).load_trained(path)
        return
    checkpointer = Checkpointer(model)
    checkpointer.metadata["class_names"] = list(PANOPTIC.names)
    checkpointer.load_trained(path)
    rows = [*DETECTION.ids, *[i for i in PANOPTIC.ids if i > 91], 250]
    for name, tensor in model.state_dict().items():
        theirs = source.state_dict()[name]
        assert torch.equal(tensor, theirs[rows] if name in CLASS_HEAD else theirs), name
    assert "rows of the 133 classes" in str(checkpointer.report)


def test_names_of_either_of_detectron2s_layouts_are_those_of_the_file(tmp_path: Path) -> None:
    from detectron2.data import MetadataCatalog

    path = save(tmp_path / "a.pth", foreign_state(segmenter(250), SEGMENTATION[1]))
    standard = MetadataCatalog.get("coco_2017_val_panoptic").stuff_classes  # "wall-other-merged" and the like
    assert len(standard) == 133
    in_our_order = [*DETECTION.names, *[name for name in standard if name not in DETECTION.names]]
    checkpointer = Checkpointer(segmenter(133))
    checkpointer.metadata["class_names"] = in_our_order
    checkpointer.load_trained(path)
    checkpointer.metadata["class_names"] = in_our_order[::-1]
    with pytest.raises(ValueError, match="was trained on the classes person"):
        checkpointer.load_trained(path)


def test_instance_segmentation_by_91_ids_becomes_80_classes(tmp_path: Path) -> None:
    source, model = segmenter(91), segmenter(80)
    load(model, save(tmp_path / "a.pth", foreign_state(source, SEGMENTATION[1])))
    for name in CLASS_HEAD:
        assert torch.equal(model.state_dict()[name], source.state_dict()[name][[*DETECTION.ids, 91]])
    assert_same_state(masks_of(model.state_dict()), masks_of(source.state_dict()))


def test_the_things_of_a_panoptic_file_can_be_taken_by_name(tmp_path: Path) -> None:
    source, model = segmenter(250), segmenter(2)
    path = save(tmp_path / "a.pth", foreign_state(source, SEGMENTATION[1]))
    load(model, path, class_names=["rug", "dog"], mode="names")
    weight = model.state_dict()[CLASS_HEAD[0]]
    assert torch.equal(weight, source.state_dict()[CLASS_HEAD[0]][[200, 18, 250]])


@pytest.mark.parametrize("target", ["official", "huggingface"])
def test_133_classes_are_spread_over_250_ids_and_come_back(target: str, tmp_path: Path) -> None:
    ours = segmenter(133).state_dict()
    path = save(tmp_path / "ours.pth", ours)
    there = convert_checkpoint(read_model_file(path), path, target)
    prefix = {"official": "detr.class_embed", "huggingface": "detr.class_labels_classifier"}[target]
    bias = there.state[f"{prefix}.bias"]
    assert bias.shape == (251,)
    assert torch.equal(bias[list(PANOPTIC.ids)], ours[CLASS_HEAD[1]][:133])
    assert bias[[0, 91, *range(201, 250)]].tolist() == [-1e4] * 51
    assert "taken for COCO panoptic's" in there.notes[0]
    assert there.notes[1].endswith(
        ": 0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91, 94, 96 to 99, 101 to 106, 108, 110, 111, 113 to 117, 120, "
        "121, 123, 124, 126, 127, 129, 131, 132, 134 to 137, 139, 140, 142, 143, 146, 150, 152, 153, 157, 158, 160, "
        "162 to 165, 167, 169, 170, 172 to 174, 179, 182, 183, 201 to 249."
    )
    elsewhere = save(tmp_path / "theirs.pth", there.state)
    back = convert_checkpoint(read_model_file(elsewhere), elsewhere, "detectron2")
    assert_same_state(back.state, ours)
    assert back.facts["class_names"] == list(PANOPTIC.names)
    assert back.facts["category_ids"] == list(PANOPTIC.ids)


def test_classes_named_as_in_cocos_files_are_spread_too() -> None:
    names = [*DETECTION.names, *(x["name"] for x in COCO_CATEGORIES if not x["isthing"])]
    assert names != list(PANOPTIC.names)  # "wall-other-merged", of detectron2's standard layout
    content = {"model": segmenter(133).state_dict(), "class_names": names}
    assert convert_checkpoint(content, "a.pth", "official").state["detr.class_embed.bias"].shape == (251,)


@pytest.mark.parametrize("keep_all_rows", [False, True])
def test_what_a_panoptic_file_of_ours_tells_of_its_classes_is_kept(keep_all_rows: bool, tmp_path: Path) -> None:
    told = {"class_names": ["a", "b", "c"], "category_ids": [1, 2, 7], "num_things": 2, "panoptic_layout": "standard"}
    content = {"model": segmenter(3).state_dict(), "optimizer": {}, **told}
    converted = convert_checkpoint(content, "a.pth", "detectron2", keep_all_rows=keep_all_rows)
    write_checkpoint(converted, str(tmp_path / "b.pth"), None)
    written = read_model_file(str(tmp_path / "b.pth"))
    assert {key: value for key, value in written.items() if key != "model"} == told


def test_a_mask_head_begins_anew_on_a_box_model(tmp_path: Path) -> None:
    source, model = boxes_alone(), segmenter()
    before = masks_of(model.state_dict())
    report = load(model, save(tmp_path / "boxes.pth", source.state_dict()))
    assert_same_state(masks_of(model.state_dict()), before)
    others = {name: x for name, x in model.state_dict().items() if name not in before}
    assert_same_state(others, source.state_dict())
    assert "re-initialised, as the file is a model of boxes alone: mask_head." in report
    assert "(32 in all)" in report


@pytest.mark.parametrize("trained", [False, True])
def test_a_box_model_leaves_the_mask_head_out(trained: bool, tmp_path: Path) -> None:
    source, model = segmenter(), boxes_alone()
    checkpointer = Checkpointer(model)
    path = save(tmp_path / "masks.pth", source.state_dict())
    if trained:
        checkpointer.load_trained(path)
    else:
        checkpointer.load(path, checkpointables=[])
    own = model.state_dict()
    assert_same_state(own, {name: x for name, x in source.state_dict().items() if name in own})
    assert "mask head: its 32 tensors are dropped" in str(checkpointer.report)


def test_masks_are_not_predicted_with_a_head_that_was_not_trained(tmp_path: Path) -> None:
    path = save(tmp_path / "boxes.pth", boxes_alone().state_dict())
    with pytest.raises(ValueError, match=r"boxes\.pth is a model without a mask head, and the config is of one with"):
        Checkpointer(segmenter()).load_trained(path)


def test_part_of_a_mask_head_is_an_error(tmp_path: Path) -> None:
    state = segmenter().state_dict()
    del state["mask_head.gn3.bias"]
    with pytest.raises(ValueError, match=r"no values for 1 of the model's .* such as mask_head\.gn3\.bias"):
        load(segmenter(), save(tmp_path / "a.pth", state))


def test_a_run_is_resumed_with_masks_or_without_as_it_was(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    for source, model, words in (
        (segmenter(), boxes_alone(), "with a mask head, and the config is of one without"),
        (boxes_alone(), segmenter(), "without a mask head, and the config is of one with"),
    ):
        path = str(tmp_path / "run.pth")
        torch.save({"model": source.state_dict(), "optimizer": optimizer.state_dict()}, path)
        with pytest.raises(ValueError, match=words):
            Checkpointer(model, optimizer=optimizer).load(path)
