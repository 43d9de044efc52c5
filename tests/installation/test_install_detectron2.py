"""The installer of detectron2, offline: a small fake of LabGym's wheel, environments without network."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from detr_d2.installation import install_detectron2 as installer

TREE = {
    "LabGym/__init__.py": b"raise RuntimeError('not part of detectron2')\n",
    "LabGym/detectron2/__init__.py": b"from LabGym.detectron2.utils import answer\n\n__version__ = '0.6'\n",
    "LabGym/detectron2/utils/__init__.py": b"import LabGym.detectron2.utils.env as env\n\nanswer = env.ANSWER\n",
    "LabGym/detectron2/utils/env.py": b"ANSWER = 42\n",
    "LabGym/detectron2/model_zoo/configs/a b,c.yaml": b"NAME: LabGym.detectron2\n",
    "labgym-3.1.2.dist-info/METADATA": b"Name: LabGym\n",
}


@pytest.fixture
def carrier(tmp_path: Path) -> Path:
    path = tmp_path / "carrier" / "labgym-3.1.2-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in TREE.items():
            archive.writestr(name, content)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_package(folder: Path, code: str, version: str | None = None) -> None:
    """A detectron2 in `folder` whose import runs `code`, with a dist-info when it has a version."""
    (folder / "detectron2").mkdir(parents=True)
    (folder / "detectron2" / "__init__.py").write_text(code)
    if version is not None:
        info = folder / f"detectron2-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: detectron2\nVersion: {version}\n")


@pytest.fixture
def python_with(tmp_path: Path) -> Path:
    """An interpreter that sees the standard library and the folder `site` beside it, nothing else."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "site"} exec {sys.executable} -S "$@"\n')
    script.chmod(0o755)
    (tmp_path / "site").mkdir()
    return script


def test_tree_is_renamed_and_nothing_else_is_taken(carrier: Path, tmp_path: Path) -> None:
    wheel = installer.build_wheel(carrier, tmp_path, sha256=sha256(carrier))
    assert wheel.name == "detectron2-0.6+e9f7e2b-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert content == {
        "detectron2/__init__.py": b"from detectron2.utils import answer\n\n__version__ = '0.6'\n",
        "detectron2/utils/__init__.py": b"import detectron2.utils.env as env\n\nanswer = env.ANSWER\n",
        "detectron2/utils/env.py": b"ANSWER = 42\n",
        "detectron2/model_zoo/configs/a b,c.yaml": b"NAME: LabGym.detectron2\n",  # only code is renamed
    }


def test_record_lists_every_file_with_its_hash(carrier: Path, tmp_path: Path) -> None:
    wheel = installer.build_wheel(carrier, tmp_path, sha256=sha256(carrier))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (record,) = [name for name in names if name.endswith(".dist-info/RECORD")]
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        assert sorted(row[0] for row in rows) == sorted(names)
        for name, digest, size in rows:
            if name == record:
                assert (digest, size) == ("", "")
                continue
            expected = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).decode().rstrip("=")
            assert (digest, int(size)) == (f"sha256={expected}", len(archive.read(name)))


def test_metadata_names_licence_version_and_dependencies(carrier: Path, tmp_path: Path) -> None:
    wheel = installer.build_wheel(carrier, tmp_path, sha256=sha256(carrier))
    with zipfile.ZipFile(wheel) as archive:
        info = "detectron2-0.6+e9f7e2b.dist-info/"
        metadata = Parser().parsestr(archive.read(f"{info}METADATA").decode())
        licence = archive.read(f"{info}LICENSE").decode()
    assert (metadata["Name"], metadata["Version"], metadata["License"]) == ("detectron2", "0.6+e9f7e2b", "Apache-2.0")
    required = metadata.get_all("Requires-Dist") or []
    assert "setuptools<81" in required
    assert not any(text.startswith("torch") for text in required)  # the user's own is kept
    assert "Apache License, Version 2.0" in licence
    assert "Facebook, Inc." in licence


