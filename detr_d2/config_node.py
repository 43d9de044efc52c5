"""detr_d2's config: detectron2's, that reads files as data and knows the old names of keys."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detectron2_cfg

from .config_file import ConfigFileError, load_config_file
from .renamed_keys import translate_keys, translate_overrides


class CfgNode(CN):
    """detectron2's config, whose `merge_from_file` runs nothing that a file says; it knows the old names of keys.

    Only the root of a config is of this class. Nodes that are merged must be of one class, and those of users' own keys
    are detectron2's; so all below the root are.
    """

    def __init__(
        self, init_dict: Mapping[str, Any] | None = None, key_list: list[str] | None = None, new_allowed: bool = False
    ) -> None:
        super().__init__(None, key_list, new_allowed)
        self.update(CN(dict(init_dict or {}), key_list))

    def merge_from_other_cfg(self, cfg_other: CN) -> None:
        """As detectron2's; keys may have old names."""
        other = copy.deepcopy(cfg_other)
        translate_keys(other)
        self._change(lambda node: node.merge_from_other_cfg(other))

    def merge_from_list(self, cfg_list: list[Any]) -> None:
        """As detectron2's; keys may have old names."""
        self._change(lambda node: node.merge_from_list(translate_overrides(cfg_list)))

    def _change(self, change: Callable[[CN], object]) -> None:
        """Changes a node of detectron2's class that has the same nodes below it, and takes over its values."""
        node = CN()
        node.update(self)
        vars(node).update(vars(self))  # whether it is frozen, and the like
        change(node)
        self.update(node)

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:  # noqa: ARG003
        """`load_config_file`; detectron2 sets `allow_unsafe` where nobody has said so, so that it means nothing."""
        values = load_config_file(filename)
        for name, default in get_detectron2_cfg().items():
            if isinstance(default, CN) and not isinstance(values.get(name, {}), dict):
                raise ConfigFileError(f"{filename}: {name} is {values[name]!r:.100}, expected keys of its own.")
        return values
