"""From a command line to a config that can run: everything a user can get wrong is said here, before the first step."""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ... import model_zoo
from ...config import get_cfg
from ...config_file import ConfigFileError, readable_mismatch
from ...data import register_coco, register_coco_panoptic, register_datasets, resolve_num_classes
from ...data.registration import classes_of
from ...files import check_writable, write_text
from .device import choose_device
from .launch import available_cpus, local_world_size, world_size
from .settings import check_settings

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace) -> CfgNode:
    """Makes the config of a run, frozen, with its datasets registered and its number of classes known.

    Args:
        args: what `detr_d2.commands.train.build_parser()` parses.

    Raises:
        ValueError, OSError: for whatever the user has to correct.
    """
    modules = import_user_modules(args.imports)
    cfg = load_config(args.config_file, args.opts, modules)
    add_coco_datasets(cfg, args.coco, args.coco_panoptic)
    check_output_dir(cfg.OUTPUT_DIR)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=int(os.environ.get("RANK", "0")), name="detr_d2")
    choose_device(cfg)
    warn_of_augmented_tests(cfg)
    lower_num_workers(cfg, local_world_size(args.num_gpus))
    check_batch_size(cfg, world_size(args.num_gpus, args.num_machines))
    for spec in args.coco:  # what the user has typed must be right, used or not
        register_coco(spec)
    for spec in args.coco_panoptic:
        register_coco_panoptic(spec)
    register_datasets(cfg, evaluation_only=args.eval_only)
    check_datasets_exist(cfg, evaluation_only=args.eval_only)
    resolve_classes(cfg, evaluation_only=args.eval_only)
    cfg.freeze()
    return cfg


def begin(cfg: CfgNode, args: argparse.Namespace) -> None:
    """detectron2's `default_setup`, in every process of a run, without a way to lose the config of a training.

    What evaluates in the folder of a training has its own config.yaml, in "inference" there.
    """
    path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    if args.eval_only and os.path.exists(path):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "inference")
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    if comm.is_main_process():
        write_text(path, cfg.dump())  # where the disk is full, before detectron2 empties the file that is there
    default_setup(cfg, args)


