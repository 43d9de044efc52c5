"""Where weights are: files, folders of `transformers`, URLs, and `hf://` names; all end as a checked local file."""

from __future__ import annotations

import os
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from ..downloads import cache_path, download, is_url

HUGGINGFACE_PREFIX = "hf://"

# The names that `save_pretrained` gives to weights, the preferred first.
HUGGINGFACE_FILES = ("model.safetensors", "pytorch_model.bin")


def local_file(weights: str, *, force: bool = False) -> str:
    """Finds weights, downloading them when they are elsewhere.

    Args:
        weights: path of a file, which may begin with ~; folder written by `save_pretrained`; URL;
            `hf://ORG/NAME[@REVISION]`; or another name that detectron2's `PathManager` knows, such as
            `detectron2://...` and `torchvision://...`.
        force: download again what is in the cache, where the name's handler can.

    Returns:
        Path of the file. Downloads are kept in the cache of detectron2 or of `huggingface_hub`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a download fails, or the file is not the one whose hash stands in its URL.
    """
    if "://" not in weights:
        weights = os.path.expanduser(weights)
        return _in_folder(weights) if os.path.isdir(weights) else _existing(weights)
    try:
        return download(weights, force=force) if is_url(weights) else str(PathManager.get_local_path(weights, force))
    except OSError as error:
        raise ValueError(_offline(weights, error)) from error
    except (KeyError, RuntimeError, AssertionError) as error:  # of detectron2's handlers, such as that of catalog://
        raise ValueError(f"{weights} is no name of weights that detectron2 knows: check MODEL.WEIGHTS.") from error


def _existing(path: str) -> str:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"The checkpoint {path} does not exist: check its path.")
    return path


def _in_folder(folder: str) -> str:
    for name in HUGGINGFACE_FILES:
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise FileNotFoundError(
        f"The checkpoint {folder} is a folder without {' or '.join(HUGGINGFACE_FILES)}: name a checkpoint file."
    )


def _offline(weights: str, error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    kept = ""
    if is_url(weights):
        kept = f", put it at {cache_path(weights)},"
    return (
        f"{weights} could not be downloaded ({reason}): fetch it on a machine with network{kept} or set MODEL.WEIGHTS "
        "to the file."
    )


class WeightsHandler(PathHandler):
    """A kind of names of weights, for detectron2's `PathManager`; all begin with `prefix`."""

    prefix: str

    def _get_supported_prefixes(self) -> list[str]:
        return [self.prefix]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return open(self._get_local_path(path, **kwargs), mode, buffering)


class HuggingFaceHandler(WeightsHandler):
    """Resolves `hf://ORG/NAME[@REVISION]` to the weights of a model on the Hugging Face Hub."""

    prefix = HUGGINGFACE_PREFIX

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        repository, _, revision = path[len(HUGGINGFACE_PREFIX) :].strip("/").partition("@")
        if repository.count("/") != 1:
            raise ValueError(f"{path} names no model, expected for example hf://facebook/detr-resnet-50.")
        try:
            import huggingface_hub.utils
        except ImportError as error:
            raise ModuleNotFoundError(f'{path} needs huggingface_hub: pip install "detr_d2[hf]".') from error
        return _download(huggingface_hub, repository, revision or None, force=force)


def _download(hub: Any, repository: str, revision: str | None, *, force: bool) -> str:
    """Fetches config.json, which names the classes, and the first kind of weights that there is."""
    name = f"{HUGGINGFACE_PREFIX}{repository}" + (f"@{revision}" if revision else "")
    offline = False

    def fetch(file: str) -> str | None:
        nonlocal offline
        options = {"local_files_only": True} if offline else {"force_download": force}
        try:
            return str(hub.hf_hub_download(repository, file, revision=revision, **options))
        except hub.utils.LocalEntryNotFoundError:  # not in the cache, and whether the hub has it cannot be known
            offline = True
        except hub.utils.EntryNotFoundError:
            pass
        return None

    try:
        config = fetch("config.json")
        found = fetch(HUGGINGFACE_FILES[0]) or fetch(HUGGINGFACE_FILES[1])
    except (hub.utils.HfHubHTTPError, hub.utils.HFValidationError) as error:
        raise ValueError(
            f"{name} could not be downloaded ({str(error).strip().splitlines()[0]}): check the name and the revision."
        ) from error
    if found and config:
        return found
    if offline:
        raise ValueError(
            f"{name} could not be downloaded and is not in the cache: fetch https://huggingface.co/{repository} "
            "(config.json and model.safetensors) on a machine with network, and set MODEL.WEIGHTS to the folder."
        )
    raise ValueError(f"{name} lacks config.json or {' and '.join(HUGGINGFACE_FILES)}: it holds no model for PyTorch.")
