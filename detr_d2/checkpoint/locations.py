"""Where weights are: files, folders of `transformers`, URLs, and `hf://` names; all end as a checked local file."""

from __future__ import annotations

import hashlib
import os
import re
from typing import IO, Any
from urllib.error import URLError
from urllib.parse import urlparse

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

HUGGINGFACE_PREFIX = "hf://"

# The names that `save_pretrained` gives to weights, the preferred first.
HUGGINGFACE_FILES = ("model.safetensors", "pytorch_model.bin")

# torch.hub's convention, which these keep: the name ends in the start of the file's SHA-256.
_HASHED = ("https://dl.fbaipublicfiles.com/detr/", "https://download.pytorch.org/models/")
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")


def local_file(weights: str, *, force: bool = False) -> str:
    """Finds weights, downloading them when they are elsewhere.

    Args:
        weights: path of a file; folder written by `save_pretrained`; URL; `hf://ORG/NAME[@REVISION]`; or another
            name that detectron2's `PathManager` knows, such as `detectron2://...` and `torchvision://...`.

        force: download again what is in the cache.

    Returns:
        Path of the file. Downloads are kept in the cache of `PathManager` or of `huggingface_hub`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a download fails, or the file is not the one whose hash stands in its URL.
    """
    if "://" not in weights:
        return _in_folder(weights) if os.path.isdir(weights) else _existing(weights)
    try:
        path = PathManager.get_local_path(weights, force=force)
    except (URLError, OSError) as error:
        raise ValueError(_offline(weights, error)) from error
    _check_hash(weights, path)
    return str(path)


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
    if weights.startswith(("http://", "https://")):
        kept = f", put it at {cache_path(weights)},"
    return (
        f"{weights} could not be downloaded ({reason}): fetch it on a machine with network{kept} or set MODEL.WEIGHTS "
        "to the file."
    )


def cache_path(url: str) -> str:
    """Where detectron2's `PathManager` keeps the download of a URL."""
    from iopath.common.file_io import get_cache_dir

    parsed = urlparse(url)
    return os.path.join(get_cache_dir(None), os.path.dirname(parsed.path.lstrip("/")), os.path.basename(url))


def _check_hash(url: str, path: str) -> None:
    match = _HASH_IN_NAME.search(urlparse(url).path)
    if not (match and url.startswith(_HASHED)):
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    if not digest.startswith(match[1]):
        raise ValueError(
            f"{path} is not the file of {url}: its SHA-256 starts with {digest[: len(match[1])]}, expected {match[1]}; "
            "delete it, so that it is downloaded again."
        )


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


class HuggingFaceHandler(PathHandler):
    """Resolves `hf://ORG/NAME[@REVISION]` to the weights of a model on the Hugging Face Hub."""

    def _get_supported_prefixes(self) -> list[str]:
        return [HUGGINGFACE_PREFIX]

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

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return open(self._get_local_path(path, **kwargs), mode, buffering)


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


def register_huggingface_handler() -> None:
    """Makes detectron2's `PathManager` understand `hf://`; may be called again."""
    PathManager.register_handler(HuggingFaceHandler(), allow_override=True)
