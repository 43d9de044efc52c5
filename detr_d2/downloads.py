"""Files behind http(s) URLs, each kept under its whole URL: detectron2's own cache takes two hosts for one."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from http.client import HTTPException
from urllib.parse import urlparse

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import get_cache_dir

from .files import file_hash

# torch.hub's convention, which these keep: the name ends in the start of the file's SHA-256.
_HASHED = ("https://dl.fbaipublicfiles.com/detr/", "https://download.pytorch.org/models/")
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")


def is_url(name: str) -> bool:
    """Whether a name is an http(s) URL."""
    return name.startswith(("http://", "https://"))


def download(url: str, *, force: bool = False) -> str:
    """Path of the file behind a URL, downloaded unless it is in the cache.

    Args:
        url: of http or https.
        force: download it again; the file in the cache stays until the new one is there.

    Raises:
        ValueError: the URL leads out of its host's folder, or the file is not the one whose hash stands in the URL.
        OSError: it cannot be downloaded.
    """
    if ".." in urlparse(url).path.split("/"):
        raise ValueError(f"{url} has '..' in its path: give the URL without.")
    if not url.split("/")[-1] or not urlparse(url).hostname:
        raise ValueError(f"{url} names no file on a host: give the URL of a file.")
    place = cache_path(url)
    if force and os.path.isfile(place):
        with tempfile.TemporaryDirectory(dir=os.path.dirname(place)) as scratch:
            os.replace(_fetch(url, scratch), place)
    path = _fetch(url, _cache_folder(url))
    _check_hash(url, path)
    return path


def _fetch(url: str, cache_dir: str) -> str:
    try:
        return str(PathManager.get_local_path(url, force=True, cache_dir=cache_dir))
    except HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def cache_path(url: str) -> str:
    """Where the download of a URL is kept."""
    return os.path.join(_cache_folder(url), os.path.dirname(urlparse(url).path.lstrip("/")), url.split("/")[-1])


def _cache_folder(url: str) -> str:
    """A folder for each URL; for names with a hash, which nothing else can pass for, the one that detectron2 uses."""
    root = str(get_cache_dir(None))
    if promised_hash(url):
        return root
    host = re.sub(r"[^\w.-]", "_", urlparse(url).netloc)
    return os.path.join(root, "urls", f"{host}-{hashlib.sha256(url.encode()).hexdigest()[:12]}")


def promised_hash(url: str) -> str:
    """First digits of the SHA-256 that a file of the authors or of PyTorch promises in its name; "" if none."""
    match = _HASH_IN_NAME.search(urlparse(url).path)
    return match[1] if match and url.startswith(_HASHED) else ""


def _check_hash(url: str, path: str) -> None:
    promised = promised_hash(url)
    if not promised:
        return
    found = file_hash(path)[: len(promised)]
    if found != promised:
        raise ValueError(
            f"{path} is not the file of {url}: its SHA-256 starts with {found}, expected {promised}; delete it, so "
            "that it is downloaded again."
        )
