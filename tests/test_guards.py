"""What tests/conftest.py promises to all tests."""

from __future__ import annotations

import ast
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


# What can run code from a file, or what it says -> the only files of the package that use it.
READERS = {
    "torch.load": {"detr_d2/checkpoint/reading/torch_file.py"},
    "safetensors.torch.load_file": {"detr_d2/checkpoint/reading/open.py"},
    "pickle.load": set(),
    "pickle.loads": set(),
    "pickle.Unpickler": set(),
    "torch.jit.load": set(),
    "torch.hub.load_state_dict_from_url": set(),
    "yaml.load": set(),
    "yaml.unsafe_load": set(),
    "yaml.full_load": set(),
    "yaml.safe_load": {"detr_d2/experiments/own_folders.py"},  # of a text of our own
    "yaml.SafeLoader": {"detr_d2/config_file.py"},
    "eval": set(),
    "exec": set(),
}


def test_only_the_readers_that_are_checked_read_files_that_can_run_code() -> None:
    """So every command that takes weights or a config meets what tests/checkpoint/reading/test_reading.py tests."""
    root = Path(__file__).resolve().parents[1]
    found: dict[str, set[str]] = {name: set() for name in READERS}
    lasts = {name.rpartition(".")[2] for name in READERS}
    for path in sorted((root / "detr_d2").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            last = getattr(node, "attr", getattr(node, "id", None))
            if isinstance(node, ast.Attribute | ast.Name) and (last in imported or last in lasts):
                name = imported.get(ast.unparse(node), ast.unparse(node))
                if name in found:
                    found[name].add(path.relative_to(root).as_posix())
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path
    assert found == READERS
