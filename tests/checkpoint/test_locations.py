"""Weights from files, folders, URLs and the Hugging Face Hub, without a network."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from detectron2.utils.file_io import PathManager
from foreign_models import assert_same_state, foreign_state, small_detr

from detr_d2.checkpoint import Checkpointer, local_file
from detr_d2.checkpoint.layouts.identify import HUGGINGFACE
from detr_d2.checkpoint.locations import cache_path
from detr_d2.checkpoint.reading.open import read_model_file


def test_a_file_is_itself_and_a_folder_holds_one(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert local_file(str(tmp_path)) == str(tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert local_file(str(tmp_path)) == str(tmp_path / "model.safetensors")
    assert local_file(str(tmp_path / "pytorch_model.bin")) == str(tmp_path / "pytorch_model.bin")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth does not exist: check its path"):
        local_file(str(tmp_path / "nothing.pth"))
    with pytest.raises(FileNotFoundError, match=r"folder without model\.safetensors or pytorch_model\.bin"):
        local_file(str(tmp_path))


def test_a_download_must_be_what_its_name_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "download"
    file.write_bytes(b"weights")
    monkeypatch.setattr(PathManager, "get_local_path", lambda *_args, **_kwargs: str(file))
    digest = hashlib.sha256(b"weights").hexdigest()
    authors = "https://dl.fbaipublicfiles.com/detr"
    assert local_file(f"{authors}/detr-{digest[:8]}.pth") == str(file)
    assert local_file(f"{authors}/detr-{digest[:8]}.pth?download=1") == str(file)
    for place in (authors, "https://download.pytorch.org/models"):
        with pytest.raises(ValueError, match=rf"starts with {digest[:8]}, expected 00000000; delete it"):
            local_file(f"{place}/detr-00000000.pth")
    assert local_file(f"{authors}/model-final.pth") == str(file)  # promises nothing
    assert local_file("https://example.org/detr-20240101.pth") == str(file)  # a date


def test_without_network_a_sentence_says_what_to_fetch_and_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> str:
        raise URLError("no route to host")

    monkeypatch.setattr(PathManager, "get_local_path", refuse)
    url = "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth"
    with pytest.raises(
        ValueError, match=r"could not be downloaded \(no route to host\): fetch it .* put it at"
    ) as error:
        local_file(url)
    assert cache_path(url) in str(error.value)


def test_a_file_put_into_the_cache_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    digest = hashlib.sha256(b"weights").hexdigest()
    url = f"https://dl.fbaipublicfiles.com/detr/fetched-by-hand-{digest[:8]}.pth"
    path = Path(cache_path(url))
    assert path.is_relative_to(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert local_file(url) == str(path)


def test_one_name_on_two_hosts_and_with_two_queries_is_several_files(tmp_path: Path, web: str) -> None:
    (tmp_path / "web" / "sub").mkdir()
    kept = {}
    for url in (
        f"{web}/sub/a.pth",
        web.replace("127.0.0.1", "localhost") + "/sub/a.pth",
        f"{web}/sub/a.pth?of=x/a.pth",
    ):
        (tmp_path / "web" / "sub" / "a.pth").write_text(url)
        kept[url] = Path(local_file(url))
    for url, path in kept.items():
        assert path.is_relative_to(tmp_path / "cache")
        assert path.read_text() == url
        assert path == Path(cache_path(url)) == Path(local_file(url))


def test_a_download_is_made_again_on_request(tmp_path: Path, web: str) -> None:
    source, url = tmp_path / "web" / "a.pth", f"{web}/a.pth?download=true"
    torch.save({"a": torch.ones(1)}, source)
    path = local_file(url)
    assert torch.equal(read_model_file(path)["model"]["a"], torch.ones(1))
    torch.save({"a": torch.zeros(1)}, source)
    assert read_model_file(local_file(url))["model"]["a"] == 1
    assert local_file(url, force=True) == path
    assert read_model_file(local_file(url))["model"]["a"] == 0
    source.unlink()
    with pytest.raises(ValueError, match=r"could not be downloaded \(File not found\)"):
        local_file(url, force=True)
    assert read_model_file(local_file(url))["model"]["a"] == 0
    assert len(list(Path(path).parent.iterdir())) <= 2  # the file and its lock


def test_a_url_does_not_lead_out_of_the_cache() -> None:
    with pytest.raises(ValueError, match=r"has '\.\.' in its path"):
        local_file("http://127.0.0.1:9/../../a.pth")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/folder/", "http:///a.pth", "https://"])
def test_a_url_must_name_a_file(url: str) -> None:
    with pytest.raises(ValueError, match="names no file on a host"):
        local_file(url)


def test_an_answer_that_is_no_http_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                client.sendall(b"no http\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ValueError, match=r"could not be downloaded \(BadStatusLine"):
            local_file(f"http://127.0.0.1:{server.getsockname()[1]}/a.pth")


def test_the_home_folder_is_known_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.pth").write_bytes(b"x")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x")
    assert local_file("~/a.pth") == str(tmp_path / "a.pth")
    assert local_file("~/model") == str(tmp_path / "model" / "model.safetensors")
    layer = torch.nn.Linear(1, 1)
    Checkpointer(layer, str(tmp_path)).save("saved")
    Checkpointer(layer).load_trained("~/saved.pth")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/nothing.pth does not exist"):
        local_file("~/nothing.pth")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of huggingface_hub with one model, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    repository = tmp_path / "models--someone--detr"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    (repository / "refs" / "no_timm").write_text("0123abc")
    model = small_detr()
    save_file(foreign_state(model, HUGGINGFACE), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog", "2": "bird"}}))
    torch.save(model.state_dict(), tmp_path / "expected.pth")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("name", ["hf://someone/detr", "hf://someone/detr@no_timm"])
def test_a_model_of_the_hub_loads_by_its_name_with_its_classes(hub_cache: Path, name: str) -> None:
    model = small_detr()
    rest = Checkpointer(model).load(name)
    assert_same_state(model.state_dict(), torch.load(hub_cache / "expected.pth"))
    assert rest["class_names"] == ["cat", "dog", "bird"]


@pytest.mark.parametrize("name", ["hf://someone/other", "hf://someone/detr@v2"])
def test_a_model_that_is_not_in_the_cache_is_named_offline(hub_cache: Path, name: str) -> None:  # noqa: ARG001
    with pytest.raises(
        ValueError, match=rf"{name} could not be downloaded and is not in the cache: fetch https://hugg"
    ):
        local_file(name)


def test_a_name_of_the_hub_has_two_parts(hub_cache: Path) -> None:  # noqa: ARG001
    with pytest.raises(ValueError, match="hf://detr names no model, expected for example hf://facebook/detr-resnet-50"):
        local_file("hf://detr")


@pytest.mark.parametrize("name", ["catalog://ImageNetPretrained/nothing", "catalog://nothing"])
def test_a_name_that_detectron2_does_not_know_is_said(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is no name of weights that detectron2 knows"):
        local_file(name)
