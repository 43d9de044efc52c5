"""Class names of a model and of data, compared wherever the two meet: matched by name, or refused with both lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

_MOST_NAMED = 10  # names of one list in one message


STUFF_NAMES = {
    x["name"]: x["name"].replace("-other", "").replace("-merged", "") for x in COCO_CATEGORIES if not x["isthing"]
}
"""Stuff as COCO's files call it -> as detectron2 does, without what tells that COCO has merged several kinds."""


def plain_name(name: str) -> str:
    """A name as it is compared: capitals, underscores, hyphens and the two names of COCO's stuff make no difference."""
    name = STUFF_NAMES.get(name, name)
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def checked_names(names: Any, dataset: str) -> list[str] | None:
    """The `thing_classes` of a dataset's metadata; None where there are none.

    Raises:
        ValueError: they are no list of texts.
    """
    if names is None or (isinstance(names, list | tuple) and names and all(isinstance(x, str) for x in names)):
        return names  # type: ignore[return-value]  # a tuple of them stays the object that it is
    raise ValueError(
        f"thing_classes in the metadata of dataset {dataset} is {names!r:.200}, expected a list of the classes' names, "
        "in the order of their indices"
    )


@dataclass(frozen=True)
class ClassMatch:
    """Which classes of a model are which classes of the data.

    Attributes:
        to_data: for each class of the model its index in the data, -1 where the data do not have it.
        only_model: names that the data do not have.
        only_data: names that the model does not have.
        repeated: names that stand for several classes of one list, so that lists of different order cannot be matched.
    """

    to_data: tuple[int, ...]
    only_model: tuple[str, ...] = ()
    only_data: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

    @property
    def same_order(self) -> bool:
        """Whether both have the same classes in the same order."""
        return self.same_classes and self.to_data == tuple(range(len(self.to_data)))

    @property
    def same_classes(self) -> bool:
        """Whether both have the same classes, in whatever order, and it is clear which is which."""
        return not (self.only_model or self.only_data or self.repeated)


def match_classes(model: Sequence[str], data: Sequence[str]) -> ClassMatch:
    """Finds the classes of a model among those of data, by name.

    Args:
        model: K names, in the order of the class indices that it predicts.
        data: names, in the order of the data's class indices.
    """
    theirs, own = _keys(model, data)
    if theirs == own:
        return ClassMatch(tuple(range(len(model))))
    index = {key: i for i, key in reversed(list(enumerate(own)))}
    known = set(theirs)
    twice = {key for keys in (theirs, own) for key, count in Counter(keys).items() if count > 1}
    named = [*zip(model, theirs, strict=True), *zip(data, own, strict=True)]
    return ClassMatch(
        to_data=tuple(index.get(key, -1) for key in theirs),
        only_model=tuple(name for name, key in zip(model, theirs, strict=True) if key not in index),
        only_data=tuple(name for name, key in zip(data, own, strict=True) if key not in known),
        repeated=tuple(dict.fromkeys(name for name, key in named if key in twice)),
    )


def _keys(*lists: Sequence[str]) -> list[list[str]]:
    """What is compared: the plain names, or the names as they are where plain ones would make one of two classes."""
    plain = [[plain_name(name) for name in names] for names in lists]
    told_apart = all(len(set(keys)) == len(set(names)) for keys, names in zip(plain, lists, strict=True))
    return plain if told_apart else [list(names) for names in lists]


def require_same_classes(
    model: Sequence[str], data: Sequence[str], *, model_is: str, data_are: str, cure: str, any_order: bool = False
) -> ClassMatch:
    """The match of two lists that must hold the same classes.

    Args:
        model, data: names.
        model_is: how the message begins, such as "a.pth was trained on".
        data_are: the other half, such as "dataset val has".
        cure: what to do.
        any_order: whether the caller can work with another order.

    Raises:
        ValueError: they do not, or stand in another order, or cannot be told apart; the message holds both lists.
    """
    match = match_classes(model, data)
    if match.same_order or (any_order and match.same_classes):
        return match
    raise ValueError(
        f"{model_is} the classes {listed(model)}, but {data_are} {listed(data)} ({_difference(match)}): {cure}"
    )


def listed(names: Sequence[str], most: int = _MOST_NAMED) -> str:
    """Names for a message, the first of many."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _difference(match: ClassMatch) -> str:
    parts = []
    if match.only_model:
        parts.append(f"only the former: {listed(match.only_model)}")
    if match.only_data:
        parts.append(f"only the latter: {listed(match.only_data)}")
    if match.repeated:
        parts.append(f"a name of several classes: {listed(match.repeated)}")
    return "; ".join(parts) or "the same names in another order"
