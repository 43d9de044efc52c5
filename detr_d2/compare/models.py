"""The models of a comparison: how the user names them, their classes, and what their predictions depend on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import nn

from ..checkpoint import local_file
from ..class_names import listed, match_classes
from ..data import register_datasets
from ..files import file_hash
from ..modeling import build_model
from ..prediction import Categories, ImagePredictor
from ..prediction.detector_keys import get_num_classes, set_num_classes
from ..prediction.trained_model import load_trained_model
from .found.cache import combined_hash, config_hash
from .found.nms import family_of, shipped_settings, without_nms
from .records.comparison import ModelComparison
from .records.results import RunResult
from .training_facts import TrainingFacts, training_facts

_NAN = float("nan")


@dataclass(frozen=True)
class ModelSpec:
    """A model as `--model LABEL=config.yaml,weights,weights,...` names it.

    Args:
        label: what people call it.
        config_file: path or name of a config.
        weights: see `detr_d2.checkpoint.local_file`; "" for random ones.
        more_weights: of its other checkpoints.
    """

    label: str
    config_file: str
    weights: str
    more_weights: tuple[str, ...] = ()


def parse_models(specs: Sequence[str]) -> list[ModelSpec]:
    """The values of `--model`.

    A path of weights may hold commas if the file is there and the only one of its model.

    Raises:
        ValueError: one is not LABEL=config.yaml,weights, two have the same label, or one names a checkpoint twice.
    """
    models = []
    for spec in specs:
        label, equals, rest = spec.partition("=")
        config_file, comma, weights = rest.partition(",")
        if not (label.strip() and equals and config_file.strip() and comma):
            raise ValueError(
                f'--model {spec}: expected LABEL=config.yaml,weights, such as "DETR=detr_r50.yaml,model.pth"; '
                "nothing after the comma means random weights"
            )
        together = Path(weights.strip()).is_file()
        files = [x.strip() for x in ([weights] if together else weights.split(","))]
        if len(files) > 1 and not all(files):
            raise ValueError(f"--model {spec}: weights are missing before or after a comma")
        if len(set(files)) < len(files):
            raise ValueError(f"--model {spec}: one of the checkpoints is given twice")
        models.append(ModelSpec(label.strip(), config_file.strip(), files[0], tuple(files[1:])))
    labels = [x.label for x in models]
    twice = next((x for x in labels if labels.count(x) > 1), None)
    if twice is not None:
        raise ValueError(f"--model: the label {twice!r} is given twice; every model needs its own")
    return models


@dataclass(frozen=True)
class Contestant:
    """A model that is ready to be compared: everything but its weights in memory.

    Args:
        spec: as the user named it.
        cfg: of normal use, with its number of classes.
        weights_sha256: "" for random weights.
        seed: of random weights.
        training: what is known of it.
        others: its other checkpoints, of the same config.
    """

    spec: ModelSpec
    cfg: CfgNode
    weights_sha256: str
    seed: int
    training: TrainingFacts = field(default_factory=TrainingFacts)
    others: tuple[Contestant, ...] = ()

    @property
    def checkpoints(self) -> tuple[Contestant, ...]:
        """This one and the others."""
        return (self, *self.others)

    @classmethod
    def prepare(cls, spec: ModelSpec, cfg: CfgNode, *, dataset: str, seed: int) -> Contestant:
        """Finds the weights, and the dataset whose classes they know if they do not say so themselves.

        Args:
            spec: as the user named it.
            cfg: of its config file; changed.
            dataset: that the models are compared on, in place of datasets of the config that are not there.
            seed: of random weights.

        Raises:
            OSError, ValueError: they are not there.
        """
        names = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
        if not any(name in DatasetCatalog for name in names):
            with suppress(OSError, ValueError):
                register_datasets(cfg)
        cfg.DATASETS.TEST = tuple(name for name in names if name in DatasetCatalog) or (dataset,)
        cfg.DATASETS.TRAIN, cfg.DATASETS.COCO = (), []
        if not spec.weights:
            return cls(spec=spec, cfg=cfg, weights_sha256="", seed=seed)
        found = []
        for weights in (spec.weights, *spec.more_weights):
            path, own = local_file(weights), replace(spec, weights=weights, more_weights=())
            found.append(
                cls(spec=own, cfg=cfg, weights_sha256=file_hash(path), seed=seed, training=training_facts(path))
            )
        _require_different(found)
        return replace(found[0], others=tuple(found[1:]))

    def load(self, *, nms: bool, class_names: Sequence[str]) -> tuple[ImagePredictor, Categories]:
        """Builds the model, as it is used or without its NMS.

        Args:
            nms: whether it has it.
            class_names: of the data, for a model of random weights that leaves its classes open.

        Raises:
            OSError, ValueError: config and weights do not fit.
        """
        cfg = self.cfg.clone() if nms else without_nms(self.cfg)
        cfg.defrost()
        if self.spec.weights:
            model, categories = load_trained_model(cfg, self.spec.weights)
        else:
            model, categories = self._random(cfg, class_names)
        return ImagePredictor(cfg, model=model), categories

    def _random(self, cfg: CfgNode, class_names: Sequence[str]) -> tuple[nn.Module, Categories]:
        if get_num_classes(cfg) == 0:
            set_num_classes(cfg, len(class_names))
        cfg.MODEL.WEIGHTS = ""
        torch.manual_seed(self.seed)
        names = class_names if get_num_classes(cfg) == len(class_names) else unnamed(get_num_classes(cfg))
        return build_model(cfg).eval(), Categories.numbered(names)

    def prediction_key(self, dataset_fingerprint: str, versions: dict[str, str]) -> str:
        """Changes when a prediction may change."""
        parts: dict[str, Any] = {
            "config": config_hash(without_nms(self.cfg)),
            "weights": self.weights_sha256 or f"random, seed {self.seed}",
            "device": torch.device(self.cfg.MODEL.DEVICE).type,
            "dataset": dataset_fingerprint,
            "versions": versions,
        }
        return combined_hash(parts)

    def identity(self, dataset: str) -> ModelComparison:
        """The record before there are figures."""
        run = RunResult(
            model=self.spec.label,
            config_file=self.spec.config_file,
            dataset=dataset,
            ap=_NAN,
            ap50=_NAN,
            ap75=_NAN,
            iterations=self.training.iterations,
            train_seconds=self.training.seconds,
            train_images_per_second=self.training.images_per_second,
            seed=self.training.seed,
            extra={"images_per_iteration": self.training.images_per_iteration},
        )
        return ModelComparison(
            label=self.spec.label,
            family=family_of(self.cfg),
            run=run,
            weights=self.spec.weights,
            weights_sha256=self.weights_sha256,
            config_sha256=config_hash(self.cfg),
            notes=_notes(self.cfg, self.spec),
            shipped=shipped_settings(self.cfg),
        )


def _require_different(checkpoints: Sequence[Contestant]) -> None:
    """Copies of one file would make trainings look as if they always ended alike."""
    known: dict[str, str] = {}
    for hashed, weights in ((x.weights_sha256, x.spec.weights) for x in checkpoints):
        if hashed in known:
            raise ValueError(f"--model {checkpoints[0].spec.label}: {known[hashed]} and {weights} are the same weights")
        known[hashed] = weights


def unnamed(num_classes: int) -> list[str]:
    """What the classes of a model are called that does not know their names."""
    return [f"class {i}" for i in range(num_classes)]


def _notes(cfg: CfgNode, spec: ModelSpec) -> list[str]:
    notes = []
    if not spec.weights:
        notes.append("its weights are random")
    if family_of(cfg) == "other":
        notes.append(
            f"{cfg.MODEL.META_ARCHITECTURE} is not known here, so its own removal of duplicates, if any, stays on and "
            "its stages are not timed"
        )
    if family_of(cfg) == "DETR" and not cfg.MODEL.DETR.AUX_LOSS:
        notes.append("its decoder layers but the last were trained without a loss of their own (AUX_LOSS is False)")
    if cfg.TEST.AUG.ENABLED:
        notes.append("test-time augmentation (TEST.AUG) is left out")
    return notes


def map_classes(categories: Categories, class_names: Sequence[str], label: str) -> tuple[np.ndarray, list[str]]:
    """Where the classes of a model are among those of the data, by name.

    Args:
        categories: of the model.
        class_names: of the data.
        label: of the model, for messages.

    Returns:
        (K,) index in `class_names` of each class of the model, -1 where the data do not have it, and notes for people.

    Raises:
        ValueError: they have no class in common, or a name stands for several classes.
    """
    names = list(categories.names)
    if names == unnamed(len(names)):
        if len(names) != len(class_names):
            raise ValueError(
                f"{label} has {len(names)} classes without names, but the data have {len(class_names)} "
                f"({', '.join(class_names[:5])}); they cannot be told apart"
            )
        return np.arange(len(names)), []
    match = match_classes(names, class_names)
    lists = f"it has {listed(names)}, they have {listed(class_names)}"
    if len(match.only_model) == len(names):
        raise ValueError(f"{label} knows none of the classes of the data: {lists}")
    if match.repeated:
        raise ValueError(f"{label} and the data have a name of several classes, {listed(match.repeated)}: {lists}")
    notes = []
    if match.only_data:
        unknown = match.only_data
        notes.append(f"it does not know {len(unknown)} of the classes: {listed(unknown)}; their AP is 0")
    if match.only_model:
        notes.append(f"its detections of {len(match.only_model)} classes that the data do not have are left out")
    return np.array(match.to_data, dtype=np.int64), notes
