"""detectron2's checkpointer, made safe: files are written whole or not at all, and only data is read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer

from ..class_names import require_same_classes
from ..files import write_file, write_text
from .architecture import check_architecture
from .coco_classes import Numbering
from .fitting import LoadReport, check_class_head_mode, check_same_masks, fit, is_detr
from .layouts.torchvision_resnet import backbone_checkpoint, convert_torchvision_resnet, is_torchvision_resnet
from .locations import local_file
from .model_file import coco_ids_of, keep_coco_classes, num_rows, to_detectron2
from .reading.contents import read_model_file

_HEURISTICS = "?matching_heuristics=True"  # detectron2's way to ask for matching by the ends of names


class Checkpointer(DetectionCheckpointer):
    """Saves atomically; loads our checkpoints, other libraries' DETRs, detectron2's files and torchvision's ResNets.

    Args:
        model, save_dir, kwargs: see `DetectionCheckpointer`.
        class_head_from: how to begin the class head; see `fit`.

    Attributes:
        metadata: plain values written into every checkpoint beside the model, such as `class_names`.
        report: what the last loading has done; None if there was nothing to load.
    """

    def __init__(
        self, model: torch.nn.Module, save_dir: str = "", *, class_head_from: str = "rows", **kwargs: Any
    ) -> None:
        check_class_head_mode(class_head_from)
        # torch.compile's own name for the model would stand before every name in the file.
        super().__init__(getattr(model, "_orig_mod", model), save_dir, **kwargs)
        self.class_head_from = class_head_from
        self.metadata: dict[str, Any] = {}
        self.report: LoadReport | None = None
        self._exact = False
        self._resumes = False
        self._by_suffix = False
        self._content: Mapping[str, Any] | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes `name`.pth under a temporary name, renames it, and then points `last_checkpoint` to it.

        Args:
            name: file name without ending.
            kwargs: plain values to add, such as `iteration`.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(self.metadata)
        data.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        safe = "The checkpoints written before are complete, and --resume continues from the last of them."
        write_file(path, lambda file: torch.save(data, file), safe=safe)
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the checkpoint that resuming starts from."""
        write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def load(
        self, path: str, checkpointables: list[str] | None = None, content: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Loads a checkpoint that holds nothing but data, and leaves a `LoadReport` in `report`.

        Args:
            path: see `local_file`; "" for none. A DETR of the authors, their wrapper or `transformers` is renamed;
                torchvision's ResNets become backbone weights.
            checkpointables: what to restore beside the model; None for all, in which case the file must be one that
                this model has written: neither class head nor queries may differ.
            content: what `read_model_file` has read from the file, if it was needed before.

        Returns:
            What else the file holds.

        Raises:
            ValueError: if the file cannot be read as data, is not what its URL promises, or does not fit the model.
            FileNotFoundError: if there is no such file.
        """
        self._resumes = checkpointables is None and bool(self.checkpointables)
        self._content = content
        try:
            return self._load(path, checkpointables, exact=self._resumes)
        finally:
            self._resumes, self._content = False, None

    def load_trained(self, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Loads the weights of a trained model: every parameter must be in the file, with the right shape.

        Args:
            path: see `load`.
            content: what `read_model_file` has read from the file, if it was needed before the model.

        Raises:
            ValueError: if a parameter is not, where `load` may only report it. The model is then as it was.
        """
        if not path:
            raise ValueError("no weights are given: set MODEL.WEIGHTS to a trained model")
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(torch.nan)
        self._content = content
        try:
            rest = self._load(path, [], exact=True)
            self._check_all_set(path)
        except BaseException:
            self.model.load_state_dict(before)
            raise
        finally:
            self._content = None
        return rest

    def _check_all_set(self, path: str) -> None:
        missing = [name for name, parameter in self.model.named_parameters() if parameter.isnan().any()]
        if missing:
            raise ValueError(
                f"{path} has no usable values for {len(missing)} parameters of the model, such as {missing[0]}: it is "
                "not a trained model of this config; check MODEL.WEIGHTS and the number of classes."
            )

    def _load(self, path: str, checkpointables: list[str] | None, *, exact: bool) -> dict[str, Any]:
        self.report, self._exact = None, exact
        self._by_suffix = path.endswith(_HEURISTICS)
        if path:
            path = local_file(path.removesuffix(_HEURISTICS))
        # fvcore's: what detectron2 puts before it reads the query off the path, which is done above.
        return dict(FvcoreCheckpointer.load(self, path, checkpointables))

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Reads any kind of file as data, and renames what other libraries have written."""
        content = read_model_file(filename) if self._content is None else dict(self._content)
        if self._by_suffix:
            content["matching_heuristics"] = True
        self.report = LoadReport(source=filename, layout=str(content.get("__author__", "detectron2")))
        if is_torchvision_resnet(content["model"]):
            self.report.layout = "torchvision"
            return backbone_checkpoint(convert_torchvision_resnet(content["model"]))
        own = self.model.state_dict()
        if is_detr(own):
            content, layout = to_detectron2(content, filename)
            self.report.layout = layout.title if layout is not None else self.report.layout
            check_architecture(content, self.model, filename)
            by_id = coco_ids_of(content)
            if by_id is not None and _has_classes_of(by_id, own, content["model"]):
                content = keep_coco_classes(content)
                count = len(by_id.ids)
                self.report.notes.append(f"class head: the rows of the {count} classes, out of those by category id")
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        """Fits the weights to a DETR, strictly; leaves other models, and backbones, to detectron2."""
        assert self.report is not None
        own = self.model.state_dict()
        theirs, ours = checkpoint.get("class_names"), self.metadata.get("class_names")
        if self._exact and theirs and ours:
            require_same_classes(
                theirs,
                ours,
                model_is=f"{self.report.source} was trained on",
                data_are="the data have",
                cure="give data with its classes in its order, or train it on these",
            )
        if not is_detr(own):
            return super()._load_model(checkpoint)
        if checkpoint.get("matching_heuristics", False):
            return self._load_backbone(checkpoint)
        state = _tensors(checkpoint.pop("model"))
        if self._resumes:
            check_same_masks(state, own, self.report.source)
        fitted = fit(
            state, own, self.report, exact=self._exact, class_head=self.class_head_from, class_names=(theirs, ours)
        )
        self.model.load_state_dict(fitted)
        self.logger.info(str(self.report))
        return None

    def _load_backbone(self, checkpoint: dict[str, Any]) -> Any:
        assert self.report is not None
        own = self.model.state_dict()
        incompatible = super()._load_model(checkpoint)
        absent = {*incompatible.missing_keys, *(name for name, *_ in incompatible.incorrect_shapes)}
        lost = [name for name in own if name in absent and re.fullmatch(r"backbone\..*\.weight", name)]
        if lost:
            raise ValueError(
                f"{self.report.source} ({self.report.layout}) has no fitting values for {len(lost)} weights of the "
                f"backbone, such as {lost[0]}: check MODEL.WEIGHTS, MODEL.BACKBONE.NAME and MODEL.RESNETS.DEPTH."
            )
        self.report.loaded = [name for name in own if name not in absent]
        self.report.reinitialised = dict.fromkeys(filter(absent.__contains__, own), "as the file holds a backbone")
        self.report.unexpected = list(incompatible.unexpected_keys)
        self.logger.info(str(self.report))
        return None


def _has_classes_of(by_id: Numbering, model: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> bool:
    """Whether a model has a row for each class, given a state dict with one for each category id."""
    return num_rows(state) - num_rows(model) == by_id.num_ids - len(by_id.ids)


def _tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Arrays as tensors."""
    return {name: torch.as_tensor(value) for name, value in state.items()}
