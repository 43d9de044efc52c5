"""`convert`: there and back between libraries, what it writes, what it refuses."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from converting import run, weights
from foreign_models import small_cfg, small_detr
from hostile_by_hand import object_field
from state_dicts import assert_same
from tiny_models import tiny_cfg

from detr_d2.__main__ import main
from detr_d2.checkpoint import read_checkpoint
from detr_d2.checkpoint.class_head import DETECTION
from detr_d2.checkpoint.layouts.identify import MIXED, OFFICIAL, convert
from detr_d2.modeling import DETR

TINY = ("MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.DETR.IN_FEATURES", ["res5"], "INPUT.MIN_SIZE_TEST", 96)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, and the checkpoint of a small DETR with 80 classes that knows no names."""
    folder = tmp_path_factory.mktemp("convert")
    cfg = tiny_cfg(*TINY, "MODEL.DETR.NUM_CLASSES", 80)
    (folder / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    torch.save({"model": DETR(cfg).state_dict()}, folder / "ours.pth")
    model = DETR(tiny_cfg(*TINY, "MODEL.DETR.NUM_CLASSES", 91))
    state = convert(model.state_dict(), OFFICIAL, source="x")
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-4), "epoch": 300}, folder / "official.pth")
    return folder


@pytest.mark.parametrize("to", ["official", "huggingface"])
def test_ours_there_and_back_is_the_same_to_the_last_bit(root: Path, tmp_path: Path, to: str) -> None:
    assert run(root, root / "ours.pth", tmp_path / "there", to) == 0
    assert run(root, tmp_path / "there", tmp_path / "back.pth", "detectron2") == 0
    assert_same(weights(tmp_path / "back.pth"), weights(root / "ours.pth"))
    content = read_checkpoint(str(tmp_path / "back.pth"))
    assert content["class_names"] == list(DETECTION.names)
    assert content["category_ids"] == list(DETECTION.ids)


def test_the_authors_to_huggingface_and_back_is_the_same_to_the_last_bit(root: Path, tmp_path: Path) -> None:
    assert run(root, root / "official.pth", tmp_path / "hf", "huggingface", "--without-timm") == 0
    assert run(root, tmp_path / "hf", tmp_path / "back.pth", "official") == 0
    assert_same(weights(tmp_path / "back.pth"), weights(root / "official.pth"))


def test_the_authors_through_80_classes_and_back(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, root / "official.pth", tmp_path / "ours.pth", "detectron2") == 0
    assert run(root, tmp_path / "ours.pth", tmp_path / "back.pth", "official") == 0
    before, after = weights(root / "official.pth"), weights(tmp_path / "back.pth")
    for name in ("class_embed.weight", "class_embed.bias"):
        assert weights(tmp_path / "ours.pth")[f"head.{name}"].shape[0] == 81
        assert torch.equal(DETECTION.select(after[name]), DETECTION.select(before[name]))
    assert after["class_embed.bias"][DETECTION.unused_ids()].tolist() == [-1e4] * 11
    others = [name for name in before if not name.startswith("class_embed")]
    assert_same({name: before[name] for name in others}, {name: after[name] for name in others})
    printed = capsys.readouterr().out
    assert "bias -1e4: 0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83." in printed


def test_all_rows_can_be_kept(root: Path, tmp_path: Path) -> None:
    assert run(root, root / "official.pth", tmp_path / "ours.pth", "detectron2", "--keep-all-rows") == 0
    content = read_checkpoint(str(tmp_path / "ours.pth"))
    assert content["model"]["head.class_embed.bias"].shape == (92,)
    assert content["class_names"][:3] == ["N/A", "person", "bicycle"]
    assert content["category_ids"] == list(range(91))
    assert run(root, tmp_path / "ours.pth", tmp_path / "back.pth", "official") == 0
    assert_same(weights(tmp_path / "back.pth"), weights(root / "official.pth"))


