"""One process writes into a folder at a time: the living are not disturbed, and the dead do not stand in the way."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from other_processes import another_process, hold_for_ever

from detr_d2.files import folder_lock
from detr_d2.files.folder_lock import NAME, FolderInUse, Owner, hold_folder
from detr_d2.files.processes import Process
from detr_d2.files.write_errors import WriteError


def test_a_living_process_is_named(tmp_path: Path) -> None:
    with another_process(lambda: hold_for_ever(tmp_path)) as pid:
        sentence = (
            rf"^{tmp_path} is written to by process {pid} on {Process.current().host} .*began 0 minutes ago: wait"
        )
        with pytest.raises(FolderInUse, match=sentence), hold_folder(tmp_path):
            pass
        link = tmp_path.with_name("link")
        link.symlink_to(tmp_path)
        with pytest.raises(FolderInUse), hold_folder(link):
            pass
        assert [x.name for x in tmp_path.iterdir()] == [NAME]
    with hold_folder(tmp_path):  # it has been killed
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_process_holds_a_folder_as_often_as_it_likes(tmp_path: Path) -> None:
    with hold_folder(tmp_path / "new"):
        with pytest.raises(KeyError), hold_folder(tmp_path / "new"):
            raise KeyError
        assert (tmp_path / "new" / NAME).exists()
    assert not (tmp_path / "new" / NAME).exists()


def test_a_forked_child_does_not_hold_what_its_parent_does_and_does_not_free_it(tmp_path: Path) -> None:
    with hold_folder(tmp_path):
        child = os.fork()
        if child == 0:
            try:
                with hold_folder(tmp_path):
                    os._exit(0)
            except FolderInUse:
                os._exit(42)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
        assert (tmp_path / NAME).exists()


def _left(folder: Path, **changes: object) -> Owner:
    own = Owner(Process.current(), "train", time.time() - 3 * 3600)
    owner = replace(own, **changes)  # type: ignore[arg-type]
    (folder / NAME).write_text(json.dumps(asdict(owner)))
    return owner


def test_another_host_is_asked_about_the_user_decides(tmp_path: Path) -> None:
    _left(tmp_path, process=Process("node7", "0123abcd", 12, 34), boot="other", machine="other")
    with pytest.raises(FolderInUse) as caught, hold_folder(tmp_path):
        pass
    assert "process 12 on node7 (train), which began 3 hours ago" in str(caught.value)
    assert str(caught.value).endswith(f"if it has ended, delete {tmp_path / NAME}.")
    assert (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    ("boot", "machine", "host", "free"),
    [
        ("same", "other", "container7", True),  # another container, of this kernel, whose locks tell
        ("other", "same", "same", True),  # before this system was started again
        ("other", "other", "same", False),  # another system of the same name
        ("other", "same", "node7", False),  # copies of one system
        ("", "", "same", False),  # nothing tells
    ],
)
def test_containers_and_systems_that_were_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boot: str, machine: str, host: str, free: bool
) -> None:
    monkeypatch.setattr(folder_lock, "boot_id", lambda: "same")
    monkeypatch.setattr(folder_lock, "machine_id", lambda: "same")
    name = Process.current().host if host == "same" else host
    _left(tmp_path, process=Process(name, "0123abcd", 12, 34), boot=boot, machine=machine)
    try:
        with hold_folder(tmp_path):
            assert free
    except FolderInUse:
        assert not free


def test_a_command_that_is_no_text_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train\udce9", "\U0001f680"])  # as Python reads other bytes than UTF-8
    with hold_folder(tmp_path):
        owner = Owner.read(str(tmp_path / NAME))
        assert owner is not None
        assert (owner.process, owner.command) == (Process.current(), "train? \U0001f680")


def test_a_living_process_in_another_container_is_seen_by_its_lock(tmp_path: Path) -> None:
    def pretend() -> None:
        hold_for_ever(tmp_path)
        content = json.loads((tmp_path / NAME).read_text())
        content["process"].update(system="0123abcd", host="container7")
        (held,) = (x for x in folder_lock._held.values() if x.pid == os.getpid())
        assert held.descriptor is not None
        text = json.dumps(content).encode()
        os.truncate(held.descriptor, len(text))
        os.pwrite(held.descriptor, text, 0)
        folder_lock._lock(held.descriptor)  # closing the file after reading it has freed it

    with another_process(pretend):
        with pytest.raises(FolderInUse, match="on container7"), hold_folder(tmp_path):
            pass
        assert (tmp_path / NAME).exists()
    with hold_folder(tmp_path):
        pass


def test_a_pid_that_is_used_again_does_not_stand_in_the_way(tmp_path: Path) -> None:
    own = Process.current()
    _left(tmp_path, process=replace(own, start=own.start - 1))
    with hold_folder(tmp_path):
        pass


def test_a_run_goes_on_with_what_it_has_begun_elsewhere(tmp_path: Path) -> None:
    _left(tmp_path, process=Process("node7", "0123abcd", 12, 34), boot="other", run="id node7 99")
    for names in ((), ("id node8 99",)):
        with pytest.raises(FolderInUse), hold_folder(tmp_path, run="id node8 99", same_run=names):
            pass
    with hold_folder(tmp_path, run="id node8 99", same_run=("id node7 99", "id node8 99")):
        assert Owner.read(str(tmp_path / NAME)) is not None


def test_what_a_faster_process_has_made_is_not_taken_away(tmp_path: Path) -> None:
    own = Process.current()
    dead = _left(tmp_path, process=replace(own, start=own.start - 1))
    (tmp_path / NAME).unlink()
    with another_process(lambda: hold_for_ever(tmp_path)):
        folder_lock._take_away(str(tmp_path / NAME), dead)
        assert (tmp_path / NAME).exists()


def test_a_file_that_a_power_failure_has_emptied(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    os.utime(tmp_path / NAME, (0, 0))
    with hold_folder(tmp_path):
        pass


@pytest.mark.parametrize(
    "content",
    [
        "garbage",
        "[]",
        "[" * 100_000,
        '{"process": null}',
        '{"process": {"host": "h", "system": "x", "pid": "1", "start": 0}, "boot": "b"}',
        '{"process": {"host": "h", "system": "x", "pid": 99999999999999, "start": 0}, "boot": "b"}',
        '{"process": {"host": "h", "system": "x", "pid": 1, "start": 0}, "boot": "b", "since": "now"}',
    ],
    ids=lambda x: x[:30],
)
@pytest.mark.parametrize("year", [2001, 2099])
def test_a_file_that_says_nothing_does_not_stand_in_the_way(content: str, year: int, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(content)
    time_of_it = time.mktime((year, 1, 1, 0, 0, 0, 0, 0, 0))
    os.utime(tmp_path / NAME, (time_of_it, time_of_it))
    with hold_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "a" / NAME).mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / NAME).symlink_to("nowhere")
    for name in "ab":
        with (
            pytest.raises(WriteError, match=rf"{NAME} is a folder or a link, .* delete it"),
            hold_folder(tmp_path / name),
        ):
            pass


def test_of_many_that_find_a_dead_owner_one_gets_the_folder(tmp_path: Path) -> None:
    own = Process.current()
    for _ in range(2):
        _left(tmp_path, process=replace(own, start=own.start - 1))
        reading, writing = os.pipe()
        children = [_try_to_hold(tmp_path, reading) for _ in range(6)]
        codes: dict[int, int] = {}
        while len(codes) < 5:
            ended = [os.waitid(os.P_PID, x, os.WEXITED | os.WNOHANG) for x in children if x not in codes]
            codes.update({x.si_pid: x.si_status for x in ended if x is not None})
            time.sleep(0.005)
        assert set(codes.values()) == {42}
        os.write(writing, b"x")
        (last,) = set(children) - set(codes)
        assert os.waitstatus_to_exitcode(os.waitpid(last, 0)[1]) == 0
        assert list(tmp_path.iterdir()) == []


def _try_to_hold(folder: Path, until: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            with hold_folder(folder):
                os.read(until, 1)
            os._exit(0)
        except FolderInUse:
            os._exit(42)
        finally:
            os._exit(1)
    return child


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written to"), hold_folder(tmp_path / "file" / "x"):
        pass
