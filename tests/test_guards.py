"""What tests/conftest.py promises to all tests."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from run_seed import SEED


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_other_machines_cannot_be_reached(method: str) -> None:
    for address in (("192.0.2.1", 9), ("example.invalid", 80)):  # RFC 5737, RFC 2606: nobody has these
        with (
            socket.socket() as client,
            pytest.raises(pytest.fail.Exception, match=f"connects to {address[0]}:{address[1]}"),
        ):
            getattr(client, method)(address)


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())


def test_pip_finds_no_package(tmp_path: Path) -> None:
    assert os.environ["PIP_NO_INDEX"] == "1"
    command = [sys.executable, "-m", "pip", "download", "--no-cache-dir", "--dest", str(tmp_path), "torch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Looking in indexes" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_test_begins_with_the_seed() -> None:
    torch.testing.assert_close(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(SEED)))
    assert random.random() == random.Random(SEED).random()
    assert np.random.rand() == np.random.RandomState(SEED).rand()  # noqa: NPY002


def test_one_thread() -> None:
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"]
