from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from foreign_models import assert_same_state, foreign_state, small_cfg, small_detr
from full_disk import largest_file
from tiny_models import tiny_detr

from detr_d2.checkpoint import Checkpointer, read_checkpoint
from detr_d2.checkpoint.layouts import torchvision_resnet
from detr_d2.checkpoint.layouts.identify import LAYOUTS, Layout
from detr_d2.checkpoint.layouts.torchvision_resnet import convert_torchvision_resnet, write_backbone_pkl
from detr_d2.checkpoint.reading.open import read_model_file

V1 = "torchvision://ResNet18_Weights.IMAGENET1K_V1"
weights_url = torchvision_resnet._weights_url


class Payload:
    """A pickle that would create a file when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def test_save_and_load_round_trip_with_metadata(tmp_path: Path):
    first, second = tiny_detr(), tiny_detr()
    checkpointer = Checkpointer(first, str(tmp_path))
    checkpointer.metadata["class_names"] = ["a", "b", "c"]
    checkpointer.save("model_0000007", iteration=7)
    rest = Checkpointer(second).load(str(tmp_path / "model_0000007.pth"))
    assert rest["class_names"] == ["a", "b", "c"]
    assert rest["iteration"] == 7
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000007.pth")
    # detectron2's own checkpointer reads it too
    third = tiny_detr()
    DetectionCheckpointer(third).load(str(tmp_path / "model_0000007.pth"))
    assert torch.equal(third.get_parameter("neck.input_proj.weight"), first.get_parameter("neck.input_proj.weight"))


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path):
    model = tiny_detr()
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.save("model", iteration=1)
    before = (tmp_path / "model.pth").read_bytes()
    for size in (100, len(before) // 2, len(before) - 1):
        sentence = "model.pth cannot be written: File too large.*written before are complete, and --resume continues"
        with largest_file(size), pytest.raises(OSError, match=sentence):
            checkpointer.save("model", iteration=2)
    assert (tmp_path / "model.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]


def test_torchvision_weights_from_a_local_file(tmp_path: Path):
    source = torchvision.models.resnet18(weights=None)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    model = tiny_detr("MODEL.RESNETS.NORM", "BN")
    Checkpointer(model).load(str(tmp_path / "resnet18.pth"))
    theirs = source.state_dict()
    for ours, name in {
        "stem.conv1.weight": "conv1.weight",
        "res3.0.shortcut.weight": "layer2.0.downsample.0.weight",
        "res4.1.conv2.norm.weight": "layer3.1.bn2.weight",
    }.items():
        torch.testing.assert_close(model.get_parameter(f"backbone.{ours}"), theirs[name], msg=name)
    with pytest.raises(ValueError, match="another library or model"):  # instead of going on with random weights
        DetectionCheckpointer(tiny_detr()).load(str(tmp_path / "resnet18.pth"))


def test_torchvision_conversion_covers_every_tensor_of_the_backbone():
    source = torchvision.models.resnet50(weights=None).state_dict()
    converted = convert_torchvision_resnet(source)
    kept = [k for k in source if not k.startswith("fc.") and not k.endswith("num_batches_tracked")]
    assert len(converted) == len(kept) == 265
    assert all(key.startswith(("stem.", "res")) and ".bn" not in key and "downsample" not in key for key in converted)


def test_torchvision_names_resolve_to_a_file_any_checkpointer_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from detectron2.utils.file_io import PathManager

    source = torchvision.models.resnet18(weights=None)
    torch.save(source.state_dict(), tmp_path / "downloaded.pth")
    digest = hashlib.sha256((tmp_path / "downloaded.pth").read_bytes()).hexdigest()
    url = torchvision.models.get_weight("ResNet18_Weights.IMAGENET1K_V1").url
    hashed = f"{url.rpartition('-')[0]}-{digest[:8]}.pth"
    monkeypatch.setattr(torchvision_resnet, "_weights_url", lambda name: {V1: hashed}.get(name) or weights_url(name))
    real = PathManager.get_local_path

    def offline(path: str, force: bool = False, **kwargs: Any) -> str:
        if path.startswith("http"):
            assert path.endswith(".pth")
            assert "resnet18" in path
            return str(tmp_path / "downloaded.pth")
        return real(path, force, **kwargs)

    monkeypatch.setattr(PathManager, "get_local_path", offline)
    model = tiny_detr()
    DetectionCheckpointer(model).load(V1)
    torch.testing.assert_close(model.get_parameter("backbone.stem.conv1.weight"), source.conv1.weight)
    with pytest.raises(ValueError, match=r"names no weights of torchvision; expected for example"):
        PathManager.get_local_path("torchvision://ResNet18_Weights.NONE")


def test_no_network_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch):
    from urllib.error import URLError

    from detectron2.utils.file_io import PathManager

    real = PathManager.get_local_path

    def offline(path: str, force: bool = False, **kwargs: Any) -> str:
        if path.startswith("http"):
            raise URLError("no network")
        return real(path, force, **kwargs)

    monkeypatch.setattr(PathManager, "get_local_path", offline)
    with pytest.raises(ValueError, match=r"resnet101.* could not be downloaded .*: fetch it .* put it at .*resnet101"):
        Checkpointer(tiny_detr()).load("torchvision://ResNet101_Weights.IMAGENET1K_V1")


def test_detectron2_pkl_is_read_as_arrays(tmp_path: Path):
    path = str(tmp_path / "backbone.pkl")
    write_backbone_pkl({"stem.conv1.weight": torch.ones(2, 3)}, path)
    content = read_checkpoint(path)
    assert content["matching_heuristics"] is True
    assert np.array_equal(content["model"]["stem.conv1.weight"], np.ones((2, 3), np.float32))


@pytest.mark.parametrize("name", ["bad.pkl", "bad.pth", "bad.bin", "bad.pyth", "bad"])
def test_a_pickle_with_code_is_refused_unrun(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what older versions of torch do unasked
    victim, path = tmp_path / "created", tmp_path / name
    content = {"model": {"weight": Payload(victim)}, "model_state": {}}
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"holds more than tensors and plain data .*mkdir"):
        Checkpointer(tiny_detr()).load(str(path))
    assert not victim.exists()


def test_the_authors_namespace_is_data(tmp_path: Path):
    torch.save({"model": {}, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "a.pth")
    assert read_checkpoint(str(tmp_path / "a.pth"))["args"].lr == 1e-4
    model = tiny_detr()
    state = {key: value + 1 if value.is_floating_point() else value for key, value in model.state_dict().items()}
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "b.pth")
    Checkpointer(model).load(str(tmp_path / "b.pth"))
    assert torch.equal(model.get_parameter("neck.input_proj.bias"), state["neck.input_proj.bias"])


def test_safetensors_are_read(tmp_path: Path):
    safetensors = pytest.importorskip("safetensors.torch")
    source, model = tiny_detr(), tiny_detr()
    safetensors.save_file(source.state_dict(), tmp_path / "model.safetensors")
    Checkpointer(model).load_trained(str(tmp_path / "model.safetensors"))
    assert torch.equal(model.get_parameter("neck.input_proj.bias"), source.get_parameter("neck.input_proj.bias"))


def test_a_trained_model_must_be_complete(tmp_path: Path):
    source = tiny_detr()
    Checkpointer(source, str(tmp_path)).save("whole")
    Checkpointer(tiny_detr()).load_trained(str(tmp_path / "whole.pth"))
    with pytest.raises(ValueError, match=r"head\.class_embed\.weight has shape .* check the number of classes"):
        Checkpointer(tiny_detr("MODEL.DETR.NUM_CLASSES", 5)).load_trained(str(tmp_path / "whole.pth"))
    write_backbone_pkl(convert_torchvision_resnet(torchvision.models.resnet18().state_dict()), str(tmp_path / "b.pkl"))
    with pytest.raises(ValueError, match="it is not a trained model of this config"):
        Checkpointer(tiny_detr()).load_trained(str(tmp_path / "b.pkl"))
    with pytest.raises(ValueError, match=r"set MODEL\.WEIGHTS"):
        Checkpointer(tiny_detr()).load_trained("")


def test_a_refused_file_leaves_the_model_as_it_was(tmp_path: Path):
    model = tiny_detr()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    part = {name: tensor + 1 for name, tensor in before.items() if not name.startswith("head.")}
    torch.save({"model": part}, tmp_path / "part.pth")
    torch.save({"model": part, "matching_heuristics": True}, tmp_path / "backbone.pth")
    for name in ("part.pth", "backbone.pth"):
        with pytest.raises(ValueError, match=name):
            Checkpointer(model).load_trained(str(tmp_path / name))
        assert_same_state(model.state_dict(), before)


@pytest.mark.parametrize("name", ["cut.pth", "cut.pkl"])
def test_damaged_files_name_themselves(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(b"\x80\x04 not a checkpoint")
    with pytest.raises(ValueError, match=rf"{name} .*"):
        read_checkpoint(str(path))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{name} .*"):
        read_checkpoint(str(path))


def test_a_missing_file_names_the_key(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nothing.pth does not exist: check its path"):
        read_checkpoint(str(tmp_path / "nothing.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list, expected a dictionary"):
        read_checkpoint(str(tmp_path / "list.pth"))


@pytest.mark.parametrize(
    "layout", [x for x in LAYOUTS if x.name != "detectron2"], ids=lambda layout: f"{layout.family}: {layout.name}"
)
def test_detectron2s_own_checkpointer_names_convert(layout: Layout, tmp_path: Path) -> None:
    state = foreign_state(small_detr(family=layout.family), layout)
    torch.save({"model": state}, tmp_path / "theirs.pth")
    cfg = small_cfg("MODEL.WEIGHTS", str(tmp_path / "theirs.pth"), family=layout.family)
    with pytest.raises(ValueError, match=r"python -m detr_d2 convert SRC DST --to detectron2"):
        DefaultPredictor(cfg)


def test_our_reading_leaves_torchs_policy_to_the_process(tmp_path: Path) -> None:
    torch.save({"model": {}, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "training.pth")
    read_checkpoint(str(tmp_path / "training.pth"))
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace was not an allowed global"):
        DetectionCheckpointer(tiny_detr()).load(str(tmp_path / "training.pth"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": None}, "expected names and tensors under 'model', got nothing"),
        ({"model": {}}, "got an empty dictionary"),
        ({"model": torch.zeros(3)}, "got a Tensor"),
        ({"state_dict": {"a": torch.zeros(1)}, "epoch": 3}, "got 'state_dict': another dictionary; the keys are"),
        ({"a": "text"}, "got 'a': a str"),
        ({1: torch.zeros(1), "a": torch.zeros(1)}, "got 1: a Tensor"),
    ],
)
def test_a_file_without_weights_says_what_it_holds(content: dict[Any, Any], words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth holds no weights: .*{words}"):
        Checkpointer(tiny_detr()).load(str(tmp_path / "a.pth"))


def test_names_of_a_distributed_model_lose_their_prefix(tmp_path: Path) -> None:
    source, model = small_detr(), small_detr()
    state = foreign_state(source, LAYOUTS[1])
    torch.save({"model": {f"module.{name}": x for name, x in state.items()}}, tmp_path / "ddp.pth")
    Checkpointer(model).load(str(tmp_path / "ddp.pth"))
    assert torch.equal(model.state_dict()["neck.input_proj.weight"], source.state_dict()["neck.input_proj.weight"])


@pytest.mark.parametrize(
    "name",
    [
        *("_orig_mod.head.class_embed.bias", "module._orig_mod.head.class_embed.bias"),
        *("_orig_mod.module.head.class_embed.bias", "head._orig_mod.class_embed.bias"),
        *("_fsdp_wrapped_module.head.class_embed.bias", "head._checkpoint_wrapped_module.class_embed.bias"),
    ],
)
def test_names_lose_what_wrappers_put_into_them(name: str, tmp_path: Path) -> None:
    torch.save({"model": {name: torch.ones(1), "a_orig_mod.b": torch.ones(1)}}, tmp_path / "a.pth")
    assert list(read_model_file(str(tmp_path / "a.pth"))["model"]) == ["head.class_embed.bias", "a_orig_mod.b"]


class Compiled(torch.nn.Module):
    """What torch.compile makes of a model, as far as names go."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


