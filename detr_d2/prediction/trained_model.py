"""A trained model from its config and its checkpoint, with its classes; anything that does not fit is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from ..checkpoint import Checkpointer, local_file
from ..checkpoint.class_head import coco_ids_of, keep_coco_classes, num_classes
from ..checkpoint.reading.open import read_model_file
from ..checkpoint.renaming import to_detectron2
from ..class_names import listed, match_classes, require_same_classes
from ..data import register_datasets
from ..data.registration import is_panoptic
from ..modeling import build_model
from .categories import Categories
from .detector_keys import get_num_classes, num_classes_of_head, set_num_classes


def load_trained_model(cfg: CfgNode, weights: str, given: Categories | None = None) -> tuple[nn.Module, Categories]:
    """Builds the model and loads all of its weights.

    Args:
        cfg: not frozen; its numbers of classes are filled in when it leaves them open.
        weights: see `detr_d2.checkpoint.local_file`; of any library whose DETR `Checkpointer` reads.
        given: the classes of the data, in any order, or the user's names for those of the model; otherwise they are
            those of the checkpoint, else of the config's dataset.

    Returns:
        The model in eval mode on `cfg.MODEL.DEVICE`, and its classes, in the order in which it predicts them.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the number of classes, or the shape or name of a weight, is not that of the config; or `given` are
            other classes than those of the checkpoint.
    """
    if not weights:
        raise ValueError("no weights are given: pass --weights, or a config whose MODEL.WEIGHTS is a trained model")
    path = local_file(weights)
    file = read_model_file(path)
    content = _under_our_names(cfg, file, path, given)
    categories = _in_order_of_model(cfg, given, content, weights) if given else _known_categories(cfg, content)
    _settle_num_classes(cfg, content, categories, weights)
    cfg.MODEL.WEIGHTS = weights
    model = build_model(cfg).eval()
    if cfg.MODEL.META_ARCHITECTURE != "DETR" and not content.get("matching_heuristics", False):
        _check_fit(model.state_dict(), content["model"], weights)
    Checkpointer(model).load_trained(path, file)
    return model, categories or Categories.numbered([f"class {i}" for i in range(get_num_classes(cfg))])


def _under_our_names(
    cfg: CfgNode, content: Mapping[str, Any], path: str, given: Categories | None
) -> Mapping[str, Any]:
    """The checkpoint under this package's names; of a class head by COCO's ids, the rows that the model will have."""
    if cfg.MODEL.META_ARCHITECTURE != "DETR":
        return content
    content, _ = to_detectron2(content, path)
    num_ids = num_classes(content) if coco_ids_of(content) else 0
    if num_ids and num_ids not in (len(given.names) if given else 0, cfg.MODEL.DETR.NUM_CLASSES):
        content = keep_coco_classes(content)
    return content


def _known_categories(cfg: CfgNode, content: Mapping[str, Any]) -> Categories | None:
    """Names from the checkpoint before those of the config's dataset; original ids where the dataset is the same."""
    names, ids = content.get("class_names"), content.get("category_ids")
    if names and ids:
        return Categories(names=tuple(names), ids=tuple(ids))
    of_dataset = _dataset_categories(cfg)
    if not names or of_dataset is None:
        return Categories.numbered(names) if names else of_dataset
    match = match_classes(names, of_dataset.names)
    return of_dataset.picked(match.to_data) if match.same_classes else Categories.numbered(names)


