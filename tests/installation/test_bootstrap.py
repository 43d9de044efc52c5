"""What `make setup` says when something is wrong, and how it recovers from interruptions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from detr_d2.installation import bootstrap

# What pip writes in each case, shortened.
FAILURES = {
    "no network": "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<x>: Failed to "
    "establish a new connection: [Errno 111] Connection refused')': /simple/torch/\n"
    "ERROR: No matching distribution found for torch\n",
    "the disk is full": "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
    "hash mismatch": "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n",
    "no torch for Python": "ERROR: No matching distribution found for torch\n",
    "TLS certificate": "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))\n",
    "run this as its owner": "ERROR: Could not install: [Errno 13] Permission denied: '/x'\n",
    "libfoo is too odd": "warning\nERROR: libfoo is too odd\n",
}

# And what uv writes.
FAILURES_OF_UV = {
    "no network": "error: Request failed after 3 retries in 9.1s\n  cause: Failed to fetch: https://pypi.org/simple/torch/\n"
    "  cause: error sending request for url (https://pypi.org/simple/torch/)\n",
    "hash mismatch": "error: Failed to download `a==1`\n  cause: Hash mismatch for `a==1`\n",
    "the disk is full": "error: Failed to install: a\n  Caused by: No space left on device (os error 28)\n",
    "TLS certificate": "error: Failed to fetch\n  Caused by: invalid peer certificate: UnknownIssuer\n",
    "only a<=1 is available": "error: No solution found\n  cause: Because only a<=1 is available and you require a>9\n",
    "unexpected argument '--no-such' found": "error: unexpected argument '--no-such' found\n\n  tip: try '--help'.\n",
}


@pytest.mark.parametrize(("expected", "said"), [*FAILURES.items(), *FAILURES_OF_UV.items()])
def test_failures_become_one_sentence(expected: str, said: str) -> None:
    sentence = bootstrap.explain(said, 1, "installing torch")
    assert expected in sentence
    assert "\n" not in sentence


def test_a_killed_pip_is_explained() -> None:
    assert "memory" in bootstrap.explain("", -9, "installing torch")


def test_the_installers_own_sentence_is_kept() -> None:
    text = "WARNING: x\nerror: hash mismatch: a.whl has sha256 1, expected 2\n"
    assert bootstrap.explain(text, 2, "installing detectron2") == "hash mismatch: a.whl has sha256 1, expected 2"


def test_a_failing_pip_below_the_installer_is_explained() -> None:
    text = FAILURES["no network"] + "error: `pip download LabGym` failed with exit code 1; see above.\n"
    assert bootstrap.explain(text, 2, "installing detectron2").startswith("no network")


def test_a_failing_command_shows_its_output_and_raises(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('progress'); print('ERROR: bad luck', file=sys.stderr); sys.exit(3)"
    with pytest.raises(bootstrap.SetupError, match=r"trying failed \(exit code 3\): ERROR: bad luck"):
        bootstrap.run([sys.executable, "-c", code], "trying")
    out, err = capfd.readouterr()
    assert "progress" in out
    assert "bad luck" in err


def test_too_little_disk_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DETR_D2_MIN_DISK_GB", "1e9")
    assert bootstrap.main(["--venv", str(tmp_path / "venv")]) == 2
    assert "error: the disk is too full" in capsys.readouterr().err
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_python_without_venv_names_the_packages(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bootstrap.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else found(name))
    assert bootstrap.main(["--venv", str(tmp_path / "venv")]) == 2
    assert "apt-get install python3-venv python3-pip" in capsys.readouterr().err


def test_packages_cut_short_are_forgotten(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, files in {
        "whole-1.0": ["METADATA", "INSTALLER", "RECORD"],
        "early-1.0": ["METADATA"],
        "late-1.0": ["METADATA", "RECORD"],
        "torn-1.0": ["METADATA", "INSTALLER"],
    }.items():
        for file in files:
            path = site / f"{name}.dist-info" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert bootstrap.forget_unfinished(tmp_path) == ["early-1.0.dist-info", "late-1.0.dist-info", "torn-1.0.dist-info"]
    assert [path.name for path in site.iterdir()] == ["whole-1.0.dist-info"]


@pytest.mark.slow  # the pip of a real environment; its steps have tests of their own
def test_a_half_made_environment_is_completed(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(tmp_path / "gone")  # interrupted, or its Python was removed
    python = bootstrap.make_venv(venv)
    assert subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    (venv / "kept").touch()
    assert bootstrap.make_venv(venv) == python
    assert (venv / "kept").exists()  # a good one is not made again


# Notes what it is called with, and makes what it is asked for: a Python that does the same.
FAKE = """#!/bin/sh
echo "$(basename $0) $@ [$PIP_ARGS]" | sed "s#$HERE#HERE#g" >> $HERE/calls
for last; do :; done
if [ "$1 $2" = "-m venv" ] || [ "$1" = venv ]; then mkdir -p $last/bin; cp $0 $last/bin/python; fi
case "$*" in *"import pip"*) [ -e $HERE/pip ]; exit;; "pip install"*" pip"|"-m ensurepip") touch $HERE/pip;; esac
"""


def set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, uv: bool) -> list[str]:
    """Runs the set-up with fakes of Python and, if asked for, uv; returns what it calls, the probes left out."""
    (tmp_path / "bin").mkdir()
    for name in ("python3", *(["uv"] if uv else [])):
        path = tmp_path / "bin" / name
        path.write_text(FAKE)
        path.chmod(0o755)
    for name, value in {
        "HERE": str(tmp_path),
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "PIP_ARGS": "-i 'http://a b'",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("TMPDIR", "PIP_NO_INPUT", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR", "UV_NO_CACHE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # the set-up changes them: put back afterwards
    monkeypatch.setenv("UV_INDEX_STRATEGY", "first-index")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python3"))
    monkeypatch.setattr(bootstrap, "INSTALLER", Path("INSTALLER"))
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: str(tmp_path / "bin" / name) if uv else None)
    arguments = ["--venv", str(tmp_path / "venv"), "--extra", "report"]
    monkeypatch.setenv("DETR_D2_MIN_DISK_GB", "0")
    assert bootstrap.main(arguments) == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all(
        line.endswith(" [-i 'http://a b']") for line in calls
    )  # every process, the installer's too, has PIP_ARGS
    calls = [line.removesuffix(" [-i 'http://a b']") for line in calls]
    return [line for line in calls if " -c " not in line and " config list" not in line]


def steps(install: str) -> list[str]:
    return [
        f"{install} -i http://a b setuptools>=64,<81 wheel",
        f"{install} -i http://a b torch torchvision setuptools>=64,<81",
        f"{install} -i http://a b --no-build-isolation --editable .[report]",
        "python INSTALLER",
    ]


def test_pip_installs_where_there_is_no_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ["python3 -m venv --without-pip HERE/venv", "python -m ensurepip"]
    assert set_up(tmp_path, monkeypatch, uv=False) == [*made, *steps("python -m pip install")]


def test_uv_installs_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "check_venv_module", lambda: pytest.fail("uv needs no venv module"))
    into = "uv pip install --python HERE/venv/bin/python"
    made = ["uv venv --python HERE/bin/python3 HERE/venv", f"{into} pip"]
    assert set_up(tmp_path, monkeypatch, uv=True) == [*made, *steps(into)]


def test_uv_is_told_the_settings_of_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_CONSTRAINT", "SSL_CERT_FILE", "UV_INDEX_STRATEGY"]
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    bootstrap.tell_uv(
        ":env:.index-url='https://mine'\nglobal.index-url='https://site'\nglobal.find-links='/a /b'\n"
        "global.timeout='3'\ninstall.extra-index-url='file:///c https://d'\nglobal.cert='/e'\n"
    )
    told = {name: os.environ[name] for name in names if name in os.environ}
    assert told == {
        "UV_DEFAULT_INDEX": "https://mine",  # of the environment, before that of the files
        "UV_FIND_LINKS": "/a,/b",
        "UV_INDEX": "file:///c https://d",
        "SSL_CERT_FILE": "/e",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"


def make(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make in a folder that holds what the set-up depends on but no environment."""
    for name in ("setup.py", "detr_d2/installation/bootstrap.py", "detr_d2/installation/install_detectron2.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()
    command = ["make", "-f", str(MAKEFILE), *arguments]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.8.2' && exit\nexit 1\n")
    old.chmod(0o755)
    done = make(tmp_path, "test", f"PYTHON={old}")
    assert done.returncode != 0
    assert "error: Python 3.8.2 is too old, Python 3.10 or newer is needed" in done.stderr


def test_make_names_what_to_install_without_python(tmp_path: Path) -> None:
    done = make(tmp_path, "test", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "apt-get install python3 python3-venv python3-pip" in done.stderr


def test_make_sets_up_once(tmp_path: Path) -> None:
    fake = tmp_path / "fake"  # a bootstrap that succeeds and counts
    fake.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p .venv/bin\necho "$@" >> calls\n')
    fake.chmod(0o755)
    call = "detr_d2/installation/bootstrap.py --extra dev\n"
    for _ in range(2):
        assert make(tmp_path, "setup", f"PYTHON={fake}").returncode == 0
        assert (tmp_path / "calls").read_text() == call
    later = (tmp_path / ".venv" / ".ready-dev").stat().st_mtime + 10
    os.utime(tmp_path / "setup.py", (later, later))
    assert make(tmp_path, "setup", f"PYTHON={fake}").returncode == 0
    assert (tmp_path / "calls").read_text() == 2 * call


def test_quickstart_is_set_up_with_what_its_page_needs(tmp_path: Path) -> None:
    fake = tmp_path / "fake"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p .venv/bin\n'
        '[ -e .venv/bin/python ] || cp "$0" .venv/bin/python\necho "$@" >> calls\n'
    )
    fake.chmod(0o755)
    for _ in range(2):
        assert make(tmp_path, "quickstart", f"PYTHON={fake}", "ARGS=--seed 1").returncode == 0
    used = ["-m detr_d2 quickstart --seed 1"] * 2
    assert (tmp_path / "calls").read_text().splitlines() == ["detr_d2/installation/bootstrap.py --extra report", *used]
    extras = (MAKEFILE.parent / "setup.py").read_text()
    assert re.search(r'"report": \[.*jinja2.*matplotlib.*\]', extras)


def test_make_without_a_target_shows_help(tmp_path: Path) -> None:
    done = make(tmp_path)
    assert done.returncode == 0
    for target in ("quickstart", "test", "test-slow", "check", "format", "clean"):
        assert f"make {target} " in done.stdout
