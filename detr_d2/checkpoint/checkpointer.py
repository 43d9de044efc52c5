"""detectron2's checkpointer, made safe: files are written whole or not at all, and only data is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor

from ..class_names import require_same_classes
from ..files import write_file, write_text
from .class_head import Numbering, coco_ids_of, keep_coco_classes, num_rows
from .fitting import LoadReport, check_class_head_mode, check_same_masks, fit, fit_by_shape, is_detr
from .layouts.torchvision_resnet import backbone_checkpoint, convert_torchvision_resnet, is_torchvision_resnet
from .locations import local_file
from .reading.open import read_model_file
from .renaming import check_architecture, to_detectron2

_BY_ENDS = "matching_heuristics"  # detectron2's key for files whose names are matched by their ends
_HEURISTICS = f"?{_BY_ENDS}=True"  # and its way to ask for that


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
        if not path:
            self.report = None
            self.logger.info("No weights are given: the model begins with random ones")
            return {}
        resumes = checkpointables is None and bool(self.checkpointables)
        rest = self._load_weights(path, content, "resume" if resumes else "start")
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in rest:
                self.checkpointables[key].load_state_dict(rest.pop(key))
        return rest

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
        return self._load_weights(path, content, "trained")

    def _load_weights(
        self, path: str, content: Mapping[str, Any] | None, mode: Literal["start", "resume", "trained"]
    ) -> dict[str, Any]:
        """Loads the model, all or nothing; returns what else the file holds."""
        source = local_file(path.removesuffix(_HEURISTICS))
        content = read_model_file(source) if content is None else content
        self.report = report = LoadReport(source, layout=str(content.get("__author__", "detectron2")))
        own = self.model.state_dict()
        rest = self._under_our_names(content, own, report)
        state = {name: torch.as_tensor(value) for name, value in rest.pop("model").items()}
        theirs, ours = rest.get("class_names"), self.metadata.get("class_names")
        if mode != "start" and theirs and ours:
            require_same_classes(
                theirs,
                ours,
                model_is=f"{source} was trained on",
                data_are="the data have",
                cure="give data with its classes in its order, or train it on these",
            )
        if path.endswith(_HEURISTICS) or rest.get(_BY_ENDS, False):
            state = align_and_update_state_dicts(own, state, c2_conversion=report.layout == "Caffe2")
            fitted = fit_by_shape(state, own, report)
        elif is_detr(own):
            if mode == "resume":
                check_same_masks(state, own, source)
            fitted = fit(
                state, own, report, exact=mode != "start", class_head=self.class_head_from, class_names=(theirs, ours)
            )
        else:
            fitted = fit_by_shape(state, own, report)
        if mode == "trained":
            self._require_all(fitted, path)
        self.model.load_state_dict(fitted, strict=False)
        self.logger.info(str(report))
        return rest

    def _under_our_names(
        self, content: Mapping[str, Any], own: dict[str, Tensor], report: LoadReport
    ) -> dict[str, Any]:
        """What other libraries have written, renamed."""
        if is_torchvision_resnet(content["model"]):
            report.layout = "torchvision"
            return backbone_checkpoint(convert_torchvision_resnet(content["model"]))
        if not is_detr(own):
            return dict(content)
        content, layout = to_detectron2(content, report.source)
        report.layout = layout.title if layout is not None else report.layout
        check_architecture(content, self.model, report.source)
        by_id = coco_ids_of(content)
        if by_id is not None and _has_classes_of(by_id, own, content["model"]):
            content = keep_coco_classes(content)
            report.notes.append(f"class head: the rows of the {len(by_id.ids)} classes, out of those by category id")
        return content

    def _require_all(self, fitted: Mapping[str, Tensor], path: str) -> None:
        """Raises ValueError if a parameter of the model has no value, or one that is no number."""
        missing = [
            name for name, _ in self.model.named_parameters() if name not in fitted or fitted[name].isnan().any()
        ]
        if missing:
            raise ValueError(
                f"{path} has no usable values for {len(missing)} parameters of the model, such as {missing[0]}: it is "
                "not a trained model of this config; check MODEL.WEIGHTS and the number of classes."
            )


def _has_classes_of(by_id: Numbering, model: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """Whether a model has a row for each class, given a state dict with one for each category id."""
    return num_rows(state) - num_rows(model) == by_id.num_ids - len(by_id.ids)
