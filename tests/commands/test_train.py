"""`train_net.py`: exit codes, killed and resumed runs, several processes, torchrun, a user's own parts."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_training import fork, wait
from other_processes import another_process, hold_for_ever
from tiny_models import tiny_cfg
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from detr_d2 import cli
from detr_d2.__main__ import main as detr_d2_command
from detr_d2.commands import train

ROOT = Path(__file__).resolve().parents[2]

USER_FILE = '''
"""A user's own transformer, and a process that dies on request."""
import os, signal
from detr_d2.modeling import TRANSFORMER_REGISTRY
from detr_d2.modeling.transformer import DETRTransformer

@TRANSFORMER_REGISTRY.register()
class MortalTransformer(DETRTransformer):
    calls = 0

    def forward(self, *args, **kwargs):
        MortalTransformer.calls += 1
        if MortalTransformer.calls == int(os.environ.get("DIE_AT_CALL", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(*args, **kwargs)
'''


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A tiny DETR with dropout and random augmentation; it evaluates and saves every second iteration."""
    cfg = tiny_cfg(
        *["MODEL.RESNETS.OUT_FEATURES", ["res3"], "MODEL.DETR.IN_FEATURES", ["res3"]],  # small checkpoints
        *["MODEL.DETR.NUM_CLASSES", 0, "MODEL.DETR.TRANSFORMER.DROPOUT", 0.2, "MODEL.RESNETS.NORM", "BN"],
        *["DATASETS.TRAIN", ("tiny",), "DATASETS.TEST", ("tiny",), "SEED", 7],
        *["DATALOADER.NUM_WORKERS", 0, "DATALOADER.ASPECT_RATIO_GROUPING", False],
        *["DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, "INPUT.MIN_SIZE_TRAIN", (32, 48), "INPUT.MIN_SIZE_TEST", 32],
        *["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", 1e-3, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 6],
        *["SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.WARMUP_ITERS", 0, "SOLVER.STEPS", (), "TEST.EVAL_PERIOD", 2],
    )
    path = tmp_path / "tiny.yaml"
    path.write_text(cfg.dump())
    return path


@pytest.fixture
def run(config_file: Path, tiny_coco: Any) -> Callable[..., Any]:
    """Runs the command in this process; returns its exit code."""

    def call(out: Path, *arguments: str, coco: str | None = None) -> int:
        return cli.run(train.main, command_line(config_file, coco or tiny_coco.spec("tiny"), out, *arguments))

    return call


def command_line(config_file: Path, coco: str, out: Path, *arguments: str) -> list[str]:
    return ["--config-file", str(config_file), "--coco", coco, *arguments, "OUTPUT_DIR", str(out)]


def start(arguments: list[str], *python: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `train_net.py` in a process of its own, with one thread."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *python, str(ROOT / "train_net.py"), *arguments],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def as_torchrun_does(arguments: list[str]) -> None:
    """Runs the command in two processes of torchrun's agent, which are forked and so need not import anything."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="forked",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
        max_restarts=0,
    )
    codes = elastic_launch(config, train.main)(arguments)
    assert codes == {0: 0, 1: 0}


def weights(out: Path, name: str = "model_final") -> dict[str, torch.Tensor]:
    return torch.load(out / f"{name}.pth", weights_only=True)["model"]


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    return [line["total_loss"] for line in lines if "total_loss" in line]


def test_killed_and_resumed_run_equals_uninterrupted_one(run: Callable[..., int], tmp_path: Path):
    user_file = tmp_path / "user_mortal.py"
    user_file.write_text(USER_FILE)
    own = ["--import", str(user_file), "--resume", "MODEL.DETR.TRANSFORMER.NAME", "MortalTransformer"]
    killed = tmp_path / "killed"

    def die() -> None:
        # each evaluation of 3 images: calls 1-2 train, 3-5 evaluate, 6-7 train, 8-10 evaluate, 11 trains
        os.environ["DIE_AT_CALL"] = "11"
        run(killed, *own)

    assert wait(fork(die)) == -signal.SIGKILL
    assert (killed / "last_checkpoint").read_text() == "model_0000003.pth"
    assert not (killed / "model_final.pth").exists()
    assert run(tmp_path / "whole", *own) == 0
    assert run(killed, *own) == 0

    whole, resumed = weights(tmp_path / "whole"), weights(killed)
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    states = [
        torch.load(x / "model_final.pth", weights_only=True)["trainer"]["hooks"] for x in (tmp_path / "whole", killed)
    ]
    assert states[0]["BestCheckpoint"] == states[1]["BestCheckpoint"]


@pytest.mark.parametrize("launcher", ["spawn", "torchrun"])
def test_two_processes_train_and_evaluate(
    run: Callable[..., int], config_file: Path, tiny_coco: Any, tmp_path: Path, launcher: str
):
    """What starts them is this process, which need not import anything; the slow test below starts torchrun."""
    out = tmp_path / launcher
    options = ["--num-gpus", "2", "SOLVER.MAX_ITER", "2", "SOLVER.ACCUM_STEPS", "2"]
    if launcher == "torchrun":
        command = command_line(config_file, tiny_coco.spec("tiny"), out, *options)
        assert wait(fork(lambda: as_torchrun_does(command))) == 0  # it changes signal handlers
    else:
        assert run(out, *options) == 0
    state = torch.load(out / "model_final.pth", weights_only=True)["trainer"]
    assert len(state["processes"]) == 2
    assert not torch.equal(state["processes"][0]["random"], state["processes"][1]["random"])
    results = json.loads((out / "inference" / "coco_instances_results.json").read_text())
    assert {x["image_id"] for x in results} == {1, 2, 3}  # gathered from both
    assert "World size: 2" in (out / "log.txt").read_text()
    assert all(x == x for x in losses(out))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["spawn", "torchrun"])
def test_two_processes_go_back_to_the_same_checkpoint(config_file: Path, tiny_coco: Any, tmp_path: Path, launcher: str):
    out = tmp_path / launcher
    options = ["SOLVER.MAX_ITER", "3", "SOLVER.CHECKPOINT_PERIOD", "1"]
    command = command_line(config_file, tiny_coco.spec("tiny"), out, "--num-gpus", "2", "--resume", *options)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    python = torchrun if launcher == "torchrun" else []
    assert start(command, *python).returncode == 0
    whole = weights(out)
    for name in ("model_0000001", "model_0000002", "model_final"):
        path = out / f"{name}.pth"
        before = path.stat()
        path.write_bytes(path.read_bytes()[:-100])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    process = start(command, *python)
    assert process.returncode == 0, process.stderr[-3000:]
    assert len(list(out.glob("*.unreadable"))) == 3
    assert (out / "log.txt").read_text().count("this run continues from model_0000000.pth") == 1
    assert [key for key in whole if not torch.equal(whole[key], weights(out)[key])] == []
    assert not (out / ".detr_d2.lock").exists()


@pytest.mark.parametrize("options", [[], ["--resume"], ["--eval-only"]])
def test_a_folder_that_a_living_run_writes_into_is_refused(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
):
    out = tmp_path / "out"
    with another_process(lambda: hold_for_ever(out)) as pid:
        before = {x: x.read_bytes() for x in out.iterdir() if x.suffix != ".txt"}
        assert run(out, *options) == 2
        assert {x: x.read_bytes() for x in out.iterdir() if x.suffix != ".txt"} == before
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {out} is written to by process {pid} on {socket.gethostname()}")


def test_spawned_process_ends_as_a_command_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def fail(*_: Any) -> None:
        raise ValueError("this transformer wants more heads")

    monkeypatch.setattr(train, "run", fail)
    arguments: Any = (None, None, None)
    with pytest.raises(ValueError, match="more heads"):
        train._end_as_a_command(*arguments)
    monkeypatch.setattr(train.multiprocessing, "parent_process", lambda: "somebody")
    with pytest.raises(SystemExit) as stop:
        train._end_as_a_command(*arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: this transformer wants more heads\n"


@pytest.mark.slow
def test_error_in_a_spawned_process_ends_the_command(config_file: Path, tiny_coco: Any, tmp_path: Path):
    user_file = tmp_path / "user_bad.py"
    user_file.write_text(
        "from detr_d2.modeling import TRANSFORMER_REGISTRY\n"
        "@TRANSFORMER_REGISTRY.register()\n"
        "def Failing(cfg):\n    raise ValueError('this transformer wants more heads')\n"
    )
    own = [
        "--num-gpus",
        "2",
        "--dist-url",
        "auto",
        "--import",
        str(user_file),
        "MODEL.DETR.TRANSFORMER.NAME",
        "Failing",
    ]
    process = start(command_line(config_file, tiny_coco.spec("tiny"), tmp_path / "out", *own))
    assert process.returncode == 2, process.stderr[-2000:]
    assert "error: this transformer wants more heads" in process.stderr
    assert "Traceback" not in process.stderr


def test_evaluates_only(run: Callable[..., int], tmp_path: Path):
    assert run(tmp_path / "train", "SOLVER.MAX_ITER", "2") == 0
    out = tmp_path / "eval"
    assert run(out, "--eval-only", "MODEL.WEIGHTS", str(tmp_path / "train" / "model_final.pth")) == 0
    assert not list(out.glob("*.pth"))
    name = Path("inference") / "coco_instances_results.json"
    assert json.loads((out / name).read_text()) == json.loads((tmp_path / "train" / name).read_text())
    # In the folder of the training, whose config is not written over.
    config = (tmp_path / "train" / "config.yaml").read_text()
    assert run(tmp_path / "train", "--eval-only", "--resume", "TEST.DETECTIONS_PER_IMAGE", "7") == 0
    assert (tmp_path / "train" / "config.yaml").read_text() == config
    assert "DETECTIONS_PER_IMAGE: 7" in (tmp_path / "train" / "inference" / "config.yaml").read_text()


def test_config_of_the_run_has_the_classes_and_trains_again(run: Callable[..., int], tmp_path: Path):
    assert run(tmp_path / "first", "SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()") == 0
    text = (tmp_path / "first" / "config.yaml").read_text()
    assert "NUM_CLASSES: 3" in text
    again = ["--config-file", str(tmp_path / "first" / "config.yaml"), "OUTPUT_DIR", str(tmp_path / "second")]
    assert cli.run(train.main, again) == 0
    assert losses(tmp_path / "first") == losses(tmp_path / "second")


def broken_copy(files: Any, change: Callable[[dict[str, Any]], None]) -> str:
    content = json.loads(files.annotations.read_text())
    change(content)
    path = files.annotations.with_name("broken.json")
    path.write_text(json.dumps(content))
    return f"tiny={path}:{files.image_root}"


def nan_box(content: dict[str, Any]) -> None:
    content["annotations"][0]["bbox"][2] = float("nan")


def unknown_class(content: dict[str, Any]) -> None:
    content["annotations"][0]["category_id"] = 77


def missing_image(content: dict[str, Any]) -> None:
    content["images"][0]["file_name"] = "gone.png"


@pytest.mark.parametrize(("change", "words"), [(nan_box, "101"), (unknown_class, "77"), (missing_image, "gone.png")])
def test_bad_data_ends_with_one_line(
    run: Callable[..., int],
    tiny_coco: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None],
    words: str,
):
    assert run(tmp_path / "out", coco=broken_copy(tiny_coco, change)) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["MODEL.DETR.NUM_CLASSES", "91"], "MODEL.DETR.NUM_CLASSES"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth"),
        (["SOLVER.NO_SUCH_KEY", "1"], "SOLVER.NO_SUCH_KEY"),
        (["--coco", "x=nowhere.json:."], "nowhere.json"),
        (["--num-machines", "2"], "--dist-url tcp://HOST:PORT"),
    ],
)
def test_bad_arguments_end_with_one_line(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
):
    assert run(tmp_path / "out", *arguments) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_truncated_annotations_and_corrupt_image(
    run: Callable[..., int], tiny_coco: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tiny_coco.image_root / "002.png").write_bytes(b"\x89PNG broken")
    assert run(tmp_path / "out") == 2
    assert "002.png" in capsys.readouterr().err.strip().splitlines()[-1]
    path = tiny_coco.annotations.with_name("truncated.json")
    path.write_text(tiny_coco.annotations.read_text()[:200])
    assert run(tmp_path / "out", coco=f"tiny2={path}:{tiny_coco.image_root}") == 2
    assert "truncated.json" in capsys.readouterr().err.strip().splitlines()[-1]


def test_output_folder_that_cannot_be_written(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "out") == 2
    assert "OUTPUT_DIR" in capsys.readouterr().err


def test_infinite_loss_ends_with_one_line(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code = run(tmp_path / "out", "SOLVER.BASE_LR", "1e30", "SOLVER.WEIGHT_DECAY", "0.0", "DATASETS.TEST", "()")
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert ".png" in line
    assert "teration" in line


def test_departures_from_the_recipe_are_said_once(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(tmp_path / "out", "SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0") == 0
    lines = (tmp_path / "out" / "log.txt").read_text().splitlines()
    (line,) = [line for line in lines if "Differs from the recipe" in line]
    assert " MODEL.DETR.TRANSFORMER.HIDDEN_DIM, " in line
    (warning,) = [line for line in lines if "SOLVER.CLIP_GRADIENTS" in line]
    assert "WARNING" in warning
    assert "CLIP_GRADIENTS.FULL_MODEL" not in line  # that is the warning's
    command = line.partition("python -m detr_d2 ")[2].split()
    capsys.readouterr()
    assert detr_d2_command(command) == 0
    assert "; training images: 3\n" in capsys.readouterr().out


def test_help_names_the_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "train_net.py"), run_name="__main__")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--config-file", "--coco", "--import", "--num-gpus", "--resume", "--eval-only"):
        assert option in text
