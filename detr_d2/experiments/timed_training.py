"""One training run in a process of its own, as `train_net.py` would do it, with the time of its steps measured.

The process that wants it calls `run_training`; the process that trains executes this module. What detectron2 logs goes
to a file, progress comes back through a pipe, the result as a file: an interrupted run continues, a finished one is
taken as it is, as long as its settings are the same.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

import detr_d2

from ..compare.records.results import RunResult, bbox_metrics, minutes
from ..data import check_datasets
from ..engine import Trainer, setup
from ..engine.startup.setup import begin, find_config_file
from ..files import write_json
from ..prediction.detector_keys import count_parameters
from .training_job import RECORD, TrainingJob, forget, forget_intermediate, place

WARMUP_STEPS, MIN_TIMED_STEPS, MAX_TIMED_STEPS = 3, 3, 30
"""Steps of a throw-away model before a run that is given a time; as many as a tenth of that time allows."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""What a step's time is measured with: the wall's clock, or the processor time of the training process, which what else
runs on the machine hardly changes; with workers or a GPU it says nothing."""

SEGMENTATION_METRICS = {"segm/AP": "mask AP", "segm/AP50": "mask AP50", "panoptic_seg/PQ": "PQ"}
"""Figure of the evaluators, 0-100 -> key of `RunResult.extra`."""

Report = Callable[..., None]
"""Called with what the training process has to say: iteration=, max_iter=, loss=, seconds_per_step=."""


class TrainingError(RuntimeError):
    """The training process failed; the message names its log and quotes its end."""


def run_training(job: TrainingJob, report: Report, *, fresh: bool = False) -> RunResult:
    """Trains and evaluates, or continues, or takes the result that is there.

    Args:
        job: what to train, in the folder that `place` gives it.
        report: called during the training.
        fresh: delete what a training has left in that folder, and train again.

    Raises:
        ValueError: the output folder holds something else.
        TrainingError: the training failed.
    """
    job = place(job, fresh=fresh)
    if fresh:
        forget(job)
    if job.result.exists():
        result = RunResult.load(job.result)
        print(f"{job.title}: trained already with these settings ({job.result}); --fresh trains it again")
        return result
    write_json(Path(job.output_dir) / RECORD, job.fingerprint())
    _train_in_a_process(job, report)
    forget_intermediate(job)  # model_final.pth is all that is needed from here on
    return RunResult.load(job.result)


def _train_in_a_process(job: TrainingJob, report: Report) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "detr_d2.experiments.timed_training", json.dumps(asdict(job)), str(writing)]
    search_path = [str(Path(detr_d2.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search_path))}
    with job.log.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, pass_fds=(writing,), env=environment)
    os.close(writing)
    try:
        with os.fdopen(reading, encoding="utf-8") as messages:  # ends when the process does
            for line in messages:
                report(**json.loads(line))
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code != 0:
        lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise TrainingError(
            f"the training of {job.title} failed with exit code {code}; {job.log} ends with\n" + "\n".join(lines[-15:])
        )


class TimedTrainer(Trainer):
    """A `Trainer` that measures its steps, data loading included, hooks (evaluation, checkpoints, averaging) not.

    Args:
        cfg: of the run.
        report: called after each step.
        clock: a key of `CLOCKS`.
    """

    def __init__(self, cfg: CfgNode, report: Report, clock: str = "wall") -> None:
        super().__init__(cfg)
        self.report = report
        self.now = CLOCKS[clock]
        self.step_seconds = 0.0

    def run_step(self) -> None:
        """One iteration."""
        start = self.now()
        super().run_step()
        self.step_seconds += self.now() - start
        latest = self.storage.latest()
        loss = latest["total_loss"][0] if "total_loss" in latest else None
        self.report(iteration=self.iter + 1, max_iter=self.max_iter, loss=loss)

    def state_dict(self) -> dict[str, Any]:
        """Adds the time so far, so that a resumed run knows it."""
        return {**super().state_dict(), "step_seconds": self.step_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.step_seconds = state_dict["step_seconds"]


def train(job: TrainingJob, report: Report) -> RunResult:
    """Trains in this process; continues from the last checkpoint of the output folder."""
    config_file = find_config_file(job.config_file)
    args = default_argument_parser().parse_args(["--config-file", config_file, "--resume", *job.opts])
    args.opts += ["OUTPUT_DIR", job.output_dir]
    args.coco, args.coco_panoptic, args.imports = list(job.coco), list(job.coco_panoptic), []
    cfg = setup(args)
    check_datasets(cfg)
    iterations = cfg.SOLVER.MAX_ITER if job.iterations is None else job.iterations
    if job.seconds is not None:
        iterations = _planned_iterations(cfg, job, report)
    cfg = with_iterations(cfg, iterations, evaluations=job.evaluations)
    begin(cfg, args)
    trainer = TimedTrainer(cfg, report, job.clock)
    trainer.resume_or_load(resume=True)
    trainer.train()
    metrics = {name: value for name, (value, _) in trainer.storage.latest().items()}
    bbox = {name.removeprefix("bbox/"): value for name, value in metrics.items() if name.startswith("bbox/")}
    images = iterations * cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUM_STEPS
    return RunResult(
        model=job.title,
        config_file=job.config_file,
        dataset=cfg.DATASETS.TEST[0],
        **bbox_metrics(bbox),
        parameters=count_parameters(trainer.model),
        iterations=iterations,
        train_seconds=trainer.step_seconds,
        train_images_per_second=images / trainer.step_seconds,
        seed=cfg.SEED,
        extra={label: metrics[name] for name, label in SEGMENTATION_METRICS.items() if name in metrics},
    )


def with_iterations(cfg: CfgNode, iterations: int, *, evaluations: int = 0) -> CfgNode:
    """The same config with another number of iterations: steps and warm-up keep their share of the run.

    Args:
        cfg: any detectron2 config.
        iterations: of the run.
        evaluations: at equal distances, at most one an iteration; 0 keeps the config's period.
    """
    cfg = cfg.clone()
    cfg.defrost()
    factor = iterations / cfg.SOLVER.MAX_ITER
    cfg.SOLVER.MAX_ITER = iterations
    steps = {round(step * factor) for step in cfg.SOLVER.STEPS}
    cfg.SOLVER.STEPS = tuple(sorted(step for step in steps if 0 < step < iterations))
    cfg.SOLVER.WARMUP_ITERS = round(cfg.SOLVER.WARMUP_ITERS * factor)
    cfg.SOLVER.CHECKPOINT_PERIOD = max(1, iterations // 4)
    if evaluations:
        cfg.TEST.EVAL_PERIOD = -(-iterations // evaluations)  # rounded up
    cfg.freeze()
    return cfg


def _planned_iterations(cfg: CfgNode, job: TrainingJob, report: Report) -> int:
    """As many iterations as the time allows; measured once, so that a continued run has the same number."""
    assert job.seconds is not None
    plan = Path(job.output_dir) / "plan.json"
    if not plan.exists():
        seconds = seconds_per_step(cfg, limit=job.seconds / 10, clock=job.clock)
        iterations = max(1, round(job.seconds / seconds))
        write_json(plan, {"seconds_per_step": seconds, "seconds": job.seconds, "iterations": iterations})
    values = json.loads(plan.read_text(encoding="utf-8"))
    report(seconds_per_step=values["seconds_per_step"], max_iter=values["iterations"])
    return values["iterations"]


def seconds_per_step(cfg: CfgNode, limit: float, clock: str = "wall") -> float:
    """Mean time of a training step of a model that is thrown away; leaves nothing in the output folder.

    Args:
        cfg: of the run.
        limit: seconds after which no further step is timed.
        clock: a key of `CLOCKS`.
    """
    now = CLOCKS[clock]
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)
    trainer = Trainer(cfg)
    elapsed = 0.0
    with EventStorage(0) as trainer.storage:
        for step in range(WARMUP_STEPS + MAX_TIMED_STEPS):
            trainer.iter = step
            start = now()
            trainer.run_step()
            timed = step + 1 - WARMUP_STEPS
            if timed > 0:
                elapsed += now() - start
            if timed >= MIN_TIMED_STEPS and elapsed > limit:
                break
    del trainer
    gc.collect()
    return elapsed / timed


def main(argv: Sequence[str]) -> int:
    """Executed by the training process; arguments: the job as JSON, the file descriptor that progress goes to."""
    values: dict[str, Any] = json.loads(argv[0])
    values.update({name: tuple(values[name]) for name in ("coco", "coco_panoptic", "opts")})
    job = TrainingJob(**values)
    with os.fdopen(int(argv[1]), "w", encoding="utf-8", buffering=1) as messages:
        result = train(job, lambda **news: print(json.dumps(news), file=messages))
    result.save(job.result)
    print(f"AP {result.ap:.1f}, training took {minutes(result.train_seconds)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
