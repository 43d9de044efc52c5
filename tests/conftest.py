"""Fixtures for all tests: one thread, a seed, no network, clean dataset catalogs, a tiny COCO dataset made by hand.

Each run has a seed of its own, which stands in its header; DETR_D2_TEST_SEED sets it.
"""

from __future__ import annotations

import functools
import http.server
import logging
import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CocoFiles, make_tiny_coco
from run_seed import SEED

# Before torch is imported. Tiny models are fastest with one thread, and threads that wait for each other crawl on a
# machine that does other work as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# For pip and the like in processes that a test starts: whatever is wrong with the code under test, nothing is fetched.
_OFFLINE = {
    "PIP_NO_INDEX": "1",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_RETRIES": "0",
    "PIP_FIND_LINKS": "",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_ARGS": "",
    "DETECTRON2_SOURCE": "",
    "HF_HUB_OFFLINE": "1",
}


def pytest_report_header() -> str:
    return f"DETR_D2_TEST_SEED={SEED}"


@pytest.fixture
def tiny_coco(tmp_path: Path) -> CocoFiles:
    """A fresh copy of the tiny dataset, not registered."""
    return make_tiny_coco(tmp_path / "tiny_coco")


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a server of the files in `tmp_path / "web"`; by "localhost" it is another host."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "web").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cuda() -> Any:
    """The GPU of a test that needs one; computes in full float32 there, as a CPU does."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU that torch can use")
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield torch.device("cuda")
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Runs that are compared bit by bit need the same number; a test before this one may have changed it."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test begins with the same random state, alone as in the whole run."""
    import torch

    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    torch.manual_seed(SEED)


@pytest.fixture(autouse=True)
def _no_closed_log_streams() -> None:
    """Forgets log handlers that write to the console of a test before this one, which is closed.

    And what detectron2's `setup_logger` has done to the loggers, which `caplog` would not hear any more.
    """
    for name in ("detectron2", "detr_d2", "fvcore"):
        logger = logging.getLogger(name)
        logger.propagate = True
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and getattr(handler.stream, "closed", False):
                logger.removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def _quick_first_weights() -> Iterator[None]:
    """Models are built in a tenth of the time."""
    from quick_init import draw_less

    with pytest.MonkeyPatch.context() as patch:
        draw_less(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """A connection to another machine fails the test; child processes find no package index."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _local_only(getattr(socket.socket, name)))
        for variable, value in _OFFLINE.items():
            patch.setenv(variable, value)
        yield


def _local_only(connect: Any) -> Any:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(str(address[0])):
            pytest.fail(f"a test connects to {address[0]}:{address[1]}, but tests work without network")
        return connect(self, address)

    return guarded


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1", "0.0.0.0", "::", socket.gethostname()) or host.startswith("127.")


@pytest.fixture(autouse=True)
def _clean_catalogs() -> Iterator[None]:
    """Forgets the datasets that a test registered: detectron2's catalogs are global and refuse a name twice."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    before = [(catalog, set(catalog.list())) for catalog in (DatasetCatalog, MetadataCatalog)]
    yield
    for catalog, names in before:
        for name in set(catalog.list()) - names:
            catalog.remove(name)
