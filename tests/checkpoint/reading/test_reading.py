"""Files of weights, whatever their format and name, are read as data; what is damaged or hostile ends in a sentence."""

from __future__ import annotations

import argparse
import bz2
import collections
import errno
import gzip
import io
import json
import lzma
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import hostile_by_hand
import numpy as np
import pytest
import torch
from foreign_models import foreign_state, small_detr
from hostile_files import good_files, mutations, read_all

from detr_d2.checkpoint import read_checkpoint
from detr_d2.checkpoint.layouts.identify import LAYOUTS
from detr_d2.checkpoint.layouts.torchvision_resnet import write_backbone_pkl
from detr_d2.checkpoint.reading import pickle_reader
from detr_d2.checkpoint.reading.open import read_model_file
from detr_d2.checkpoint.renaming import to_detectron2


def test_what_a_file_is_is_told_by_its_content(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights, arrays = {"conv1_w": torch.ones(1)}, {"conv1_w": np.ones((1,), np.float32)}
    for name in ("a.pkl", "A.PKL", "a.pyth", "a.pth?download=true", "a.safetensors", "a"):
        path = tmp_path / name
        torch.save(weights, path)
        assert read_model_file(str(path)) == {"model": weights}
        torch.save({"model": weights, "epoch": 3}, path, _use_new_zipfile_serialization=False)
        assert read_model_file(str(path)) == {"model": weights, "epoch": 3}
        save_file(weights, path)
        assert read_model_file(str(path)) == {"model": weights}
        path.write_bytes(pickle.dumps({"blobs": arrays}))
        assert read_model_file(str(path)) == {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}))
        assert read_model_file(str(path)) == {"model": arrays, "__author__": "me"}
        torch.save({"model_state": weights}, path)
        assert read_model_file(str(path))["__author__"] == "pycls"


def test_a_header_whose_length_looks_like_a_web_page_is_none(tmp_path: Path) -> None:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(0x3C20)
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert path.read_bytes().startswith(b" <")
    assert read_checkpoint(str(path)) == {"weight": torch.zeros(1)}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_all_kinds_and_orders_are_read(protocol: int, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "row by row": np.arange(6, dtype=np.float32).reshape(2, 3),
        "column by column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "axes in another order": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        "backwards": np.arange(5)[::-1],
        "big-endian": np.arange(3, dtype=">f4"),
        "no dimension": np.array(3.0),
        "empty": np.zeros((0, 4)),
        "scalar": np.float32(2),
        "truth": np.bool_(True),
        **{f"of {kind}": np.ones(2, kind) for kind in (bool, *"bBhHiIqQefdFD")},
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "ä"}, protocol))
    content = read_checkpoint(str(tmp_path / "a.pkl"))
    assert content["__author__"] == "ä"
    for name, array in arrays.items():
        found = content["model"][name]
        assert np.array_equal(found, array), name
        assert (found.dtype, found.shape, type(found)) == (array.dtype, array.shape, type(array)), name
    del arrays["scalar"], arrays["truth"]
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "ä"}, protocol))
    model = read_model_file(str(tmp_path / "b.pkl"))["model"]
    assert torch.equal(torch.as_tensor(model["big-endian"]), torch.arange(3.0))


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    text = "\\x00\\x00\\x80?\\x00\\x00\\x00@"
    lines = f"""(dp1
S'w'
p2
cnumpy.core.multiarray
_reconstruct
p3
(cnumpy
ndarray
p4
(I0
tp5
S'b'
p6
tp7
Rp8
(I1
(I2
tp9
cnumpy
dtype
p10
(S'f4'
p11
I0
I1
tp12
Rp13
(I3
S'<'
p14
NNNI-1
I-1
I0
tp15
bI00
S'{text}'
p16
tp17
bs."""
    (tmp_path / "old.pkl").write_text(lines)
    assert read_checkpoint(str(tmp_path / "old.pkl"))["w"].tolist() == [1.0, 2.0]


