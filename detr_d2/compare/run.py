"""A comparison from beginning to end; whatever is finished is on disk and is not done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.image_errors import another_size
from ..evaluation.arrays import GroundTruth
from ..evaluation.ground_truth import MaskTruth, load_mask_truth
from ..evaluation.panoptic import is_panoptic
from ..prediction import Categories
from ..prediction.detector_keys import get_num_classes, set_num_classes
from .checkpoints import differences, pooled
from .cost.cost import Costs, CostSettings, measure_costs
from .cost.timing import machine_info
from .found.boxes import collect
from .found.cache import CandidateCache, combined_hash, config_hash, forget_predictions, remembered
from .found.masks import SegmentationCache, collect_masks
from .found.nms import Candidates, OfflineNms, predicts_masks
from .gallery_data import candidates_of_image, disagreement, gallery_image, pick_images, shown_detections
from .measure.everything import Measured, measure, num_steps
from .measure.intervals import RESAMPLES, image_draws
from .models import Contestant, map_classes, unnamed
from .records.comparison import Difference, ModelComparison
from .records.files import to_json
from .records.pictures import GalleryImage
from .segmentation import segmentation_figures

MEASURE_VERSION = 8
"""Raised whenever the same predictions would give other figures."""


@dataclass(frozen=True)
class Settings:
    """What the user may choose.

    Args:
        score_threshold: of duplicates, crowding, counting, and the choice of the gallery.
        resamples: of the bootstrap.
        cost: None to leave the cost out.
    """

    score_threshold: float = 0.5
    resamples: int = RESAMPLES
    cost: CostSettings | None = None


@dataclass(frozen=True)
class Plan:
    """What to compare on, and how.

    Args:
        dataset: registered name.
        output: folder for results.json, which is written after every model.
        settings: of the measures.
        device: "cpu" or "cuda".
        command: that the reader of the report can repeat.
        limit: the first N images only; None for all.
        cache: folder for what models said; default: "cache" in `output`.
        fresh: run the models again even if the cache knows them.
        imports: modules and .py files that have been imported because they register parts of the models.
        options: to be written down beside the results.
    """

    dataset: str
    output: Path
    settings: Settings
    device: str
    command: str
    limit: int | None = None
    cache: Path | None = None
    fresh: bool = False
    imports: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


class ComparisonRun:
    """Runs and measures models one after the other.

    Args:
        plan: what to compare on, and how.
        ground_truth: of the images that are used.
        dataset_fingerprint: of the whole dataset.
        versions: package -> version, part of what predictions depend on.
    """

    def __init__(
        self, plan: Plan, ground_truth: GroundTruth, *, dataset_fingerprint: str, versions: Mapping[str, str]
    ) -> None:
        self.plan = plan
        self.settings = plan.settings
        self.ground_truth = ground_truth
        self.cache = plan.cache or plan.output / "cache"
        self._fingerprint = dataset_fingerprint
        self._versions = dict(versions)
        self._finished: list[tuple[Contestant, Measured]] = []

    def model(self, contestant: Contestant) -> ModelComparison:
        """Runs a model over the images and measures it; a failure is a record that says so.

        Returns:
            Its record, all but the cost.
        """
        found: list[Measured] = []
        name = ""  # of the checkpoint at work
        try:
            for checkpoint in contestant.checkpoints:
                name = checkpoint.spec.weights if contestant.others else ""
                found.append(self._model(checkpoint, checkpoint.identity(self.ground_truth.name)))
            name = ""
            measured = pooled(found)
        except Exception as error:  # the other models, and what is finished, must not be lost with it
            where = "" if name in str(error) else f"{name}: "
            identity = contestant.identity(self.ground_truth.name)
            return replace(identity, shipped=None, failed=" ".join(f"{where}{_kind(error)}{error}".split()))
        self._finished.append((contestant, measured))
        return measured.record

    def _model(self, contestant: Contestant, identity: ModelComparison) -> Measured:
        folder = self._folder(contestant)
        if self.plan.fresh:
            forget_predictions(folder)
        what = {
            "version": MEASURE_VERSION,
            "identity": to_json(identity),
            "images": len(self.ground_truth),
            "score_threshold": self.settings.score_threshold,
            "resamples": self.settings.resamples,
        }
        path = folder / f"figures-{combined_hash(what)}.json"
        return remembered(path, Measured, lambda: self._measure(contestant, identity, folder), keep=_is_complete)

    def _measure(self, contestant: Contestant, identity: ModelComparison, folder: Path) -> Measured:
        names = self.ground_truth.class_names
        ready: list[Any] = []

        def load() -> Any:
            if not ready:
                ready.append(contestant.load(nms=False, class_names=names))
            return ready[0]

        classes = remembered(folder / "classes.json", list, lambda: list(load()[1].names))
        class_map, notes = map_classes(Categories.numbered(classes), names, identity.label)
        with _bar(identity.label, len(self.ground_truth), "image") as bar:
            files = self.ground_truth.file_names
            found = collect(lambda: load()[0], files, CandidateCache(folder), progress=bar.update)
        require_sizes(found.layers[-1], self.ground_truth)
        segmented = replace(identity, notes=[*identity.notes, *notes])
        if predicts_masks(contestant.cfg):
            segmented = self._with_masks(contestant, segmented, class_map, classes, folder)
        identity = segmented
        assert identity.shipped is not None
        limit = identity.shipped.max_detections
        layers = [OfflineNms(images, limit=limit, class_map=class_map) for images in found.layers]
        with _bar(f"{identity.label}: figures", num_steps(identity.shipped, len(layers)), "step") as bar:
            return measure(
                replace(identity, crashed_images=found.crashed),
                self.ground_truth,
                layers,
                image_draws(len(self.ground_truth), self.settings.resamples),
                score_threshold=self.settings.score_threshold,
                progress=bar.update,
            )

    def _with_masks(
        self,
        contestant: Contestant,
        record: ModelComparison,
        class_map: np.ndarray,
        classes: Sequence[str],
        folder: Path,
    ) -> ModelComparison:
        """The record with what the model segments, which it is run for as it is used."""
        if not (self._mask_truth or is_panoptic(self.ground_truth.name)):
            return replace(record, notes=[*record.notes, "its masks are not measured, as the data have none"])
        names, files = self.ground_truth.class_names, self.ground_truth.file_names
        cache = SegmentationCache(folder / f"masks-{config_hash(contestant.cfg)[:16]}")
        with _bar(f"{record.label}: masks", len(files), "image") as bar:
            images = collect_masks(
                lambda: contestant.load(nms=True, class_names=names)[0], files, cache, progress=bar.update
            )
        known = () if list(classes) == unnamed(len(classes)) else classes
        return segmentation_figures(record, self.ground_truth, self._mask_truth, images, class_map, known)

    @cached_property
    def _mask_truth(self) -> MaskTruth | None:
        return load_mask_truth(self.ground_truth)

    def _folder(self, contestant: Contestant) -> Path:
        return self.cache / contestant.prediction_key(self._fingerprint, self._versions)

    def differences(self) -> list[Difference]:
        """Every pair of models that did not fail."""
        return differences([measured for _, measured in self._finished])

    def gallery(self) -> list[GalleryImage]:
        """The images on which the models disagree most."""
        if not self._finished:
            return []
        f1 = [x.f1_per_image for _, x in self._finished]
        spread = disagreement(f1)
        return [self._gallery_image(i, float(spread[i])) for i in pick_images(self.ground_truth, f1)]

    def _gallery_image(self, index: int, spread: float) -> GalleryImage:
        detections = {}
        for contestant, measured in self._finished:
            record, folder = measured.record, self._folder(contestant)
            candidates = candidates_of_image(CandidateCache(folder), index, len(self.ground_truth))
            if candidates is not None and record.shipped is not None:
                classes = remembered(folder / "classes.json", list, list)
                class_map, _ = map_classes(Categories.numbered(classes), self.ground_truth.class_names, record.label)
                detections[record.label] = shown_detections(candidates, record.shipped, class_map)
        return gallery_image(self.ground_truth, index, spread, detections)

    def add_costs(self, records: Sequence[ModelComparison]) -> tuple[list[ModelComparison], list[Difference]]:
        """The records with the cost of those models that did not fail, all timed in turn, and differences in time.

        Args:
            records: what `model` returned.
        """
        if self.settings.cost is None or not self._finished:
            return list(records), []
        what = {
            "version": MEASURE_VERSION,
            "models": [(x.spec.label, self._folder(x).name, m.record.config_sha256) for x, m in self._finished],
            "files": self.ground_truth.file_names[: self.settings.cost.images],
            "settings": asdict(self.settings.cost),
            "machine": machine_info(self.plan.device),
        }
        path = self.cache / f"costs-{combined_hash(what)}.json"
        if self.plan.fresh:
            path.unlink(missing_ok=True)
        try:
            found = remembered(path, Costs, self._costs)
        except Exception as error:  # all else is measured, and must not be lost with it
            note = (
                f"the cost of the models could not be measured ({type(error).__name__}: {' '.join(str(error).split())})"
            )
            return [x if x.failed else replace(x, notes=[*x.notes, note]) for x in records], []
        return [_with_cost(x, found) for x in records], found.differences

    def _costs(self) -> Costs:
        settings = self.settings.cost
        assert settings is not None
        loaded = {x.spec.label: x.load(nms=True, class_names=self.ground_truth.class_names) for x, _ in self._finished}
        configs = {}
        for contestant, _ in self._finished:
            cfg = contestant.cfg.clone()
            cfg.defrost()
            if get_num_classes(cfg) == 0:
                set_num_classes(cfg, len(loaded[contestant.spec.label][1].names))
            configs[contestant.spec.label] = cfg
        crashed = {x.file_name for _, m in self._finished for x in m.record.crashed_images}
        files = [name for name in self.ground_truth.file_names if name not in crashed]
        predictors = {label: predictor for label, (predictor, _) in loaded.items()}
        with _bar("cost, the models in turn", settings.num_steps(len(predictors)), "step") as bar:
            return measure_costs(predictors, configs, files, settings, imports=self.plan.imports, progress=bar.update)


def require_sizes(images: Sequence[Candidates], truth: GroundTruth) -> None:
    """Boxes of an image of another size than annotated meet no object; images behind a URI are not looked at before."""
    for name, (height, width), found in zip(truth.file_names, truth.sizes.tolist(), images, strict=True):
        if height and width and found.image_size not in ((height, width), (1, 1)):  # of images that failed
            fault = another_size(name, found.image_size[::-1], (width, height))
            raise ValueError(f"{fault}: correct the width and height in the annotations")


def _is_complete(measured: Measured) -> bool:
    """Whether no image has failed; those that have are tried again in the next run, as memory or a disk may be why."""
    record = measured.record
    segmented = (x for x in (record.masks, record.panoptic) if x is not None)
    return not (record.crashed_images or any(x.failed_images for x in segmented))


def _with_cost(record: ModelComparison, found: Costs) -> ModelComparison:
    cost = found.costs.get(record.label)
    if cost is None:
        return record
    notes = [x.removeprefix(f"{record.label}: ") for x in found.notes if x.startswith(f"{record.label}: ")]
    run = replace(record.run, parameters=cost.parameters, inference_ms=cost.latency[0].p50_ms)
    return replace(record, cost=cost, run=run, notes=[*record.notes, *notes])


def _kind(error: Exception) -> str:
    """The name of an exception that was not written for users."""
    return "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "


def _bar(title: str, total: int, unit: str) -> Any:
    return tqdm(total=total, desc=title, unit=unit, leave=False, disable=None)