def _in_order_of_model(cfg: CfgNode, given: Categories, content: Mapping[str, Any], weights: str) -> Categories:
    """Classes that the user has given, in the order of the checkpoint's.

    Where that does not name its own, in the order of the config's dataset if those are the same, else as they are.

    Raises:
        ValueError: they are others, or are named by position and have a name that stands for another class.
    """
    trained = content.get("class_names")
    if not trained:
        of_dataset = None if given.by_position else _dataset_categories(cfg, quiet=True)
        match = match_classes(of_dataset.names, given.names) if of_dataset else None
        return given.picked(match.to_data) if match and match.same_classes else given
    if given.by_position and len(given.names) != len(trained):
        return given
    if given.by_position:
        places = match_classes(given.names, trained).to_data
        moved = [name for i, (name, j) in enumerate(zip(given.names, places, strict=True)) if j not in (-1, i)]
        if moved:
            raise ValueError(
                f"--classes names the classes {listed(given.names)}, but {weights} was trained on {listed(trained)}, "
                f"and has {moved[0]!r} in another place: give the names in the order of the model"
            )
        return given
    match = require_same_classes(
        trained,
        given.names,
        model_is=f"{weights} was trained on",
        data_are="the data have",
        cure="give data with the model's classes, or leave their names to the checkpoint",
        any_order=True,
    )
    things = int(content.get("num_things", 0))
    if any((i < things) != (j < things) for i, j in enumerate(match.to_data)):
        raise ValueError(
            f"the {things} things that {weights} was trained on, {listed(trained[:things])}, are not those of the "
            f"data, {listed(given.names[:things])}: correct isthing in the annotation file"
        )
    return given.picked(match.to_data)


def _dataset_categories(cfg: CfgNode, *, quiet: bool = False) -> Categories | None:
    try:
        register_datasets(cfg)
    except (OSError, ValueError) as error:
        if not quiet:
            print(f"the datasets of the config are not used for class names: {error}")
        return None
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        categories = Categories.from_metadata(MetadataCatalog.get(name), panoptic=is_panoptic(cfg))
        if categories is not None:
            return categories
    return None


def _settle_num_classes(cfg: CfgNode, content: Mapping[str, Any], categories: Categories | None, weights: str) -> None:
    """Fills in an open K, and refuses a K that the checkpoint's class names, or the user's, contradict."""
    trained = len(content["class_names"]) if content.get("class_names") else None
    if trained is not None and categories is not None and len(categories.names) != trained:
        raise ValueError(
            f"{weights} was trained on {trained} classes ({listed(content['class_names'])}), but "
            f"{len(categories.names)} are named ({listed(categories.names)}); name as many, or none"
        )
    if trained is not None and cfg.MODEL.META_ARCHITECTURE == "DETR" and get_num_classes(cfg) not in (0, trained):
        raise ValueError(
            f"{weights} was trained on {trained} classes, but MODEL.DETR.NUM_CLASSES is {get_num_classes(cfg)}; "
            "give the config of the training, or set NUM_CLASSES to 0"
        )
    if trained is not None:
        set_num_classes(cfg, trained)
        if is_panoptic(cfg) and cfg.MODEL.DETR.PANOPTIC.NUM_THINGS == 0 and "num_things" in content:
            keys = cfg.MODEL.DETR.PANOPTIC
            keys.NUM_THINGS, keys.LAYOUT = int(content["num_things"]), str(content["panoptic_layout"])
    elif get_num_classes(cfg) == 0:
        set_num_classes(cfg, len(categories.names) if categories else num_classes_of_head(cfg, content["model"]))
    if categories is not None and get_num_classes(cfg) != len(categories.names):
        raise ValueError(
            f"the config has {get_num_classes(cfg)} classes, but {len(categories.names)} are named "
            f"({listed(categories.names)}); set NUM_CLASSES, or name the classes with --classes"
        )


def _check_fit(model: Mapping[str, Any], loaded: Mapping[str, Any], weights: str) -> None:
    """detectron2 only warns about weights it could not use; a trained model must have them all."""
    wanted = [name for name in model if not name.startswith(("pixel_mean", "pixel_std"))]
    missing = [name for name in wanted if name not in loaded and not name.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"{weights} has no values for {len(missing)} of the model's {len(wanted)} tensors, such as {missing[0]}; "
            "it is not a trained model of this config"
        )
    for name in wanted:
        if name in loaded and tuple(loaded[name].shape) != tuple(model[name].shape):
            raise ValueError(
                f"{weights} does not fit the config: {name} has shape {tuple(loaded[name].shape)} in the file and "
                f"{tuple(model[name].shape)} in the model; check NUM_CLASSES and the config file"
            )