def test_backbones_are_written_by_protocol_4(tmp_path: Path) -> None:
    write_backbone_pkl({"stem.conv1.weight": torch.ones(2, 3)}, str(tmp_path / "a.pkl"))
    assert (tmp_path / "a.pkl").read_bytes()[:2] == b"\x80\x04"


def test_training_states_are_read_whole(tmp_path: Path) -> None:
    plain = {
        "args": argparse.Namespace(lr=0.1, nested={"a": [1, (2, None)]}),
        "numbers": [True, -5, 2**70, 1.5, 1j],
        "text": {"ä": b"q\xff", "zeros": bytearray(3), "set": {1, "a"}, "flat": {(1, "a"): 2}},
        "milestones": collections.Counter([3, 3, 5]),
        "torch": [torch.float32, torch.Size([2]), torch.device("cuda:1"), torch.strided],
    }
    tensors = [torch.arange(10)[1::2], torch.nn.Parameter(torch.ones(2)), torch.empty(0), torch.tensor(3)]
    tensors += [torch.ones(2, dtype=getattr(torch, name)) for name in ("bool", "bfloat16", "complex64", "int8")]
    for zipped in (True, False):
        torch.save({**plain, "tensors": tensors}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        content = read_checkpoint(str(tmp_path / "a.pth"))
        for found, tensor in zip(content.pop("tensors"), tensors, strict=True):
            assert type(found) is torch.Tensor
            assert not found.requires_grad
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor)
        assert content == plain
    torch.save({"a": torch.ones(2, dtype=torch.uint16)}, tmp_path / "a.pth")
    assert read_checkpoint(str(tmp_path / "a.pth"))["a"].dtype == torch.uint16


def test_shared_tensors_stay_shared_and_attributes_of_dictionaries_stay_behind(tmp_path: Path) -> None:
    tensor = torch.ones(1000)
    tensors: dict[str, torch.Tensor] = collections.OrderedDict()
    tensors.update(a=tensor, b=tensor)
    vars(tensors)["get"] = "no function"
    torch.save({"model": tensors, "again": tensors}, tmp_path / "a.pth")
    content = read_checkpoint(str(tmp_path / "a.pth"))
    assert content["model"] is content["again"]
    assert content["model"]["a"].data_ptr() == content["model"]["b"].data_ptr()
    assert content["model"].get("c") is None


def _hostile_files(victim: Path) -> dict[str, bytes]:
    kinds = {
        "pickle": hostile_by_hand.pickles(victim),
        "torch": hostile_by_hand.torch_files(victim),
        "safetensors": hostile_by_hand.safetensors_files(),
    }
    return {f"{kind}, {label}": content for kind, files in kinds.items() for label, content in files.items()}


def test_hostile_files_are_refused_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "_MOST_OPERATIONS", 110_000)
    files = _hostile_files(tmp_path / "victim")
    (tmp_path / "work").mkdir()
    result = read_all(iter(files.items()), len(files), tmp_path / "work")
    assert result == {"tried": len(files), "refused": len(files), "wrong": []}
    assert not (tmp_path / "victim").exists()


def test_what_a_refused_file_asks_for_is_said(tmp_path: Path) -> None:
    files = _hostile_files(tmp_path / "victim")
    for label, words in {
        "pickle, object field": "holds more than tensors and plain data (it has an array of the type 'V8')",
        "pickle, function": "holds more than tensors and plain data (it refers to os.mkdir)",
        "pickle, shape": "it has 16 bytes for an array of shape (2130706432,) and type float32",
        "pickle, no file but a page": "it is a web page",
        "pickle, a pointer": "`git lfs pull`",
        "torch, storage too large": "it has 16 bytes for a storage of 4398046511104",
        "torch, behind the storage": "it has a tensor of shape (4,) that ends behind its storage",
        "torch, sparse": "torch._utils._rebuild_sparse_tensor",
    }.items():
        (tmp_path / "a").write_bytes(files[label])
        with pytest.raises(ValueError, match=f"^The checkpoint {re.escape(str(tmp_path / 'a'))} .*{re.escape(words)}"):
            read_checkpoint(str(tmp_path / "a"))


