"""Names of ResNets: torchvision's (also the authors' and timm's), detectron2's, and those of `transformers`."""

from __future__ import annotations

from .rules import NORM, WEIGHT, Rename, Rule

# A shallow ResNet begins its first stage without a shortcut, as the width stays; only first blocks have shortcuts.


def _conv(left: str, right: str, *, optional: bool = False) -> Rename:
    return Rename(f"{left}.{{p}}", f"{right}.{{p}}", optional=optional, parts=WEIGHT)


def _norm(left: str, right: str, *, optional: bool = False) -> Rename:
    return Rename(f"{left}.{{p}}", f"{right}.{{p}}", optional=optional, parts=NORM)


def _shortcut(left: str, right: tuple[str, str], *, optional: bool) -> list[Rule]:
    """Convolution and norm of a shortcut: `left`.0 and `left`.1 on the left, two names on the right."""
    return [
        Rename(f"{left}.{n}.{{p}}", f"{name}.{{p}}", optional=optional, parts=parts, some_layers=True)
        for n, name, parts in zip((0, 1), right, (WEIGHT, NORM), strict=True)
    ]


def resnet_rules(torchvision: str, detectron2: str) -> list[Rule]:
    """torchvision's names on the left, detectron2's on the right, each behind a prefix."""
    rules: list[Rule] = [
        _conv(f"{torchvision}conv1", f"{detectron2}stem.conv1"),
        _norm(f"{torchvision}bn1", f"{detectron2}stem.conv1.norm"),
    ]
    for stage in (1, 2, 3, 4):
        left, right = f"{torchvision}layer{stage}.{{B}}", f"{detectron2}res{stage + 1}.{{B}}"
        rules += [
            _conv(f"{left}.conv{{J}}", f"{right}.conv{{J}}"),
            _norm(f"{left}.bn{{J}}", f"{right}.conv{{J}}.norm"),
            *_shortcut(f"{left}.downsample", (f"{right}.shortcut", f"{right}.shortcut.norm"), optional=stage == 1),
        ]
    return rules


def timm_resnet_rules(torchvision: str, timm: str) -> list[Rule]:
    """timm names its ResNets as torchvision does: only the prefix differs."""
    rules: list[Rule] = [_conv(f"{torchvision}conv1", f"{timm}conv1"), _norm(f"{torchvision}bn1", f"{timm}bn1")]
    for stage in (1, 2, 3, 4):
        left, right = f"{torchvision}layer{stage}.{{B}}", f"{timm}layer{stage}.{{B}}"
        shortcut = f"{right}.downsample"
        rules += [
            _conv(f"{left}.conv{{J}}", f"{right}.conv{{J}}"),
            _norm(f"{left}.bn{{J}}", f"{right}.bn{{J}}"),
            *_shortcut(f"{left}.downsample", (f"{shortcut}.0", f"{shortcut}.1"), optional=stage == 1),
        ]
    return rules


def native_resnet_rules(torchvision: str, native: str) -> list[Rule]:
    """The ResNet of `transformers` itself on the right; it counts stages and convolutions of a block from 0."""
    stem = f"{native}embedder.embedder"
    rules: list[Rule] = [
        _conv(f"{torchvision}conv1", f"{stem}.convolution"),
        _norm(f"{torchvision}bn1", f"{stem}.normalization"),
    ]
    for stage in (1, 2, 3, 4):
        left, right = f"{torchvision}layer{stage}.{{B}}", f"{native}encoder.stages.{stage - 1}.layers.{{B}}"
        for j in (1, 2, 3):  # blocks of ResNet-18 and 34 have two convolutions
            rules += [
                _conv(f"{left}.conv{j}", f"{right}.layer.{j - 1}.convolution", optional=j == 3),
                _norm(f"{left}.bn{j}", f"{right}.layer.{j - 1}.normalization", optional=j == 3),
            ]
        shortcut = f"{right}.shortcut"
        names = (f"{shortcut}.convolution", f"{shortcut}.normalization")
        rules += _shortcut(f"{left}.downsample", names, optional=stage == 1)
    return rules