def test_classes_that_are_not_cocos_stay_as_they_are(root: Path, tmp_path: Path) -> None:
    names = [f"part {i}" for i in range(80)]
    content = read_checkpoint(str(root / "ours.pth"))
    torch.save({**content, "class_names": names}, tmp_path / "parts.pth")
    assert run(root, tmp_path / "parts.pth", tmp_path / "hf", "huggingface") == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["id2label"]["79"] == "part 79"
    assert len(config["id2label"]) == 80
    assert run(root, tmp_path / "hf", tmp_path / "back.pth", "detectron2") == 0
    assert read_checkpoint(str(tmp_path / "back.pth"))["class_names"] == names
    assert_same(weights(tmp_path / "back.pth"), content["model"])


@pytest.mark.parametrize("backbone", [(), ("--without-timm",)], ids=["timm", "native"])
def test_transformers_opens_the_folder_and_predicts_the_same(
    root: Path, tmp_path: Path, backbone: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    if not backbone:
        pytest.importorskip("timm")
    assert run(root, root / "ours.pth", tmp_path / "hf", "huggingface", "--verify", *backbone) == 0
    assert "verified, detr_d2 against Hugging Face" in capsys.readouterr().out
    model = transformers.DetrForObjectDetection.from_pretrained(tmp_path / "hf")
    assert model.config.id2label[18] == "dog"
    assert model.config.num_queries == 8
    processor = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    assert processor["size"]["shortest_edge"] == 96


@pytest.mark.parametrize("family", ["Deformable DETR", "two-stage Deformable DETR"])
def test_transformers_opens_a_deformable_detr_and_predicts_the_same(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("timm")
    cfg = small_cfg("INPUT.MIN_SIZE_TEST", 96, family=family)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": small_detr(family=family).state_dict()}, tmp_path / "ours.pth")
    assert run(tmp_path, tmp_path / "ours.pth", tmp_path / "hf", "huggingface", "--verify") == 0
    assert "verified, detr_d2 against Hugging Face" in capsys.readouterr().out
    model = transformers.DeformableDetrForObjectDetection.from_pretrained(tmp_path / "hf")
    assert model.config.two_stage == (family != "Deformable DETR")
    assert run(tmp_path, tmp_path / "hf", tmp_path / "back.pth", "detectron2") == 0
    assert_same(weights(tmp_path / "back.pth"), weights(tmp_path / "ours.pth"))


def test_a_model_with_mixed_query_selection_is_for_this_package_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    r50 = ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256)  # as the configs that are shipped
    torch.save({"model": small_detr(*r50, family=MIXED.family).state_dict()}, tmp_path / "ours.pth")
    for library, title in (("official", "the authors' code"), ("huggingface", "Hugging Face transformers")):
        assert main(["convert", str(tmp_path / "ours.pth"), str(tmp_path / library), "--to", library]) == 2
        error = capsys.readouterr().err
        assert f"{title} has no two-stage Deformable DETR with mixed query selection" in error
    again = ["convert", str(tmp_path / "ours.pth"), str(tmp_path / "again.pth"), "--to", "detectron2", "--verify"]
    assert main(again) == 2
    assert "no config is shipped for a two-stage Deformable DETR with mixed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ours.pth"]


def test_verifying_finds_another_architecture_and_writes_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from detr_d2.commands import convert as tool

    original = tool.build_transformers_model

    def with_two_heads(cfg: Any, *args: Any, **kwargs: Any) -> Any:
        cfg.MODEL.DETR.TRANSFORMER.NUM_HEADS = 2  # another model with the same tensors
        return original(cfg, *args, **kwargs)

    monkeypatch.setattr(tool, "build_transformers_model", with_two_heads)
    assert run(root, root / "ours.pth", tmp_path / "hf", "huggingface", "--verify", "--without-timm") == 1
    assert "nothing is written" in capsys.readouterr().out
    assert not (tmp_path / "hf").exists()