def _zip(names: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (bytes(4096), "it begins with nothing but zeros"),
        (gzip.compress(b"weights"), "compressed by gzip: unpack it first"),
        (bz2.compress(b"weights"), "compressed by bzip2: unpack it first"),
        (lzma.compress(b"weights"), "compressed by xz: unpack it first"),
        (b'\n{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "it is JSON, not weights"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "it is a web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "it is a picture"),
        (_zip({"model.pth": b"PK"}), "if the weights are in it, unpack it first"),
        (_zip({"net/constants.pkl": b"", "net/data.pkl": b""}, zipfile.ZIP_DEFLATED), "a program of TorchScript"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_no_file_of_weights_is_called_by_its_kind(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_checkpoint(str(tmp_path / "a.pth"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("is_zip", [True, False])
def test_protocols_that_torch_does_not_read_are_said(is_zip: bool, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a", pickle_protocol=4, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match="save it without pickle_protocol"):
        read_checkpoint(str(tmp_path / "a"))


def test_where_weights_are_in_a_file_of_another_form_is_said(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "hyper_parameters": {}, "state_dict": {"model.a": torch.ones(1)}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt holds no weights: .* Weights are under 'state_dict': save"):
        read_model_file(str(tmp_path / "a.ckpt"))


def test_tensors_with_a_note_of_torch_are_read(tmp_path: Path) -> None:
    value = torch.tensor([1 + 2j]).conj()
    torch.save({"a": value}, tmp_path / "a.pth")
    assert torch.equal(read_checkpoint(str(tmp_path / "a.pth"))["a"], value)


@pytest.mark.parametrize("count", [200, pytest.param(5_000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused_and_harm_nothing(count: int, tmp_path: Path) -> None:
    for name in ("good", "work"):
        (tmp_path / name).mkdir()
    result = read_all(mutations(good_files(tmp_path / "good"), seed=14), count, tmp_path / "work")
    print(f"{result['tried']} damaged files tried, {result['refused']} refused")
    assert result["wrong"] == []
    assert result["tried"] == count
    assert count // 2 < result["refused"] < count


def test_a_file_that_cannot_be_opened_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({}, tmp_path / "a.pth")

    def broken(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(tmp_path / "a.pth"))

    monkeypatch.setattr(torch, "load", broken)
    with pytest.raises(OSError, match="Input/output error"):
        read_checkpoint(str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("class_names", 3, "a int, expected a list of names"),
        ("class_names", ["a", 3], "a list, expected a list of names"),
        ("category_ids", [[1]], "a list, expected a list of numbers or names"),
        ("num_things", "3", "a str, expected a number"),
        ("panoptic_layout", {}, "an empty dictionary, expected a name"),
    ],
)
def test_what_a_file_tells_of_its_classes_must_be_of_its_kind(key: str, value: Any, words: str, tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}, key: value}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth is no checkpoint of this package: {key} is {words}"):
        read_model_file(str(tmp_path / "a.pth"))


def test_a_config_of_transformers_that_is_none_is_named(tmp_path: Path) -> None:
    (theirs,) = [x for x in LAYOUTS if (x.name, x.family) == ("huggingface", "DETR")]
    content = {"model": foreign_state(small_detr(), theirs)}
    wrong = ['{"id2label": {"0": 3}}', '{"id2label": 3}', '{"backbone_config": 3}', "3", "[]", "{", "[" * 100_000]
    for config in wrong:
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ValueError, match=r"config.json is not a config of transformers .*: restore or remove it"):
            to_detectron2(content, str(tmp_path / "pytorch_model.bin"))
