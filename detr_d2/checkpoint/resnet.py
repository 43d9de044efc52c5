"""Names of ResNets: torchvision's (also the authors' and timm's), detectron2's, and those of `transformers`."""

from __future__ import annotations

from .rules import Rename, Rule

# Not every ResNet has every tensor: the stages of a shallow one begin without a shortcut where the width stays, and
# backbones that end before res5 have no res5. The stem and the first block are always there.


def resnet_rules(torchvision: str, detectron2: str) -> list[Rule]:
    """torchvision's names on the left, detectron2's on the right, each behind a prefix."""
    rules: list[Rule] = [
        Rename(f"{torchvision}conv1.{{p}}", f"{detectron2}stem.conv1.{{p}}"),
        Rename(f"{torchvision}bn1.{{p}}", f"{detectron2}stem.conv1.norm.{{p}}"),
    ]
    for stage in (1, 2, 3, 4):
        left, right = f"{torchvision}layer{stage}.{{B}}", f"{detectron2}res{stage + 1}.{{B}}"
        rules += [
            Rename(f"{left}.conv{{J}}.{{p}}", f"{right}.conv{{J}}.{{p}}"),
            Rename(f"{left}.bn{{J}}.{{p}}", f"{right}.conv{{J}}.norm.{{p}}"),
            Rename(f"{left}.downsample.0.{{p}}", f"{right}.shortcut.{{p}}", optional=stage == 1),
            Rename(f"{left}.downsample.1.{{p}}", f"{right}.shortcut.norm.{{p}}", optional=stage == 1),
        ]
    return rules


def timm_resnet_rules(torchvision: str, timm: str) -> list[Rule]:
    """timm names its ResNets as torchvision does: only the prefix differs."""
    always = ["conv1", "bn1", *(f"layer{n}.{{B}}.{part}{{J}}" for n in (1, 2, 3, 4) for part in ("conv", "bn"))]
    shortcuts = [f"layer{n}.{{B}}.downsample.{{J}}" for n in (1, 2, 3, 4)]
    return [
        *(Rename(f"{torchvision}{x}.{{p}}", f"{timm}{x}.{{p}}") for x in always),
        *(Rename(f"{torchvision}{x}.{{p}}", f"{timm}{x}.{{p}}", optional=x == shortcuts[0]) for x in shortcuts),
    ]


def native_resnet_rules(torchvision: str, native: str) -> list[Rule]:
    """The ResNet of `transformers` itself on the right; it counts stages and convolutions of a block from 0."""
    stem = f"{native}embedder.embedder"
    rules: list[Rule] = [
        Rename(f"{torchvision}conv1.{{p}}", f"{stem}.convolution.{{p}}"),
        Rename(f"{torchvision}bn1.{{p}}", f"{stem}.normalization.{{p}}"),
    ]
    for stage in (1, 2, 3, 4):
        left, right = f"{torchvision}layer{stage}.{{B}}", f"{native}encoder.stages.{stage - 1}.layers.{{B}}"
        for j in (1, 2, 3):  # blocks of ResNet-18 and 34 have two convolutions
            rules += [
                Rename(f"{left}.conv{j}.{{p}}", f"{right}.layer.{j - 1}.convolution.{{p}}", optional=j == 3),
                Rename(f"{left}.bn{j}.{{p}}", f"{right}.layer.{j - 1}.normalization.{{p}}", optional=j == 3),
            ]
        rules += [
            Rename(f"{left}.downsample.0.{{p}}", f"{right}.shortcut.convolution.{{p}}", optional=stage == 1),
            Rename(f"{left}.downsample.1.{{p}}", f"{right}.shortcut.normalization.{{p}}", optional=stage == 1),
        ]
    return rules
