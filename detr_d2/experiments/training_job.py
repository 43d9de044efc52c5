"""A training that a command asks for, and the folder that is its own."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import detr_d2

from ..engine.startup.setup import load_config
from .own_folders import OURS, digest, fitting_folder, is_empty, read_training

RECORD = "job.json"
_FILES = re.compile(
    r"plan\.json|result\.json|console\.txt|config\.yaml|log\.txt(\.rank\d+)?|metrics\.json|last_checkpoint|"
    r"elastic_run\.json|model_(\d{7}|final|best|evaluation_failed)\.pth(\.unreadable\d*)?|events\.out\.tfevents\..*"
)
_EVALUATION_FILES = re.compile(
    r"coco_instances_results\.json|instances_predictions\.pth|.*_coco_format\.json(\.lock)?|sem_seg_predictions\.json|"
    r"predictions\.json|panoptic\.json"
)
_CHECKPOINT = re.compile(r"model_\d{7}\.pth")


@dataclass(frozen=True)
class TrainingJob:
    """What to train.

    Attributes:
        title: of the model, for people.
        config_file: path or name.
        output_dir: of the run.
        coco: datasets, as for `train_net.py --coco`.
        opts: config overrides.
        iterations: instead of the config's; its schedule is stretched to them.
        seconds: or as many iterations as take this time, at least one.
        evaluations: made of the run at equal distances, the last at its end; 0 for the config's own.
        clock: what its time is measured with, a key of `CLOCKS`.
        input_hash: of files that may change under the same name (annotations, weights to begin with); a part of the
            settings.
        coco_panoptic: datasets, as for `train_net.py --coco-panoptic`.
    """

    title: str
    config_file: str
    output_dir: str
    coco: tuple[str, ...]
    opts: tuple[str, ...] = ()
    iterations: int | None = None
    seconds: float | None = None
    evaluations: int = 0
    clock: str = "wall"
    input_hash: str = ""
    coco_panoptic: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """Where the output of the training process goes."""
        return Path(self.output_dir) / "console.txt"

    @property
    def result(self) -> Path:
        """There once the run is finished."""
        return Path(self.output_dir) / "result.json"

    def fingerprint(self) -> dict[str, Any]:
        """All that decides about the result; written into the output folder as job.json."""
        config = load_config(self.config_file, self.opts).dump()
        values = json.loads(json.dumps(asdict(self)))
        return {**OURS, "version": detr_d2.__version__, "config": config, **values}


def job_options(seed: int) -> tuple[str, ...]:
    """Config overrides of every training."""
    return ("SEED", str(seed), "TEST.BEST_CHECKPOINT", "False")


def place(job: TrainingJob, *, fresh: bool = False) -> TrainingJob:
    """The job in a folder of its own: the one that it names, or one beside it if a job of other settings has that.

    Args:
        job: what to train; its folder is changed in no way.
        fresh: whether another job's results may go.

    Raises:
        ValueError: the folder holds something else.
    """
    fingerprint, folder = job.fingerprint(), Path(job.output_dir)
    folders = (folder, folder.with_name(f"{folder.name}-{digest(fingerprint)}"))
    return replace(job, output_dir=str(fitting_folder(folders, fingerprint, _record, fresh=fresh, title=job.title)))


def _record(folder: Path) -> dict[str, Any] | None:
    found = read_training(folder / RECORD)
    if found is None and not is_empty(folder):
        raise ValueError(f"{folder} is not empty and was not made by this command; choose another --output")
    return found


def forget(job: TrainingJob) -> None:
    """Deletes what a training has left in the folder of a job, all but its record, file by file; the rest stays."""
    folder = Path(job.output_dir)
    _delete(folder, _FILES)
    inference = folder / "inference"
    if inference.is_dir() and not inference.is_symlink():
        _delete(inference, _EVALUATION_FILES)
        with suppress(OSError):  # something else is in it
            inference.rmdir()


def forget_intermediate(job: TrainingJob) -> None:
    """Deletes the checkpoints of a finished training that stand for a part of it."""
    _delete(Path(job.output_dir), _CHECKPOINT)


def _delete(folder: Path, names: re.Pattern[str]) -> None:
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if names.fullmatch(path.name) and not path.is_dir():
            path.unlink()
