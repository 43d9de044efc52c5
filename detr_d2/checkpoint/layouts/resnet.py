"""Names of ResNets: torchvision's (also the authors' and timm's), detectron2's, and those of `transformers`."""

from __future__ import annotations

from collections.abc import Sequence

from .rules import NORM, WEIGHT, Rename, Rule

Pair = tuple[str, str]
"""Names of a convolution and of its norm."""


def resnet_rules(torchvision: str, detectron2: str) -> list[Rule]:
    """torchvision's names on the left, detectron2's on the right, each behind a prefix."""
    stages = [f"{detectron2}res{stage}.{{B}}." for stage in (2, 3, 4, 5)]
    blocks = [(("conv{J}", "bn{J}"), ("conv{J}", "conv{J}.norm"))]
    stem = (f"{detectron2}stem.conv1", f"{detectron2}stem.conv1.norm")
    return _rules(torchvision, stem, stages, blocks, ("shortcut", "shortcut.norm"))


def timm_resnet_rules(torchvision: str, timm: str) -> list[Rule]:
    """timm names its ResNets as torchvision does: only the prefix differs."""
    stages = [f"{timm}layer{stage}.{{B}}." for stage in (1, 2, 3, 4)]
    names = ("conv{J}", "bn{J}")
    return _rules(
        torchvision, (f"{timm}conv1", f"{timm}bn1"), stages, [(names, names)], ("downsample.0", "downsample.1")
    )


def native_resnet_rules(torchvision: str, native: str) -> list[Rule]:
    """The ResNet of `transformers` itself on the right; it counts stages and convolutions of a block from 0."""
    stem = f"{native}embedder.embedder."
    stages = [f"{native}encoder.stages.{stage}.layers.{{B}}." for stage in range(4)]
    blocks = [((f"conv{j}", f"bn{j}"), _native(f"layer.{j - 1}.")) for j in (1, 2, 3)]
    return _rules(torchvision, _native(stem), stages, blocks, _native("shortcut."))


def _native(prefix: str) -> Pair:
    return f"{prefix}convolution", f"{prefix}normalization"


def _rules(
    torchvision: str, stem: Pair, stages: Sequence[str], blocks: Sequence[tuple[Pair, Pair]], shortcut: Pair
) -> list[Rule]:
    """Blocks of ResNet-18 and 34 have two convolutions. Only first blocks have shortcuts, and those of the first stage
    of a shallow ResNet have none, as the width stays.

    Args:
        torchvision: prefix of the names on the left.
        stem: names on the right.
        stages: prefixes of the names in a block on the right.
        blocks: names in a block, left and right.
        shortcut: names in a block on the right.
    """
    rules = _both(("conv1", "bn1"), torchvision, stem, "")
    for stage, right in enumerate(stages, start=1):
        left = f"{torchvision}layer{stage}.{{B}}."
        for theirs, ours in blocks:
            rules += _both(theirs, left, ours, right, optional=theirs[0] == "conv3")
        downsample = ("downsample.0", "downsample.1")
        rules += _both(downsample, left, shortcut, right, optional=stage == 1, some_layers=True)
    return rules


def _both(
    left: Pair, before: str, right: Pair, behind: str, *, optional: bool = False, some_layers: bool = False
) -> list[Rule]:
    """The rules of a convolution and its norm; `before` and `behind` are the prefixes of left and right."""
    return [
        Rename(f"{before}{x}.{{p}}", f"{behind}{y}.{{p}}", optional=optional, parts=parts, some_layers=some_layers)
        for x, y, parts in zip(left, right, (WEIGHT, NORM), strict=True)
    ]
