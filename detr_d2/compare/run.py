"""A comparison from beginning to end; whatever is finished is on disk and is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.image_errors import another_size
from ..evaluation.arrays import GroundTruth
from ..prediction import Categories
from .checkpoints import differences, pooled
from .cost.cost import CostSettings
from .finished import Finished
from .found.boxes import collect
from .found.cache import CandidateCache, combined_hash, forget_predictions, remembered
from .found.detections_file import DetectionFiles
from .found.given import Given
from .found.nms import Candidates, OfflineNms, predicts_masks
from .gallery_data import candidates_of_image
from .measure.cures import cures
from .measure.everything import Measured, measure, num_steps
from .measure.intervals import RESAMPLES, image_draws
from .models import Contestant, map_classes
from .records.comparison import CrashedImage, Difference, ModelComparison
from .records.files import to_json
from .records.pictures import GalleryImage
from .removals import removals_of
from .run_costs import add_costs
from .run_gallery import gallery
from .segmentation import Segmented

MEASURE_VERSION = 11
"""Raised whenever the same predictions would give other figures."""


@dataclass(frozen=True)
class Settings:
    """What the user may choose.

    Args:
        score_threshold: from which detections count; None for the operating point of each model.
        resamples: of the bootstrap.
        cost: None to leave the cost out.
        raw: the most detections of an image in files of those without NMS; None to write no such files.
    """

    score_threshold: float | None = None
    resamples: int = RESAMPLES
    cost: CostSettings | None = None
    raw: int | None = None


@dataclass(frozen=True)
class Plan:
    """What to compare on, and how.

    Args:
        dataset: registered name.
        output: folder for results.json, which is written after every model, and for the detections.
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
        self._finished: list[Finished] = []
        self._segmented = Segmented(ground_truth)
        self._files = DetectionFiles(plan.output, ground_truth, raw=plan.settings.raw)

    def model(self, contestant: Contestant) -> ModelComparison:
        """Runs a model over the images and measures it; a failure is a record that says so.

        Returns:
            Its record, all but the cost.
        """
        runs = [
            (x.spec.weights if contestant.others else "", partial(self._model, x, x.identity(self.ground_truth.name)))
            for x in contestant.checkpoints
        ]
        return self._record(contestant.identity(self.ground_truth.name), runs)

    def given(self, given: Given) -> ModelComparison:
        """Measures the detections of another program, as `model` does those of a model."""
        return self._record(given.identity, [("", partial(self._given, given))])

    def _record(self, identity: ModelComparison, runs: Sequence[tuple[str, Callable[[], Finished]]]) -> ModelComparison:
        """What all runs are together, each with the name by which its failure is told from that of the others."""
        found, name = [], ""
        try:
            for label, run in runs:
                name = label
                found.append(run())
            name = ""
            finished = replace(found[0], measured=pooled([x.measured for x in found]))
        except Exception as error:  # the other models, and what is finished, must not be lost with it
            where = "" if name in str(error) else f"{name}: "
            return replace(identity, shipped=None, failed=" ".join(f"{where}{_kind(error)}{error}".split()))
        self._finished.append(finished)
        return finished.measured.record

    def _model(self, contestant: Contestant, identity: ModelComparison) -> Finished:
        folder = self.cache / contestant.prediction_key(self._fingerprint, self._versions)
        if self.plan.fresh:
            forget_predictions(folder)
        names, files = self.ground_truth.class_names, self.ground_truth.file_names
        ready: list[Any] = []

        def load() -> Any:
            if not ready:
                ready.append(contestant.load(nms=False, class_names=names))
            return ready[0]

        classes = remembered(folder / "classes.json", list, lambda: list(load()[1].names))
        class_map, notes = map_classes(Categories.numbered(classes), names, identity.label)
        with _bar(identity.label, len(files), "image") as bar:
            found = collect(lambda: load()[0], files, CandidateCache(folder), progress=bar.update)
        require_sizes(found.layers[-1], self.ground_truth)

        masks = predicts_masks(contestant.cfg)
        segmented = self._segmented.images_of(contestant, identity.label, folder) if masks else []

        def complete() -> ModelComparison:
            record = replace(identity, notes=[*identity.notes, *notes])
            return self._segmented.of_images(record, segmented, class_map, classes) if masks else record

        measured = self._measured(folder, identity, complete, found.layers, class_map, found.crashed)
        assert identity.shipped is not None
        self._files.write(identity.label, identity.shipped, found.layers[-1], class_map, segmented)
        candidates = partial(candidates_of_image, CandidateCache(folder), num_images=len(files))
        return Finished(measured, candidates, class_map, folder, contestant)

    def _given(self, given: Given) -> Finished:
        assert given.identity.predictions is not None
        what = {"file": given.identity.predictions.sha256, "dataset": self._fingerprint, "versions": self._versions}
        folder = self.cache / combined_hash(what)
        if self.plan.fresh:
            forget_predictions(folder)
        found, class_map = given.found, np.arange(len(self.ground_truth.class_names))

        def complete() -> ModelComparison:
            if found.masks is None:
                return given.identity
            return self._segmented.of_images(given.identity, found.masks, class_map)

        measured = self._measured(folder, given.identity, complete, [found.images], class_map)
        return Finished(measured, found.images.__getitem__, class_map, folder)

    def _measured(
        self,
        folder: Path,
        identity: ModelComparison,
        complete: Callable[[], ModelComparison],
        layers: Sequence[Sequence[Candidates]],
        class_map: np.ndarray,
        crashed: Sequence[CrashedImage] = (),
    ) -> Measured:
        """The figures of a model, which are remembered.

        Args:
            folder: in which they are.
            identity: the record that they depend on.
            complete: gives it with what is not measured from boxes.
            layers: what the model knows of each image, per decoder layer.
            class_map: see `Finished`.
            crashed: images that failed.
        """
        truth, settings = self.ground_truth, self.settings

        def make() -> Measured:
            record = replace(complete(), crashed_images=list(crashed))
            assert record.shipped is not None
            found = [OfflineNms(x, limit=record.shipped.max_detections, class_map=class_map) for x in layers]
            draws = image_draws(len(truth), settings.resamples)
            with _bar(f"{record.label}: figures", num_steps(record.shipped, len(found)), "step") as bar:
                measured = measure(
                    record, truth, found, draws, score_threshold=settings.score_threshold, progress=bar.update
                )
            cured = cures(record, truth, found[-1], score_threshold=settings.score_threshold)
            removed = removals_of(truth, found[-1], measured.record)
            return replace(measured, record=replace(measured.record, cures=cured, removals=removed))

        what = {
            "version": MEASURE_VERSION,
            "identity": to_json(identity),
            "images": len(truth),
            "score_threshold": settings.score_threshold,
            "resamples": settings.resamples,
        }
        return remembered(folder / f"figures-{combined_hash(what)}.json", Measured, make, keep=_is_complete)

    def differences(self) -> list[Difference]:
        """Every pair of models that did not fail."""
        return differences([x.measured for x in self._finished])

    def gallery(self) -> list[GalleryImage]:
        """The images on which the models disagree most, and the worst of each."""
        return gallery(self._finished, self.ground_truth)

    def add_costs(self, records: Sequence[ModelComparison]) -> tuple[list[ModelComparison], list[Difference]]:
        """The records that `model` and `given` returned with the cost of those models that ran; see `add_costs`."""
        return add_costs(
            records, self._finished, self.ground_truth, self.plan, cache=self.cache, version=MEASURE_VERSION
        )


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


def _kind(error: Exception) -> str:
    """The name of an exception that was not written for users."""
    return "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "


def _bar(title: str, total: int, unit: str) -> Any:
    return tqdm(total=total, desc=title, unit=unit, leave=False, disable=None)