def test_a_compiled_model_is_saved_and_loaded_under_its_own_names(tmp_path: Path) -> None:
    source, model = small_detr(), small_detr()
    torch.save({"model": Compiled(source).state_dict()}, tmp_path / "compiled.pth")
    Checkpointer(Compiled(model), str(tmp_path)).load_trained(str(tmp_path / "compiled.pth"))
    assert_same_state(model.state_dict(), source.state_dict())
    Checkpointer(Compiled(model), str(tmp_path)).save("again")
    assert_same_state(read_checkpoint(str(tmp_path / "again.pth"))["model"], source.state_dict())


def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1), "_orig_mod.a": torch.ones(1)}}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"two.pth holds a tensor twice, as 'a' and as '_orig_mod.a'"):
        read_model_file(str(tmp_path / "two.pth"))


def test_files_of_caffe2_and_pycls_are_read_as_detectron2_reads_them(tmp_path: Path) -> None:
    arrays = {"conv1_w": np.ones((1,), np.float32), "conv1_w_momentum": np.ones((1,), np.float32)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": arrays}))
    content = read_model_file(str(tmp_path / "a.pkl"))
    assert list(content["model"]) == ["conv1_w"]
    assert content["__author__"] == "Caffe2"
    weights = {"stem.conv.weight": torch.ones(1), "stem.bn.num_batches_tracked": torch.tensor(1)}
    torch.save({"model_state": weights}, tmp_path / "a.pyth")
    content = read_model_file(str(tmp_path / "a.pyth"))
    assert list(content["model"]) == ["stem.conv.weight"]
    assert content["matching_heuristics"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"nheads": 8, "dilation": False}, "8 attention heads, but MODEL.DETR.TRANSFORMER.NUM_HEADS is 4"),
        ({"nheads": 4, "dilation": True}, r"with a dilated backbone \(DC5\): set MODEL.RESNETS.RES5_DILATION to 2"),
    ],
)
def test_what_a_file_says_of_its_model_must_be_so(args: dict[str, Any], words: str, tmp_path: Path) -> None:
    state = foreign_state(small_detr(), LAYOUTS[1])
    torch.save({"model": state, "args": argparse.Namespace(**args)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=words):
        Checkpointer(small_detr()).load(str(tmp_path / "a.pth"))


def test_a_config_of_transformers_tells_heads_and_dilation(tmp_path: Path) -> None:
    (theirs,) = [x for x in LAYOUTS if (x.name, x.family) == ("huggingface", "DETR")]
    torch.save(foreign_state(small_detr(), theirs), tmp_path / "pytorch_model.bin")
    for config, words in (
        ({"encoder_attention_heads": 2}, "2 attention heads"),
        ({"encoder_attention_heads": 4, "dilation": True}, "with a dilated backbone"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=words):
            Checkpointer(small_detr()).load(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"encoder_attention_heads": 4, "dilation": False}))
    Checkpointer(small_detr()).load(str(tmp_path))


def test_names_can_be_matched_by_their_ends(tmp_path: Path) -> None:
    source, model = tiny_detr(), tiny_detr()
    weights = {name.removeprefix("backbone."): x for name, x in source.state_dict().items() if "backbone." in name}
    torch.save({"model": weights}, tmp_path / "what?.pth")
    Checkpointer(model).load(f"{tmp_path / 'what?.pth'}?matching_heuristics=True")
    name = "backbone.stem.conv1.weight"
    assert torch.equal(model.state_dict()[name], source.state_dict()[name])


def test_detectron2s_predictor_does_not_predict_with_a_random_class_head(tmp_path: Path) -> None:
    torch.save({"model": small_detr().state_dict()}, tmp_path / "a.pth")
    cfg = small_cfg("MODEL.WEIGHTS", str(tmp_path / "a.pth"), "MODEL.DETR.NUM_CLASSES", 5)
    with pytest.raises(ValueError, match=r"no fitting values for 2 parameters .* head.*check MODEL.DETR.NUM_CLASSES"):
        DefaultPredictor(cfg)
