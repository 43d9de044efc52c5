import re
from itertools import pairwise
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

import detr_d2
from detr_d2 import add_detr_config, get_cfg


def test_twice_changes_nothing():
    cfg = get_cfg()
    cfg.MODEL.DETR.NUM_QUERIES = 7
    add_detr_config(cfg)
    assert cfg.MODEL.DETR.NUM_QUERIES == 7
    cfg.MODEL.DETR.NUM_QUERIES = 100
    assert cfg == get_cfg()


def test_completes_the_keys_of_another_plugin():
    cfg = get_detectron2_cfg()
    cfg.MODEL.DETR = CfgNode({"NUM_CLASSES": 80, "HIDDEN_DIM": 256})  # as the official wrapper adds them
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    add_detr_config(cfg)
    assert (cfg.MODEL.DETR.NUM_CLASSES, cfg.MODEL.DETR.HIDDEN_DIM, cfg.SOLVER.OPTIMIZER) == (80, 256, "ADAMW")
    assert cfg.MODEL.DETR.TRANSFORMER.NAME == "DETRTransformer"
    assert cfg.SOLVER.CLIP_GRADIENTS.FULL_MODEL is False


def test_detectron2s_keys_keep_their_values():
    cfg, original = get_cfg(), get_detectron2_cfg()

    def differing(ours: CfgNode, theirs: CfgNode, path: str = "") -> list[str]:
        found: list[str] = []
        for key, value in theirs.items():
            inner = isinstance(value, CfgNode)
            found += differing(ours[key], value, f"{path}{key}.") if inner else [path + key] * (ours[key] != value)
        return found

    assert not differing(cfg, original)


def test_every_key_has_a_sentence():
    lines = (Path(detr_d2.__file__).parent / "config.py").read_text().splitlines()
    silent = {"NUM_ENCODER_LAYERS", "NUM_DECODER_LAYERS"}  # their names say it
    for before, line in pairwise(lines):
        match = re.match(r"    (?:detr|keys)\.[A-Z_.]*?([A-Z0-9_]+) = (?!CN\(\))", line)
        if match and match[1] not in silent:
            commented = before.lstrip().startswith("#")
            same_comment = re.match(r"    (detr|keys)\.(CRITERION\.LOSS|MATCHER\.COST)_", before)
            assert commented or same_comment, line