def test_verifying_against_the_authors_needs_their_repository(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETR_REPO", raising=False)
    assert run(root, root / "ours.pth", tmp_path / "a.pth", "official", "--verify") == 2
    assert "DETR_REPO is ''" in capsys.readouterr().err
    assert not (tmp_path / "a.pth").exists()


def test_nothing_is_replaced_unless_asked(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "there.pth"
    target.write_text("precious")
    assert run(root, root / "ours.pth", target, "official") == 2
    assert "exists already" in capsys.readouterr().err
    assert target.read_text() == "precious"
    assert run(root, root / "ours.pth", target, "official", "--overwrite") == 0
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("precious")
    assert run(root, root / "ours.pth", folder, "huggingface", "--overwrite") == 2
    assert (folder / "notes.txt").read_text() == "precious"
    assert run(root, root / "ours.pth", folder, "official") == 2
    assert "must be a file" in capsys.readouterr().err


def test_a_failure_while_writing_a_folder_keeps_the_old_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    assert run(root, root / "ours.pth", tmp_path / "hf", "huggingface") == 0
    before = (tmp_path / "hf" / "model.safetensors").read_bytes()

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors, "save_file", fail)
    assert run(root, root / "official.pth", tmp_path / "hf", "huggingface", "--overwrite") == 2
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["hf"]


def test_mistakes_are_one_sentence(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        ("nothing.pth", "x.pth"): "does not exist",
        (root / "config.yaml", "x.pth"): "cannot be read",
        (root / "ours.pth", tmp_path / "no" / "x.pth"): "make it, or choose another DST",
    }
    for (source, target), words in cases.items():
        assert run(root, source, target, "official") == 2
        message = capsys.readouterr().err
        assert words in message
        assert message.count("\n") == 1
    # without a config: no shipped one has a ResNet-18, but only transformers needs one
    assert main(["convert", str(root / "ours.pth"), str(tmp_path / "y.pth"), "--to", "official"]) == 0
    assert main(["convert", str(root / "ours.pth"), str(tmp_path / "y"), "--to", "huggingface"]) == 2
    assert "no config is shipped for a DETR on a ResNet-18: pass --config-file" in capsys.readouterr().err


class Payload:
    """A pickle that would make a folder when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        *((command, "code") for command in ("convert", "predict", "train")),
        *((command, "object field") for command in ("convert", "predict", "train", "finetune", "compare", "benchmark")),
    ],
)
def test_a_hostile_file_is_refused_by_every_command(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    bad = tmp_path / "bad.pth"
    torch.save({"model": {"a": Payload(tmp_path / "made")}}, bad)
    if kind == "object field":
        bad.write_bytes(object_field())
    config = ["--config-file", str(root / "config.yaml")]
    arguments = {
        "convert": [str(bad), str(tmp_path / "x.pth"), "--to", "official", *config],
        "predict": [*config, "--weights", str(bad), "--output", str(tmp_path / "out"), str(tmp_path / "a.png")],
        "train": [*config, "--eval-only", "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.WEIGHTS", str(bad)],
        "finetune": [*config, "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.WEIGHTS", str(bad)],
        "compare": ["--model", f"x={config[1]},{bad}", "--output", str(tmp_path / "out"), "--skip-cost"],
        "benchmark": ["infer", *config, "--weights", str(bad), "--size", "64x64", "--contestants", "ours"],
    }
    if command == "predict":
        import cv2
        import numpy as np

        assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 20, 3), dtype=np.uint8))
    if command in ("train", "finetune", "compare"):
        from coco_files import make_tiny_coco

        coco = ["--coco", make_tiny_coco(tmp_path / "coco").spec("tiny")]
        arguments[command][2:2] = coco
        if command != "compare":
            arguments[command] += ["DATASETS.TEST", "('tiny',)", "DATASETS.TRAIN", "('tiny',)"]
            arguments[command] += ["DATALOADER.NUM_WORKERS", "0", "MODEL.DETR.NUM_CLASSES", "3"]
    code = main(["train" if command == "finetune" else command, *arguments[command]])
    assert code == (1 if command == "compare" else 2)  # compare goes on to the other models
    said = capsys.readouterr()
    message = said.out + said.err
    assert "holds more than tensors and plain data" in message
    assert "Traceback" not in message
    assert not (tmp_path / "made").exists()


def test_a_folder_with_other_things_in_it_is_not_replaced(root: Path, tmp_path: Path) -> None:
    assert run(root, root / "ours.pth", tmp_path / "hf", "huggingface") == 0
    (tmp_path / "hf" / "precious.txt").write_text("mine")
    assert run(root, root / "official.pth", tmp_path / "hf", "huggingface", "--overwrite") == 2
    assert (tmp_path / "hf" / "precious.txt").read_text() == "mine"


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(root, root / "ours.pth", tmp_path / "hf", "huggingface") == 0
    before = (tmp_path / "hf" / "model.safetensors").read_bytes()
    replace, calls = os.replace, []

    def fail_once(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    assert run(root, root / "official.pth", tmp_path / "hf", "huggingface", "--overwrite") == 2
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["hf"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.DETR.POSITION_ENCODING.TEMPERATURE", 20.0),
        ("INPUT.FORMAT", "BGR"),
        ("MODEL.DETR.CRITERION.CLASSIFICATION", "focal"),
    ],
)
def test_what_transformers_has_not_is_refused_by_its_key(
    root: Path, tmp_path: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny_cfg(*TINY, key, value)
    (tmp_path / "other.yaml").write_text(cfg.dump())
    arguments = ["convert", str(root / "ours.pth"), str(tmp_path / "hf"), "--to", "huggingface"]
    assert main([*arguments, "--config-file", str(tmp_path / "other.yaml")]) == 2
    assert key in capsys.readouterr().err


def test_sizes_come_from_the_tensors_and_not_from_the_config(root: Path, tmp_path: Path) -> None:
    cfg = tiny_cfg(*TINY, "MODEL.DETR.TRANSFORMER.FEEDFORWARD_DIM", 999, "MODEL.DETR.TRANSFORMER.HIDDEN_DIM", 128)
    (tmp_path / "other.yaml").write_text(cfg.dump())
    arguments = ["convert", str(root / "ours.pth"), str(tmp_path / "hf"), "--to", "huggingface"]
    assert main([*arguments, "--config-file", str(tmp_path / "other.yaml")]) == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["d_model"], config["decoder_ffn_dim"], config["encoder_layers"]) == (32, 64, 2)


def test_a_focal_detr_has_no_place_in_the_authors_code(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny_cfg(*TINY, "MODEL.DETR.CRITERION.CLASSIFICATION", "focal", "MODEL.DETR.NUM_CLASSES", 2)
    torch.save({"model": DETR(cfg).state_dict(), "class_names": ["a", "b"]}, tmp_path / "focal.pth")
    assert run(root, tmp_path / "focal.pth", tmp_path / "x.pth", "official") == 2
    assert "is a DETR with focal loss" in capsys.readouterr().err


def test_dc5_is_known_from_what_the_file_says(root: Path, tmp_path: Path) -> None:
    from detr_d2.checkpoint.converting import convert_checkpoint
    from detr_d2.checkpoint.reading.open import read_model_file

    content = read_checkpoint(str(root / "official.pth"))
    content["args"] = argparse.Namespace(nheads=4, dilation=True)
    torch.save(content, tmp_path / "dc5.pth")
    path = str(tmp_path / "dc5.pth")
    converted = convert_checkpoint(read_model_file(path), path, "detectron2")
    assert converted.facts["architecture"] == {"num_heads": 4, "dilated": True}
    assert run(root, path, tmp_path / "hf", "huggingface") == 2  # the config has no dilation


def test_a_backbone_without_res5_has_no_place_elsewhere(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": DETR(tiny_cfg()).state_dict()}, tmp_path / "short.pth")
    assert run(root, tmp_path / "short.pth", tmp_path / "x.pth", "official") == 2
    assert "ends before res5" in capsys.readouterr().err