def import_user_modules(names: Sequence[str]) -> list[ModuleType]:
    """Imports modules, or python files, that register the user's own parts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no such module.
    """
    return [_import_file(Path(name)) if name.endswith(".py") else _import_module(name) for name in names]


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise ValueError(
            f"--import {name}: there is no such module; give a module on PYTHONPATH or a .py file."
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"--import {path}: there is no such file.")
    path = path.resolve()
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded  # registering the same names twice is an error
    if loaded is not None:
        raise ValueError(f"--import {path}: a module named {path.stem!r} is loaded already; rename the file.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def load_config(config_file: str, opts: Sequence[str] = (), modules: Sequence[ModuleType] = ()) -> CfgNode:
    """Reads a config file and overrides into a writable config.

    Args:
        config_file: path; or name of a config of detr_d2 ("detr_r50.yaml"); or of detectron2's model zoo.
        opts: KEY VALUE KEY VALUE ...
        modules: those that have a function `add_config(cfg)` add keys of their own first.

    Raises:
        FileNotFoundError: if there is no such config.
        ValueError: if a key is unknown, or a value is of the wrong type or one that nothing can work with.
    """
    cfg = get_cfg()
    for module in modules:
        if hasattr(module, "add_config"):
            module.add_config(cfg)
    path = find_config_file(config_file) if config_file else None
    try:
        if path is not None:
            cfg.merge_from_file(path)
    except ConfigFileError:
        raise
    except (KeyError, ValueError, AssertionError, AttributeError) as error:
        raise ValueError(f"{path} is not a config of detectron2 or detr_d2: {_text(error, cfg)}") from error
    opts = [x for x in opts if x != "--"]
    late = next((x for x in opts if x.startswith("--")), None)
    if late is not None:
        raise ValueError(f"{late} stands behind the overrides KEY VALUE ...: options come first, overrides last.")
    if len(opts) % 2:
        raise ValueError(f"the overrides {list(opts)} are not pairs of KEY VALUE.")
    try:
        cfg.merge_from_list(list(opts))
    except (KeyError, ValueError, AssertionError) as error:
        raise ValueError(f"the overrides {list(opts)} do not fit the config: {_text(error, cfg)}") from error
    check_settings(cfg)
    return cfg


def find_config_file(name: str) -> str:
    """Path of a config file; see `load_config`."""
    if os.path.isfile(name):
        return name
    if os.path.exists(name):
        raise ValueError(f"{name} is a folder, expected a config file in YAML.")
    try:
        return model_zoo.get_config_file(name)
    except ValueError as error:
        problem = error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        from detectron2 import model_zoo as detectron2_zoo
    try:
        return detectron2_zoo.get_config_file(name)
    except RuntimeError:
        raise FileNotFoundError(
            f"there is no file {name}, no such config in detectron2's model zoo, and {problem}"
        ) from None


def _text(error: Exception, cfg: CfgNode) -> str:
    """What the error says, and for a key that does not exist those that look like it."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = readable_mismatch(text)
    if "CfgNode'>" in text:  # which is followed by all of its values
        text = re.sub(r" with values \(.*\) for", " for", text, flags=re.DOTALL)
    unknown = re.search(r"[Nn]on-existent (?:config )?key: ([\w.]+)", text)
    similar = difflib.get_close_matches(unknown[1], _keys(cfg)) if unknown is not None else []
    return f"{text}; similar keys: {', '.join(similar)}" if similar else text


def _keys(node: CfgNode, prefix: str = "") -> list[str]:
    """Dotted names of all values of a config."""
    keys = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        keys += _keys(value, f"{name}.") if isinstance(value, CfgNode) else [name]
    return keys


def add_coco_datasets(cfg: CfgNode, specs: Sequence[str], panoptic_specs: Sequence[str] = ()) -> None:
    """Adds `--coco` to `DATASETS.COCO` and `--coco-panoptic` to `DATASETS.COCO_PANOPTIC`.

    A name given again replaces the config's, whichever list it stands in.
    """
    names = {spec.partition("=")[0] for spec in (*specs, *panoptic_specs)}
    for key, added in (("COCO", specs), ("COCO_PANOPTIC", panoptic_specs)):
        cfg.DATASETS[key] = [x for x in cfg.DATASETS[key] if x.partition("=")[0] not in names] + list(added)


def check_output_dir(path: str) -> None:
    """Makes the output folder and writes a file into it.

    Raises:
        ValueError: if that fails.
    """
    try:
        check_writable(path, "OUTPUT_DIR {folder} cannot be written to ({reason}); set it to a folder that can.")
    except OSError as error:
        raise ValueError(str(error)) from error


def warn_of_augmented_tests(cfg: CfgNode) -> None:
    """Says that `TEST.AUG` does nothing, where it was asked for."""
    if not cfg.TEST.AUG.ENABLED:
        return
    name = cfg.MODEL.META_ARCHITECTURE
    has = "detectron2 has it" if name == "GeneralizedRCNN" else "there is none"
    logger.warning(
        f"TEST.AUG.ENABLED is True, but test-time augmentation is left out here ({has} for {name}): every image is "
        "evaluated once, at INPUT.MIN_SIZE_TEST."
    )


def lower_num_workers(cfg: CfgNode, num_processes: int) -> None:
    """Lowers detectron2's default of `DATALOADER.NUM_WORKERS` to the CPUs of each process; other values stay."""
    workers, cpus = cfg.DATALOADER.NUM_WORKERS, max(1, available_cpus() // max(1, num_processes))
    if workers == get_detectron2_cfg().DATALOADER.NUM_WORKERS and workers > cpus:
        cfg.DATALOADER.NUM_WORKERS = cpus
        logger.info(f"DATALOADER.NUM_WORKERS is {cpus} instead of {workers}: each process has {cpus} CPUs.")


def check_batch_size(cfg: CfgNode, num_processes: int) -> None:
    """Raises ValueError if the processes cannot share a micro-batch evenly."""
    if num_processes < 1:
        raise ValueError(f"--num-gpus is {num_processes}, expected 1 or more (without a GPU it counts CPU processes).")
    if cfg.SOLVER.ACCUM_STEPS < 1:
        raise ValueError(f"SOLVER.ACCUM_STEPS is {cfg.SOLVER.ACCUM_STEPS}, expected 1 or more.")
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE or num_processes
    batch = cfg.SOLVER.IMS_PER_BATCH
    if batch < 1 or batch % reference:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {batch}, expected a multiple of the {reference} processes that share it."
        )


def resolve_classes(cfg: CfgNode, *, evaluation_only: bool) -> None:
    """`resolve_num_classes`; evaluation does without training data that is not there."""
    train = cfg.DATASETS.TRAIN
    if evaluation_only:
        cfg.DATASETS.TRAIN = tuple(name for name in train if _is_there(name))
    resolve_num_classes(cfg)
    cfg.DATASETS.TRAIN = train


def _is_there(name: str) -> bool:
    """Whether the classes of a dataset can be read."""
    if name not in DatasetCatalog:
        return False
    try:
        classes_of(name)
    except (ValueError, OSError) as error:
        logger.info("The evaluation does without the training data: %s", error)
        return False
    return True


def check_datasets_exist(cfg: CfgNode, *, evaluation_only: bool) -> None:
    """Raises ValueError if `DATASETS.TRAIN` or `DATASETS.TEST` names a dataset that is not registered."""
    known = set(DatasetCatalog.list())
    for key in ("TEST",) if evaluation_only else ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            if name not in known:
                raise ValueError(
                    f"DATASETS.{key} names {name!r}, which is not registered: add "
                    f"--coco {name}=annotations.json:image_folder, or --import the file that registers it."
                )
    if not evaluation_only and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name the datasets to train on.")
    if evaluation_only and not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name the datasets to evaluate on.")
