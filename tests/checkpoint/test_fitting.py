"""What may differ between a checkpoint and a model, and what the report says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import assert_same_state, foreign_state, small_detr
from tiny_deformable import tiny_deformable
from tiny_models import tiny_detr
from torch import nn

from detr_d2.checkpoint import Checkpointer
from detr_d2.checkpoint.class_head import DETECTION
from detr_d2.checkpoint.layouts.identify import LAYOUTS, OFFICIAL, Layout
from detr_d2.modeling import DETR

CLASS_HEAD = ("head.class_embed.weight", "head.class_embed.bias")
QUERIES = "transformer.query_embed.weight"


def save(path: Path, model: nn.Module, **more: Any) -> str:
    torch.save({"model": model.state_dict(), **more}, path)
    return str(path)


def detr(num_classes: int, num_queries: int = 8) -> DETR:
    return tiny_detr("MODEL.DETR.NUM_CLASSES", num_classes, "MODEL.DETR.NUM_QUERIES", num_queries)


def load(model: DETR, path: str, class_names: list[str] | None = None, **kwargs: Any) -> Checkpointer:
    checkpointer = Checkpointer(model, **kwargs)
    if class_names:
        checkpointer.metadata["class_names"] = class_names
    checkpointer.load(path, checkpointables=[])
    return checkpointer


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.family}: {layout.name}")
def test_every_layout_loads_without_a_separate_step(layout: Layout, tmp_path: Path) -> None:
    source, model = small_detr(family=layout.family), small_detr(family=layout.family)
    torch.save(foreign_state(source, layout), tmp_path / "model.bin")
    checkpointer = load(model, str(tmp_path / "model.bin"))
    assert_same_state(model.state_dict(), source.state_dict())
    assert checkpointer.report is not None
    assert layout.title in str(checkpointer.report) or layout.name == "detectron2"
    assert len(checkpointer.report.loaded) == len(model.state_dict())


def test_a_head_by_coco_id_becomes_that_of_the_80_classes(tmp_path: Path) -> None:
    source, model = small_detr("MODEL.DETR.NUM_CLASSES", 91), small_detr("MODEL.DETR.NUM_CLASSES", 80)
    torch.save({"model": foreign_state(source, OFFICIAL)}, tmp_path / "detr.pth")
    checkpointer = load(model, str(tmp_path / "detr.pth"))
    rows = [*DETECTION.ids, 91]
    for name in CLASS_HEAD:
        assert torch.equal(model.state_dict()[name], source.state_dict()[name][rows])
    assert "80 classes, out of those by category id" in str(checkpointer.report)


@pytest.mark.parametrize("family", ["Deformable DETR", "two-stage Deformable DETR"])
def test_focal_heads_by_coco_id_become_those_of_the_80_classes(family: str, tmp_path: Path) -> None:
    source = small_detr("MODEL.DETR.NUM_CLASSES", 91, family=family)
    model = small_detr("MODEL.DETR.NUM_CLASSES", 80, family=family)
    torch.save({"model": foreign_state(source, OFFICIAL)}, tmp_path / "detr.pth")
    load(model, str(tmp_path / "detr.pth"))
    heads = [name for name in model.state_dict() if name.startswith("head.class_embed")]
    assert len(heads) == (6 if family.startswith("two") else 2)
    for name in heads:
        rows = list(DETECTION.ids)
        if name.startswith("head.class_embed.2"):  # of the encoder's proposals: row 0 stands for any object
            rows[0] = 0
        assert torch.equal(model.state_dict()[name], source.state_dict()[name][rows])


@pytest.mark.parametrize("mode", ["rows", "names"])
def test_what_tells_objects_from_background_survives_other_classes(mode: str, tmp_path: Path) -> None:
    source = small_detr("MODEL.DETR.NUM_CLASSES", 3, family="two-stage Deformable DETR")
    model = small_detr("MODEL.DETR.NUM_CLASSES", 5, family="two-stage Deformable DETR")
    before = {name: x.clone() for name, x in model.state_dict().items()}
    path = save(tmp_path / "a.pth", source, class_names=["a", "b", "c"])
    load(model, path, ["c", "d", "e", "f", "g"], class_head_from=mode)
    after, name = model.state_dict(), "head.class_embed.2.bias"
    assert torch.equal(after[name][0], source.state_dict()[name][0])
    assert torch.equal(after[name][1:], before[name][1:])
    first = "head.class_embed.0.bias"
    expected = source.state_dict()[first][2] if mode == "names" else before[first][0]
    assert torch.equal(after[first][0], expected)


def test_a_head_by_coco_id_stays_where_the_data_has_91_ids(tmp_path: Path) -> None:
    source, model = small_detr("MODEL.DETR.NUM_CLASSES", 91), small_detr("MODEL.DETR.NUM_CLASSES", 91)
    torch.save({"model": foreign_state(source, OFFICIAL)}, tmp_path / "detr.pth")
    load(model, str(tmp_path / "detr.pth"))
    assert_same_state(model.state_dict(), source.state_dict())


def test_a_class_head_with_other_rows_begins_anew_and_the_rest_is_loaded(tmp_path: Path) -> None:
    source, model = detr(3), detr(5)
    before = {name: model.state_dict()[name].clone() for name in CLASS_HEAD}
    report = load(model, save(tmp_path / "a.pth", source)).report
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in CLASS_HEAD)
    assert all(torch.equal(after[name], x) for name, x in source.state_dict().items() if name not in CLASS_HEAD)
    assert report is not None
    assert set(report.reinitialised) == set(CLASS_HEAD)
    assert "the file has 4 rows and the model 6" in str(report)


@pytest.mark.parametrize(("in_file", "in_model"), [(12, 8), (5, 8)])
def test_the_first_queries_are_kept(in_file: int, in_model: int, tmp_path: Path) -> None:
    source, model = detr(3, in_file), detr(3, in_model)
    before = model.state_dict()[QUERIES].clone()
    report = load(model, save(tmp_path / "a.pth", source)).report
    kept = min(in_file, in_model)
    after = model.state_dict()[QUERIES]
    assert torch.equal(after[:kept], source.state_dict()[QUERIES][:kept])
    assert torch.equal(after[kept:], before[kept:])
    assert (f"first 8 of {in_file}" if in_file > in_model else "3 of 8 queries, as the file has 5") in str(report)


def test_rows_of_classes_with_the_same_name_are_carried_over(tmp_path: Path) -> None:
    source, model = detr(3), detr(4)
    before = {name: model.state_dict()[name].clone() for name in CLASS_HEAD}
    path = save(tmp_path / "a.pth", source, class_names=["cat", "traffic light", "dog"])
    own = ["Dog", "bird", "traffic_light", "horse"]
    report = load(model, path, own, class_head_from="names").report
    for name in CLASS_HEAD:
        after, old = model.state_dict()[name], source.state_dict()[name]
        assert torch.equal(after[[0, 2, 4]], old[[2, 1, 3]])  # dog, traffic light, no object
        assert torch.equal(after[[1, 3]], before[name][[1, 3]])
    assert "rows of 2 of 4 classes by name: Dog, traffic_light" in str(report)
    assert "2 of 5 rows, whose classes the file does not name" in str(report)


def test_the_authors_file_names_its_classes_by_coco(tmp_path: Path) -> None:
    source, model = small_detr("MODEL.DETR.NUM_CLASSES", 91), small_detr("MODEL.DETR.NUM_CLASSES", 2)
    torch.save({"model": foreign_state(source, OFFICIAL)}, tmp_path / "detr.pth")
    load(model, str(tmp_path / "detr.pth"), ["zebra", "unicorn"], class_head_from="names")
    zebra = DETECTION.ids[DETECTION.names.index("zebra")]
    weight = model.state_dict()[CLASS_HEAD[0]]
    assert torch.equal(weight[[0, 2]], source.state_dict()[CLASS_HEAD[0]][[zebra, 91]])


def test_names_cannot_be_used_where_there_are_none(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", detr(3))
    with pytest.raises(ValueError, match=r"CLASS_HEAD_FROM is names, but .*a\.pth does not name its classes"):
        load(detr(3), path, ["a", "b", "c"], class_head_from="names")
    path = save(tmp_path / "b.pth", detr(3), class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match="metadata of the training data does not name"):
        load(detr(3), path, class_head_from="names")


def test_a_class_head_can_begin_anew_although_it_fits(tmp_path: Path) -> None:
    source, model = detr(3), detr(3)
    before = model.state_dict()[CLASS_HEAD[0]].clone()
    report = load(model, save(tmp_path / "a.pth", source), class_head_from="none").report
    assert torch.equal(model.state_dict()[CLASS_HEAD[0]], before)
    assert "CLASS_HEAD_FROM is none" in str(report)


def test_a_head_of_other_classes_is_taken_over_with_a_remark(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", detr(2), class_names=["cat", "dog"])
    assert "have other names" in str(load(detr(2), path, ["cup", "fork"]).report)
    assert "have other names" not in str(load(detr(2), path, ["cat", "Dog"]).report)


def test_an_unknown_mode_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match=r"CLASS_HEAD_FROM is 'name', expected one of rows, names, none"):
        Checkpointer(detr(3), class_head_from="name")


def test_anything_else_that_differs_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", detr(3))
    wider = tiny_detr("MODEL.DETR.TRANSFORMER.FEEDFORWARD_DIM", 128)
    with pytest.raises(ValueError, match=r"linear1\.weight has shape \(64, 32\) in the file and \(128, 32\) in the"):
        load(wider, path)
    deeper = tiny_detr("MODEL.DETR.TRANSFORMER.NUM_DECODER_LAYERS", 4)
    with pytest.raises(ValueError, match=r"no values for 18 of the model's .* such as transformer\.decoder\.layers\.3"):
        load(deeper, path)
    shallower = tiny_detr("MODEL.DETR.TRANSFORMER.NUM_DECODER_LAYERS", 2)
    with pytest.raises(
        ValueError, match=r"has 18 tensors that the model has not, such as transformer\.decoder\.layers"
    ):
        load(shallower, path)


def test_a_failed_load_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", detr(3))
    model = tiny_detr("MODEL.DETR.TRANSFORMER.FEEDFORWARD_DIM", 128)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit"):
        load(model, path)
    assert_same_state(model.state_dict(), before)


def test_resuming_and_evaluating_allow_no_difference(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", detr(3), optimizer=torch.optim.SGD([torch.zeros(1)], lr=1.0).state_dict())
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="check the number of classes"):
        Checkpointer(detr(5), optimizer=optimizer).load(path)
    with pytest.raises(ValueError, match=r"check MODEL\.DETR\.NUM_QUERIES"):
        Checkpointer(detr(3, 10)).load_trained(path)


def test_fine_tuning_leaves_the_optimizer_alone(tmp_path: Path) -> None:
    old = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    path = save(tmp_path / "a.pth", detr(3), optimizer=old.state_dict())
    new = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    load(detr(3), path, optimizer=new)
    assert new.param_groups[0]["lr"] == 0.5


def test_batch_counters_and_pixel_statistics_do_not_matter(tmp_path: Path) -> None:
    source = detr(3)
    state = {**source.state_dict(), "backbone.stem.conv1.norm.num_batches_tracked": torch.tensor(5)}
    torch.save({"model": {**state, "pixel_mean": torch.zeros(3)}}, tmp_path / "a.pth")
    report = load(detr(3), str(tmp_path / "a.pth")).report
    assert report is not None
    assert len(report.unexpected) == 2
    trained_norm = tiny_detr("MODEL.RESNETS.NORM", "BN")
    report = load(trained_norm, save(tmp_path / "b.pth", source)).report
    assert report is not None
    assert report.missing
    assert all(name.endswith("num_batches_tracked") for name in report.missing)


def test_a_backbone_of_another_depth_is_an_error(tmp_path: Path) -> None:
    import torchvision

    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    deeper = tiny_detr("MODEL.RESNETS.DEPTH", 34)
    with pytest.raises(ValueError, match=r"resnet18\.pth \(torchvision\) has no fitting values for .* of the backbone"):
        load(deeper, str(tmp_path / "resnet18.pth"))
    report = load(tiny_detr(), str(tmp_path / "resnet18.pth")).report
    assert report is not None
    assert "re-initialised, as the file holds a backbone" in str(report)
    assert not [name for name in report.reinitialised if name.startswith("backbone")]


def test_a_model_of_other_classes_is_not_evaluated(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", detr(2), class_names=["circle", "square"])
    checkpointer = Checkpointer(detr(2))
    checkpointer.metadata["class_names"] = ["RBC", "WBC"]
    with pytest.raises(ValueError, match="was trained on the classes circle, square, but the data have RBC, WBC"):
        checkpointer.load_trained(path)
    checkpointer.metadata["class_names"] = ["Circle", "square"]
    checkpointer.load_trained(path)


def test_another_number_of_feature_levels_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "single.pth", tiny_deformable("single_scale"))
    with pytest.raises(ValueError, match=r"single\.pth .* levels is 1, but MODEL\.DETR\.NUM_FEATURE_LEVELS is 4: take"):
        load(tiny_deformable("multi_scale"), path)


def test_a_head_of_the_same_classes_in_another_order_is_taken_over_by_name(tmp_path: Path) -> None:
    source, model = detr(3), detr(3)
    path = save(tmp_path / "a.pth", source, class_names=["cat", "dog", "cup"])
    report = load(model, path, ["cup", "cat", "Dog"]).report
    assert "rows of 3 of 3 classes by name: cup, cat, Dog" in str(report)
    for name in CLASS_HEAD:
        assert torch.equal(model.state_dict()[name], source.state_dict()[name][[2, 0, 1, 3]])
