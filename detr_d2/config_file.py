"""Config files in YAML, read as data: detectron2's own reader runs the code that a file, or one of its bases, names.

Every file along `_BASE_` is judged by itself. All may hold plain YAML and `!!python/tuple`. The files of the model zoo
in the installed detectron2 may also hold the list that its Base-RetinaNet.yaml has as an expression, which is computed
from its syntax tree.
"""

from __future__ import annotations

import ast
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.error import URLError
from urllib.parse import urljoin

import detectron2
import yaml
from detectron2.utils.file_io import PathManager

from .downloads import download, is_url
from .renamed_keys import translate_keys

_BASE = "_BASE_"
_ZOO = os.path.join(os.path.dirname(detectron2.__file__), "model_zoo", "configs")

# The largest config of detectron2 has 500 values and bases four deep. Aliases count each time that they are used.
_MOST_VALUES = 100_000
_MOST_FILES = 50

_TUPLE = "tag:yaml.org,2002:python/tuple"
_EVAL = "tag:yaml.org,2002:python/object/apply:eval"
_MERGE = "tag:yaml.org,2002:merge"  # of a key <<
_TEXT = "tag:yaml.org,2002:str"


class ConfigFileError(ValueError):
    """A config file is not what it should be; the message names the file."""


class _Loader(yaml.SafeLoader):
    """Plain YAML and tuples."""


class _ZooLoader(_Loader):
    """Also the expression of detectron2's model zoo."""


_Loader.add_constructor(_TUPLE, lambda loader, node: tuple(loader.construct_sequence(node, deep=True)))
_ZooLoader.add_constructor(_EVAL, lambda loader, node: _computed(*loader.construct_sequence(node)))


def readable_mismatch(text: str) -> str:
    """What yacs says of a value of another type as key, value and what was expected; any other text as it is."""
    found = re.fullmatch(
        r"Type mismatch \(<class '(\w+)'> vs\. <class '\w+'>\) with values \((.*) vs\. (.*)\) for config key: (\S+)",
        text,
        flags=re.DOTALL,
    )
    if found is None:
        return text
    kind, default, given, key = found.groups()
    example = {"tuple": "(NAME,), with the comma", "list": "[A, B]"}.get(kind, default[:100])
    return f"{key} is {given[:100]!r}, expected a value of type {kind}, such as {example}"


def load_config_file(path: str) -> dict[str, Any]:
    """Reads a config file and those that it names under `_BASE_`, whose values it overrides; keys get today's names.

    Args:
        path: a file, or another name that detectron2's `PathManager` knows, such as a URL.

    Raises:
        ConfigFileError: a file is no mapping in YAML, has a tag that is not allowed there, or stands for too much.
        FileNotFoundError: there is no such file.
    """
    return _with_bases(os.fspath(path), [], iter(range(_MOST_FILES)))


def _with_bases(path: str, above: list[str], count: Iterator[int]) -> dict[str, Any]:
    if next(count, None) is None:
        raise ConfigFileError(f"{[*above, path][0]} has more than {_MOST_FILES} files as its {_BASE}.")
    if _plain(path) in map(_plain, above):
        raise ConfigFileError(f"{path} is its own {_BASE}: name another file, or leave {_BASE} out.")
    try:
        values = _read(path)
    except FileNotFoundError as error:
        if above:
            raise FileNotFoundError(
                f"{path}, the {_BASE} of {above[-1]}, does not exist: give its path, which begins at the folder of "
                f"{above[-1]}."
            ) from error
        raise
    except IsADirectoryError as error:
        of = f", the {_BASE} of {above[-1]}," if above else ""
        raise ConfigFileError(f"{path}{of} is a folder, expected a config file in YAML.") from error
    bases = values.pop(_BASE, [])
    try:
        translate_keys(values)  # before what its bases say of the same keys
    except ValueError as error:
        raise ConfigFileError(f"{path}: {error}") from error
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise ConfigFileError(f"{path}: {_BASE} is {base!r:.100}, expected the path of a file or a list of paths.")
        _merge(_with_bases(_resolved(base, path), [*above, path], count), merged, path)
    _merge(values, merged, path)
    return merged


def _resolved(base: str, path: str) -> str:
    """The path of a base, which may be relative to the file that names it."""
    base = os.path.expanduser(base)
    if os.path.isabs(base) or "://" in base:
        return base
    return urljoin(path, base) if is_url(path) else os.path.join(os.path.dirname(path), base)


def _plain(path: str) -> str:
    """The same for every way to write a path."""
    return path if "://" in path else os.path.realpath(path)


