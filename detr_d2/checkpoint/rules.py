"""Renaming checkpoints by tables of rules that read in both directions and let nothing slip through.

A table lists how every tensor of one layout ("left") is called in another ("right"). Applying it is strict: a rule that
finds nothing, a name that is made twice and a tensor that no rule mentions are errors.

Names in rules are templates: `{L}` (upper case) stands for a number, `{p}` (lower case) for one part of a name without
dots, such as `weight`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

StateDict = Mapping[str, Tensor]
Conversion = tuple[Sequence[str], Sequence[str], Sequence[Tensor]]
"""Names read, names made, and their tensors."""


class ConversionError(ValueError):
    """A checkpoint that its table of rules does not describe."""


class Rule(Protocol):
    """How some tensors are called in two layouts."""

    @property
    def optional(self) -> bool:
        """Whether finding nothing is no error."""
        ...

    def __call__(self, state: StateDict, *, reverse: bool) -> Iterator[Conversion]:
        """Yields what the rule makes of a left state dict, or with `reverse` of a right one."""
        ...


@dataclass(frozen=True)
class Rename:
    """One tensor on both sides.

    Args:
        left, right: templates with the same placeholders.
        optional: no error if there is no such tensor.
        reverse_only: an older name on the right, which is read but not written.
    """

    left: str
    right: str
    optional: bool = False
    reverse_only: bool = False

    def __call__(self, state: StateDict, *, reverse: bool) -> Iterator[Conversion]:
        if self.reverse_only and not reverse:
            return
        source, target = (self.right, self.left) if reverse else (self.left, self.right)
        for name, values in matches(source, state):
            yield [name], [target.format(**values)], [state[name]]

    def __str__(self) -> str:
        return f"{self.left} <-> {self.right}"


@dataclass(frozen=True)
class Stack:
    """One tensor on the left, on the right its parts of equal size along the first axis.

    Args:
        left: template.
        right: templates of the parts, in order, with the same placeholders.
        optional: no error if there is no such tensor.
    """

    left: str
    right: tuple[str, ...]
    optional: bool = False

    def __call__(self, state: StateDict, *, reverse: bool) -> Iterator[Conversion]:
        for name, values in matches(self.right[0] if reverse else self.left, state):
            parts = [part.format(**values) for part in self.right]
            if not reverse:
                yield [name], parts, [part.clone() for part in state[name].chunk(len(parts))]
            elif all(part in state for part in parts):
                yield parts, [self.left.format(**values)], [torch.cat([state[part] for part in parts])]

    def __str__(self) -> str:
        return f"{self.left} <-> {', '.join(self.right)}"


@dataclass(frozen=True)
class Drop:
    """A tensor that one side has and the other has no use for.

    Args:
        template: its name.
        on_right: which side has it.
    """

    template: str
    on_right: bool = False
    optional: bool = True

    def __call__(self, state: StateDict, *, reverse: bool) -> Iterator[Conversion]:
        if reverse == self.on_right:
            for name, _ in matches(self.template, state):
                yield [name], [], []

    def __str__(self) -> str:
        return f"{self.template} -> nothing"


@dataclass(frozen=True)
class Shared:
    """One tensor that a side may hold under several names, which must then have equal values.

    All names of the target are made, whichever of the source's are there.

    Args:
        left, right: templates; `{C}` counts names for the same tensor, other placeholders tell tensors apart and are
            the same on both sides.
        copies: template that has as many names as `{C}` has values, on the left and on the right.
        optional: no error if there is no such tensor.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    copies: tuple[str, str]
    optional: bool = False

    def __call__(self, state: StateDict, *, reverse: bool) -> Iterator[Conversion]:
        source, target = (self.right, self.left) if reverse else (self.left, self.right)
        groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for template in source:
            for name, values in matches(template, state):
                key = tuple(sorted((x, value) for x, value in values.items() if x != "C"))
                groups.setdefault(key, []).append(name)
        numbers = sorted({int(values["C"]) for _, values in matches(self.copies[reverse], state)})
        for key, names in groups.items():
            different = [name for name in names if not torch.equal(state[name], state[names[0]])]
            if different:
                raise ConversionError(f"{names[0]} and {different[0]} must be the same tensor, but differ.")
            places = [(x, n) for x in target for n in (numbers if "{C}" in x else [0])]
            made = list(dict.fromkeys(template.format(**dict(key), C=number) for template, number in places))
            yield names, made, [state[names[0]].clone() for _ in made]

    def __str__(self) -> str:
        return f"{', '.join(self.left)} <-> {', '.join(self.right)}"


def apply_rules(state: StateDict, rules: Iterable[Rule], *, source: str, reverse: bool = False) -> dict[str, Tensor]:
    """Renames a state dict.

    Args:
        state: in the left layout, or with `reverse` in the right one.
        rules: the whole table.
        source: what the state dict is, for messages.
        reverse: read the table from right to left.

    Raises:
        ConversionError: if a rule that is not optional finds nothing, a name is read or made twice, or tensors are left
            over.
    """
    read: set[str] = set()
    made: dict[str, Tensor] = {}
    idle: list[str] = []
    for rule in rules:
        found = False
        for names, targets, tensors in _conversions(rule, state, source, reverse=reverse):
            found = True
            twice = [name for name in names if name in read] + [name for name in targets if name in made]
            if twice:
                raise ConversionError(f"{source}: the rule {rule} meets {twice[0]}, which another rule has dealt with.")
            read.update(names)
            made.update(zip(targets, tensors, strict=True))
        if not found and not rule.optional:
            idle.append(str(rule))
    left_over = [name for name in state if name not in read]
    if idle or left_over:
        raise ConversionError(f"{source}: {_describe(idle, left_over)}.")
    return made


def _conversions(rule: Rule, state: StateDict, source: str, *, reverse: bool) -> Iterator[Conversion]:
    try:
        yield from rule(state, reverse=reverse)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}") from error


def _describe(idle: Sequence[str], left_over: Sequence[str]) -> str:
    problems = []
    if idle:
        problems.append(f"{len(idle)} rules find nothing, such as {idle[0]}")
    if left_over:
        problems.append(f"{len(left_over)} tensors are unknown, such as {left_over[0]}")
    return "; ".join(problems)


def matches(template: str, names: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the names that a template describes, each with the values of its placeholders."""
    pattern = _compile(template)
    for name in names:
        if match := pattern.fullmatch(name):
            yield name, match.groupdict()


def _compile(template: str) -> re.Pattern[str]:
    literal, placeholders = re.split(r"\{\w+\}", template), re.findall(r"\{(\w+)\}", template)
    pattern = re.escape(literal[0])
    for name, text in zip(placeholders, literal[1:], strict=True):
        pattern += f"(?P<{name}>{r'[0-9]+' if name.isupper() else '[^.]+'})" + re.escape(text)
    return re.compile(pattern)
