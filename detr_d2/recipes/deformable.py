"""The recipe of Deformable DETR, as what differs from DETR's.

Paper: Deformable DETR: Deformable Transformers for End-to-End Object Detection (Zhu et al. 2021, arXiv 2010.04159).
Sources that are file names are those of the authors' code, fundamentalvision/Deformable-DETR at commit 11169a6.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .detr import DETR_RECIPE, schedule_mark
from .settings import DIFFERS, Recipe, Run, Setting

_LR, _BATCH = 2e-4, 32
_PAPER, _APPENDIX, _MAIN = "paper, Sec. 5", "paper, appendix A.4", "main.py"
_D = "MODEL.DETR"


def _learning_rate(run: Run) -> str:
    lr = run.cfg.SOLVER.BASE_LR
    if run.batch != _BATCH and abs(lr * _BATCH / (_LR * run.batch) - 1) < 0.01:
        return f"it is the paper's {_LR:g} scaled linearly from {_BATCH} to {run.batch} images."
    return "another rate than the published models were trained with."


def _softmax_only(key: str) -> Any:
    """Reads a key that plays no part in the focal loss."""
    return lambda run: run.get(key) if run.cfg.MODEL.DETR.CRITERION.CLASSIFICATION == "softmax" else None


# By the name of DETR's setting: the paper's value, its source, and another effect where it has one.
_CHANGES: dict[str, dict[str, Any]] = {
    "backbone": {"paper": ("ResNet-50",), "source": _PAPER},
    "feature map": {"name": "feature maps", "paper": (("res3", "res4", "res5"), ("res5",)), "source": _PAPER},
    "position encoding": {
        "paper": ("sine, temperature 10000, offset -0.5",),
        "source": "models/position_encoding.py",
    },
    "transformer": {"paper": ("DeformableTransformer",), "source": _PAPER},
    "feed-forward width": {"paper": (1024,)},
    "queries": {"paper": (300,), "source": _PAPER},
    "head": {"paper": ("ReferenceHead",), "source": _APPENDIX},
    "classes": {"source": "models/deformable_detr.py"},
    "classification": {"paper": ("focal",), "source": _PAPER},
    "loss weights: class, L1, GIoU": {"paper": ((2.0, 5.0, 2.0),), "source": _PAPER},
    "matcher costs: class, L1, GIoU": {"paper": ((2.0, 5.0, 2.0),), "source": _MAIN},
    "no-object weight": {"read": _softmax_only(f"{_D}.CRITERION.NO_OBJECT_WEIGHT"), "source": "paper of DETR"},
    "cross-entropy mean over": {"read": _softmax_only(f"{_D}.CRITERION.CE_NORM"), "source": "paper of DETR"},
    "class weights": {"source": _MAIN},
    "learning rate": {"paper": (_LR,), "source": _PAPER, "effect": _learning_rate},
    "backbone learning rate factor": {
        "source": _MAIN,
        "effect": "the pretrained backbone learns at another pace than the authors' 2e-5.",
    },
    "slow parameters": {
        "paper": (("reference_points", "sampling_offsets"),),
        "source": _PAPER,
        "effect": "reference points and sampling offsets learn at another pace than a tenth of the rate.",
    },
    "images a step": {
        "paper": (_BATCH,),
        "source": "README.md",
        "effect": "other gradient noise and steps an epoch; the learning rate does not follow by itself.",
        "mark": DIFFERS,
    },
    "schedule": {
        "paper": ("50.0 epochs, x 0.1 after 40.0 epochs",),
        "source": _PAPER,
        "effect": "the published AP is of 50 epochs with one drop after 40.",
        "mark": schedule_mark,
    },
}

_NEW = [
    Setting("feature levels", f"{_D}.NUM_FEATURE_LEVELS", (4, 1), _PAPER, "the transformer sees other scales."),
    Setting("neck", f"{_D}.NECK.NAME", ("ChannelMapper",), _APPENDIX, "maps are projected otherwise."),
    Setting("sampling points", f"{_D}.TRANSFORMER.DEFORMABLE.NUM_POINTS", (4,), _PAPER,
            "each head looks at other points."),
    Setting("mixed query selection", f"{_D}.TRANSFORMER.DEFORMABLE.MIXED_SELECTION", (False,), _APPENDIX,
            "contents of queries are learned, only their places are proposed, and the published weights do not fit."),
    Setting("slow parameters' factor", "SOLVER.SLOW_MULTIPLIER", (0.1,), _PAPER, "they learn at another pace."),
]  # fmt: skip


def _settings() -> list[Setting]:
    unknown = _CHANGES.keys() - {setting.name for setting in DETR_RECIPE.settings}
    assert not unknown, unknown
    return [*(_inherited(setting, _CHANGES.get(setting.name, {})) for setting in DETR_RECIPE.settings), *_NEW]


def _inherited(setting: Setting, changes: dict[str, Any]) -> Setting:
    """A setting of DETR, whose source and effect are called DETR's where the paper of Deformable DETR has none."""
    if "source" not in changes:
        changes = {"source": f"as DETR: {setting.source}", **changes}
    if "effect" not in changes and isinstance(setting.effect, str):
        changes = {"effect": setting.effect.replace("the paper", "DETR's paper"), **changes}
    return replace(setting, **changes)


DEFORMABLE_RECIPE = Recipe("Deformable DETR (Zhu et al. 2021)", _settings())
