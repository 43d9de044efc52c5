"""Files appear whole or not at all, and what was there is not lost, also where the system sets a real limit."""

from __future__ import annotations

import errno
import gzip
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from full_disk import largest_file
from PIL import Image

from detr_d2.files import (
    WriteError,
    check_writable,
    file_hash,
    new_file_by_name,
    new_folder,
    write_figure,
    write_file,
    write_json,
    write_picture,
    write_text,
    writing,
)
from detr_d2.files.processes import Process, host_name

NOISE = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)


def _figure(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.text(0.5, 0.5, "x")
    write_figure(path, figure)


def _video(path: Path) -> None:
    with new_file_by_name(path) as name:
        name.write_bytes(NOISE.tobytes())


def _safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    with new_file_by_name(path) as name:
        save_file({"x": torch.from_numpy(NOISE)}, name)


def _torch_by_name(path: Path) -> None:
    with new_file_by_name(path) as name:
        torch.save({"x": torch.from_numpy(NOISE)}, name)


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.pth": lambda path: write_file(path, lambda file: torch.save({"x": torch.from_numpy(NOISE)}, file)),
    "b.pth": _torch_by_name,
    "a.npz": lambda path: write_file(path, lambda file: np.savez(file, x=NOISE)),
    "b.npz": lambda path: write_file(path, lambda file: np.savez_compressed(file, x=NOISE)),
    "a.pkl": lambda path: write_file(path, lambda file: pickle.dump(NOISE, file)),
    "a.json": lambda path: write_json(path, NOISE[:20].tolist()),
    "a.csv": lambda path: write_text(path, "1,2,3\n" * 10_000),
    "a.json.gz": lambda path: write_file(path, lambda file: file.write(gzip.compress(NOISE.tobytes()))),
    "a.jpg": lambda path: write_picture(path, NOISE),
    "a.png": lambda path: write_picture(path, NOISE),
    "b.jpg": lambda path: write_file(path, lambda file: Image.fromarray(NOISE).save(file, "JPEG", quality=95)),
    "b.png": lambda path: write_file(path, lambda file: Image.fromarray(NOISE).save(file, "PNG")),
    "c.png": _figure,
    "a.mp4": _video,
    "a.safetensors": _safetensors,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("existed", [False, True], ids=["new", "replaces"])
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(tmp_path: Path, name: str, existed: bool) -> None:
    path = tmp_path / name
    if existed:
        path.write_text("old")
    WRITERS[name](tmp_path / f"whole-{name}")
    size = (tmp_path / f"whole-{name}").stat().st_size
    before = {x.name: x.read_bytes() for x in tmp_path.iterdir()}
    for limit in (0, 100, size // 2, size - 1):
        with largest_file(limit), pytest.raises(WriteError) as caught:
            WRITERS[name](path)
        state = "What was there before is untouched" if existed else "Nothing of it is left behind"
        assert f"{path} cannot be written: File too large, the limit" in str(caught.value)
        assert state in str(caught.value)
        assert "\n" not in str(caught.value)
        assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == before
    WRITERS[name](path)
    assert path.stat().st_size == size


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT"])
def test_space_and_quota_are_told_apart_whatever_a_library_makes_of_them(tmp_path: Path, code: str) -> None:
    number = getattr(errno, code)
    reason = {"ENOSPC": "No space left on device", "EDQUOT": "Disk quota exceeded"}[code]

    def as_cause(_: IO[bytes]) -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise RuntimeError("[enforce fail at inline_container.cc:672]") from error

    def as_text(_: IO[bytes]) -> None:
        raise RuntimeError(f"I/O error: something (os error {number})")

    for write in (as_cause, as_text):
        with pytest.raises(WriteError, match=reason):
            write_file(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_block_pass_and_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail(file: IO[bytes], error: BaseException) -> None:
        file.write(b"new")
        raise error

    for error in (ValueError("not finite"), FileNotFoundError(2, "No such file", "image.png"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            write_file(path, partial(fail, error=error))
        assert caught.value is error
    assert [x.name for x in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "old"


def test_permissions_are_those_of_the_umask_or_of_the_file_replaced(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "x")
        with new_folder(tmp_path / "folder") as folder:
            write_text(folder / "inside", "x")
    finally:
        os.umask(before)
    (tmp_path / "old").write_text("old")
    (tmp_path / "old").chmod(0o604)
    write_text(tmp_path / "old", "x")
    modes = [stat.S_IMODE((tmp_path / x).stat().st_mode) for x in ("new", "folder", "folder/inside", "old")]
    assert modes == [0o640, 0o750, 0o640, 0o604]


def test_the_target_of_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "target"
    target.write_text("old")
    links = {"absolute": target, "relative": Path("elsewhere/target"), "chain": Path("absolute")}
    for name, destination in links.items():
        (tmp_path / name).symlink_to(destination)
        write_text(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert target.read_text() == name
    (tmp_path / "dangling").symlink_to("elsewhere/new")
    write_text(tmp_path / "dangling", "new")
    assert (tmp_path / "elsewhere" / "new").read_text() == "new"


def test_a_planted_name_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted = str(tmp_path / "planted")
    os.symlink(victim, planted)
    monkeypatch.setattr(writing, "temporary_name", lambda *_: planted)
    with pytest.raises(WriteError, match="File exists"):
        write_text(tmp_path / "x", "new")
    assert victim.read_text() == "precious"
    assert os.path.islink(planted)


def test_devices_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    write_text("/dev/null", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join()
    assert got == ["through"]


def test_threads_write_one_file_at_once(tmp_path: Path) -> None:
    contents = [str(i) * 10_000 for i in range(8)]

    def write_often(text: str) -> None:
        for _ in range(20):
            write_text(tmp_path / "x", text)

    threads = [threading.Thread(target=write_often, args=(x,)) for x in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x").read_text() in contents
    assert [x.name for x in tmp_path.iterdir()] == ["x"]


def test_file_and_folder_reach_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, os.replace

    def seen_sync(descriptor: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def seen_replace(source: str, target: str) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_sync)
    monkeypatch.setattr(os, "replace", seen_replace)
    write_text(tmp_path / "x", "x")
    assert order == ["file", "rename", "folder"]


KILLED = """
import os, sys, signal
from alone import new_file, new_folder
with new_folder(sys.argv[1] + "/folder") as folder, new_file(sys.argv[1] + "/x") as file:
    (folder / "y").write_text("y")
    file.write(b"x" * (2 << 20))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_before_the_next_write(tmp_path: Path) -> None:
    folder = Path(writing.__file__).parent
    (tmp_path / "alone").symlink_to(folder)  # without what else importing the package brings
    out = tmp_path / "out"
    write_text(out / "before", "before")  # so this process has seen the folder
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(out.iterdir())) == 3  # before, a file and a folder
    write_text(out / "after", "after")
    assert sorted(x.name for x in out.iterdir()) == ["after", "before"]


def _left_by(owner: Process, folder: Path, *, days: float) -> Path:
    path = folder / f".detr_d2-{owner.host}-{owner.system}-{owner.pid}-{owner.start}-0123abcd.tmp"
    path.write_text("part")
    then = path.stat().st_mtime - 86400 * days
    os.utime(path, (then, then))
    return path


def test_what_the_living_and_other_hosts_are_writing_stays(tmp_path: Path) -> None:
    own = Process.current()
    stays = [
        _left_by(Process("elsewhere", own.system, 1, 1), tmp_path, days=30),
        _left_by(Process(own.host, "deadbeef", 1, 1), tmp_path, days=0.5),
        _left_by(own, tmp_path, days=30),
    ]
    goes = [
        _left_by(Process(own.host, own.system, own.pid, own.start + 1), tmp_path, days=0),  # the pid is used again
        _left_by(Process(own.host, "deadbeef", 2, 1), tmp_path, days=2),  # before the host was started again
    ]
    foreign = tmp_path / ".detr_d2-notes.tmp"
    foreign.write_text("mine")
    write_text(tmp_path / "x", "x")
    assert all(path.exists() for path in (*stays, foreign))
    assert not any(path.exists() for path in goes)


def test_processes_are_told_apart() -> None:
    own = Process.current()
    assert own.host == host_name()
    assert not own.is_dead()
    assert Process(own.host, own.system, own.pid, own.start + 1).is_dead()
    assert not Process("elsewhere", own.system, own.pid, own.start + 1).is_dead()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert Process(own.host, own.system, child, 0).is_dead()  # it has ended, though nobody has asked how
    os.waitpid(child, 0)
    assert Process(own.host, own.system, child, 0).is_dead()


def test_a_folder_appears_whole_and_takes_only_what_it_may(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with new_folder(path) as folder:
        write_text(folder / "config.json", "1")
        assert not path.exists()
    with new_folder(path, replaces=("config.json",)) as folder:
        write_text(folder / "config.json", "2")
    assert [x.name for x in tmp_path.iterdir()] == ["model"]
    (path / "thesis.tex").write_text("mine")
    with new_folder(path, replaces=("config.json",)) as folder:
        write_text(folder / "config.json", "3")
    assert (path / "config.json").read_text() == "3"
    (old,) = (x for x in tmp_path.iterdir() if x != path)
    assert [x.name for x in old.iterdir()] == ["thesis.tex"]


def test_a_full_disk_leaves_the_folder_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("old")
    with pytest.raises(WriteError, match="untouched"), largest_file(100), new_folder(path) as folder:
        (folder / "x").write_bytes(NOISE.tobytes())
    with pytest.raises(KeyError), new_folder(path) as folder:
        raise KeyError("x")
    assert [x.name for x in tmp_path.iterdir()] == ["model"]
    assert (path / "config.json").read_text() == "old"


@pytest.mark.parametrize("where", ["a file as folder", "a folder as file", "long"])
def test_places_that_are_none(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("x")
    path = {"a file as folder": tmp_path / "file" / "x", "a folder as file": tmp_path, "long": tmp_path / ("x" * 300)}
    with pytest.raises(WriteError, match="cannot be written"):
        write_text(path[where], "x")
    assert [x.name for x in tmp_path.iterdir()] == ["file"]


def test_the_probe_leaves_nothing_and_says_what_to_do(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder", "")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match=r"^.*/file cannot be used: \w.*, choose \w+$"):
        check_writable(tmp_path / "file", "{folder} cannot be used: {reason}, choose another")
    with largest_file(0), pytest.raises(WriteError):
        check_writable(tmp_path, "{reason}")


def test_an_unknown_format_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no format for \.xyz"):
        write_picture(tmp_path / "a.xyz", NOISE)
    write_picture(tmp_path / "a.png", NOISE)
    assert (np.asarray(Image.open(tmp_path / "a.png")) == NOISE).all()


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    write_file(tmp_path / "x", lambda file: file.write(b"abc"))
    assert file_hash(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_that_no_reader_takes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": [1, None]})
    value: Any = {"a": float("nan")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, value)
    assert json.loads(path.read_text()) == {"a": [1, None]}
