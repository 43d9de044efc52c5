"""detectron2's checkpointer, made safe: files are written whole or not at all, and only data is read."""

from __future__ import annotations

import os
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from .atomic_write import write_atomically
from .safe_read import read_checkpoint
from .torchvision_resnet import backbone_checkpoint, convert_torchvision_resnet, is_torchvision_resnet


class Checkpointer(DetectionCheckpointer):
    """Saves atomically; loads our checkpoints, detectron2's files and torchvision's ResNets.

    Attributes:
        metadata: plain values written into every checkpoint beside the model, such as `class_names`.
    """

    def __init__(self, model: torch.nn.Module, save_dir: str = "", **kwargs: Any) -> None:
        super().__init__(model, save_dir, **kwargs)
        self.metadata: dict[str, Any] = {}

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
        write_atomically(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the checkpoint that resuming starts from."""
        content = last_filename_basename.encode()
        write_atomically(os.path.join(self.save_dir, "last_checkpoint"), lambda file: file.write(content))

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a checkpoint that holds nothing but data.

        Args:
            path: file or URL, or "" for none; `torchvision://` names and local files of torchvision's ResNets are
                converted to backbone weights.
            args, kwargs: see `DetectionCheckpointer.load`.

        Raises:
            ValueError: if the file cannot be read as data; see `read_checkpoint`.
            FileNotFoundError: if there is no such file.
        """
        if path and "://" not in path and not self.path_manager.isfile(path.split("?", 1)[0]):
            raise FileNotFoundError(f"The checkpoint {path} does not exist: check MODEL.WEIGHTS.")
        return dict(super().load(path, *args, **kwargs))

    def load_trained(self, path: str) -> dict[str, Any]:
        """Loads the weights of a trained model: every parameter must be in the file, with the right shape.

        Raises:
            ValueError: if a parameter is not, where `load` only warns.
        """
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(torch.nan)
        rest = self.load(path, checkpointables=[])
        missing = [name for name, parameter in self.model.named_parameters() if parameter.isnan().any()]
        if missing:
            raise ValueError(
                f"{path or 'MODEL.WEIGHTS'} has no usable values for {len(missing)} parameters of the model, such as "
                f"{missing[0]}: it is not a trained model of this config; check MODEL.WEIGHTS and the number of "
                "classes."
            )
        return rest

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Reads the file after checking that it is data; fvcore's documented place for other formats."""
        if filename.endswith(".pkl"):
            read_checkpoint(filename)
        content = super()._load_file(filename)
        if is_torchvision_resnet(content["model"]):
            self.logger.info(f"{filename} holds torchvision's ResNet: converting it to backbone weights")
            return backbone_checkpoint(convert_torchvision_resnet(content["model"]))
        return content

    def _torch_load(self, f: str) -> dict[str, Any]:
        return read_checkpoint(f)