def test_building_twice_gives_the_same_bytes(carrier: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first = installer.build_wheel(carrier, tmp_path, sha256=sha256(carrier))
    second = installer.build_wheel(carrier, tmp_path / "again", sha256=sha256(carrier))
    assert first.read_bytes() == second.read_bytes()


def test_pip_installs_the_wheel_and_it_can_be_imported(carrier: Path, tmp_path: Path) -> None:
    wheel = installer.build_wheel(carrier, tmp_path, sha256=sha256(carrier))
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    code = "import detectron2, importlib.metadata as m; print(detectron2.answer, m.version('detectron2'))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["42", "0.6+e9f7e2b"]


def test_another_hash_is_refused(carrier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    expected = sha256(carrier)
    carrier.write_bytes(carrier.read_bytes() + b"\0")
    code = installer.main(["--wheel", str(carrier), "--wheel-dir", str(out)], sha256=expected)
    message = capsys.readouterr().err
    assert code == 2
    assert message.startswith("error: hash mismatch: labgym-3.1.2-py3-none-any.whl")
    assert expected in message
    assert sha256(carrier) in message
    assert list(out.iterdir()) == []


def test_the_pinned_hash_is_the_default(carrier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert installer.main(["--wheel", str(carrier), "--wheel-dir", str(tmp_path)]) == 2
    assert installer.CARRIER_SHA256 in capsys.readouterr().err


def test_a_wheel_without_the_tree_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("LabGym/__init__.py", "")
    with pytest.raises(installer.InstallError, match=r"other\.whl holds no LabGym/detectron2/"):
        installer.build_wheel(other, tmp_path, sha256=sha256(other))


def test_a_missing_wheel_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert installer.main(["--wheel", str(tmp_path / "none.whl"), "--wheel-dir", str(tmp_path)]) == 2
    assert "none.whl" in capsys.readouterr().err


def test_an_importable_detectron2_is_kept(
    python_with: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_package(tmp_path / "site", "__version__ = '0.7'", "0.7")
    monkeypatch.setattr(installer, "_pip", lambda *_: pytest.fail("pip was called"))
    assert installer.main([], python=str(python_with)) == 0
    said = capsys.readouterr().out
    assert "0.7 at" in said
    assert "kept" in said
    assert installer.main(["--source", str(tmp_path)], python=str(python_with)) == 0
    assert "pip uninstall detectron2" in capsys.readouterr().out


def test_a_folder_of_that_name_in_the_current_directory_does_not_count(
    python_with: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_package(tmp_path / "here", "__version__ = '0.7'")
    monkeypatch.chdir(tmp_path / "here")
    assert installer.find_detectron2(str(python_with)) is None


def test_a_broken_one_of_somebody_else_is_not_replaced(python_with: Path, tmp_path: Path) -> None:
    make_package(tmp_path / "site", "raise ImportError('libtorch.so is gone')", "0.6+cu118")
    with pytest.raises(installer.InstallError, match=r"0\.6\+cu118 .*libtorch\.so is gone.*pip uninstall"):
        installer.find_detectron2(str(python_with))


@pytest.mark.parametrize("version", [None, installer.VERSION])
def test_the_remains_of_ours_are_replaced(python_with: Path, tmp_path: Path, version: str | None) -> None:
    make_package(tmp_path / "site", "raise ImportError('half a copy')", version)
    assert installer.find_detectron2(str(python_with)) is None


def test_what_is_absent_is_downloaded_repacked_and_installed(
    carrier: Path, python_with: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def fake_pip(python: str, *arguments: str) -> None:
        assert python == str(python_with)
        calls.append(arguments)
        if arguments[0] == "download":
            destination = Path(arguments[arguments.index("--dest") + 1])
            (destination / carrier.name).write_bytes(carrier.read_bytes())
        else:
            assert Path(arguments[-1]).name == "detectron2-0.6+e9f7e2b-py3-none-any.whl"
            assert Path(arguments[-1]).is_file()

    monkeypatch.setattr(installer, "_pip", fake_pip)
    assert installer.main([], python=str(python_with), sha256=sha256(carrier)) == 0
    assert [arguments[0] for arguments in calls] == ["download", "install", "install"]
    assert calls[0][-1] == "LabGym==3.1.2"
    assert {"--no-deps", "--only-binary=:all:"} <= set(calls[0])


@pytest.mark.parametrize(
    ("source", "requirement"),
    [
        ("https://example.org/me/detectron2.git", "git+https://example.org/me/detectron2.git"),
        ("git+ssh://git@example.org/me/detectron2", "git+ssh://git@example.org/me/detectron2"),
        ("FOLDER", "FOLDER"),
    ],
)
def test_a_source_is_given_to_pip(
    source: str, requirement: str, python_with: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(installer, "_pip", lambda _, *arguments: calls.append(arguments))
    source, requirement = (text.replace("FOLDER", str(tmp_path)) for text in (source, requirement))
    assert installer.main(["--source", source], python=str(python_with)) == 0
    assert calls == [("install", "--no-build-isolation", requirement)]


@pytest.mark.parametrize("command", ["download", "install"])
def test_pip_gets_the_arguments_of_every_step(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\n')
    python.chmod(0o755)
    monkeypatch.setenv(
        "PIP_ARGS", "--index-url 'http://a b/simple' -U --prefix=/x --upgrade-strategy eager --no-compile"
    )
    installer._pip(str(python), command, "--dest", "x", "LabGym")
    arguments = (tmp_path / "arguments").read_text().splitlines()
    kept = ["--index-url", "http://a b/simple"]
    only_install = ["-U", "--prefix=/x", "--upgrade-strategy", "eager", "--no-compile"]
    expected = [*kept, *only_install] if command == "install" else kept
    assert arguments == ["-m", "pip", command, *expected, "--dest", "x", "LabGym"]


def test_a_missing_source_is_named(python_with: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert installer.main(["--source", "/no/such/checkout"], python=str(python_with)) == 2
    assert "error: --source /no/such/checkout: no such file or folder" in capsys.readouterr().err


def test_a_failing_pip_gives_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = tmp_path / "failing"
    python.write_text('#!/bin/sh\n[ "$1" = -m ] && exit 7\nexit 3\n')  # pip fails; there is no detectron2
    python.chmod(0o755)
    assert installer.main([], python=str(python)) == 2
    assert "exit code 7" in capsys.readouterr().err