def _merge(values: Mapping[str, Any], into: dict[str, Any], path: str) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise ConfigFileError(
                    f"{path}: {key} has keys of its own here, but is {into[key]!r:.100} in its {_BASE}."
                )
            _merge(value, into[key], path)
        else:
            into[key] = value


def _read(path: str) -> dict[str, Any]:
    """The content of one file."""
    if is_url(path):
        path, name = _downloaded(path), path
    else:
        name = path
    try:
        with PathManager.open(path, "rb") as file:
            content = file.read()
    except URLError as error:  # of a handler that downloads
        raise ConfigFileError(f"{name} could not be downloaded ({error.reason}).") from error
    loader_class = _ZooLoader if _is_of_zoo(path) else _Loader
    try:
        loader = loader_class(content)
        try:
            node = loader.get_single_node()
            _check(node, loader_class, name)
            values = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigFileError(f"{name} is not a config, as it is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigFileError(f"{name} is not a config, as its values are nested too deeply.") from error
    except (ValueError, OverflowError) as error:  # of a number, date or expression
        raise error if isinstance(error, ConfigFileError) else ConfigFileError(f"{name}: {error}.") from error
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise ConfigFileError(f"{name} is not a config, as it {found}: expected keys such as MODEL or {_BASE}.")
    return values


def _downloaded(url: str) -> str:
    try:
        return download(url)
    except OSError as error:
        raise ConfigFileError(f"{url} could not be downloaded ({getattr(error, 'reason', None) or error}).") from error


def _is_of_zoo(path: str) -> bool:
    """Whether a file lies inside the installed detectron2's model zoo, links resolved."""
    root = os.path.realpath(_ZOO)
    return "://" not in path and os.path.realpath(path).startswith(root + os.sep)


def _check(node: yaml.Node | None, loader: type[_Loader], name: str) -> None:
    """Refuses tags that are not allowed, and aliases that stand for too much, before anything is made of them."""
    sizes: dict[int, int] = {}  # of nodes, by id; 0 while it is being counted

    def size(node: yaml.Node) -> int:
        where = f"{name}, line {node.start_mark.line + 1}"
        if sizes.get(id(node)) == 0:
            raise ConfigFileError(f"{where}: a value contains itself.")
        if id(node) not in sizes:
            _check_tag(node, loader, where)
            sizes[id(node)] = 0
            sizes[id(node)] = 1 + sum(map(size, _children(node, loader, name)))
        return sizes[id(node)]

    if node is not None and size(node) > _MOST_VALUES:
        raise ConfigFileError(f"{name} stands for more than {_MOST_VALUES:,} values: too many for a config.")


def _check_tag(node: yaml.Node, loader: type[_Loader], where: str) -> None:
    if node.tag not in loader.yaml_constructors and node.tag != _MERGE:
        cure = "code runs from the files that --import names"
        if node.tag == _EVAL:  # copied from the zoo
            cure = f"write the values out, or name the file in {_ZOO} as {_BASE}"
        raise ConfigFileError(
            f"{where}: the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is refused, since config files are data; "
            f"{cure}."
        )


def _children(node: yaml.Node, loader: type[_Loader], name: str) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        _check_keys([key for key, _ in node.value], loader, name)
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check_keys(keys: list[yaml.Node], loader: type[_Loader], name: str) -> None:
    lines: dict[str, int] = {}
    for key in keys:
        line = key.start_mark.line + 1
        where = f"{name}, line {line}"
        _check_tag(key, loader, where)
        if key.tag not in (_TEXT, _MERGE):
            found = f"{key.value!r:.100}" if isinstance(key, yaml.ScalarNode) else "made of several values"
            raise ConfigFileError(f"{where}: a key is {found}, expected text; put it into quotes.")
        if key.value in lines and key.tag != _MERGE:
            raise ConfigFileError(
                f"{where}: {key.value} is there already, in line {lines[key.value]}, and only the last would count; "
                "put all of it under one."
            )
        lines[key.value] = line


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def _computed(expression: str) -> Any:
    """The value of a list of products, quotients and powers of numbers, which may stand in a comprehension."""
    return _value(ast.parse(expression.strip(), mode="eval").body, {})


def _value(node: ast.AST, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.List(elts=items):
            return [_value(item, names) for item in items]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, names), _value(right, names))
        case ast.ListComp(elt=item, generators=[ast.comprehension(target=ast.Name(id=name), iter=values, ifs=[])]):
            return [_value(item, {**names, name: value}) for value in _value(values, names)]
    raise ValueError(f"{ast.unparse(node)!r:.100} is no number, list of numbers or product of such.")
