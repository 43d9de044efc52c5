"""Renaming checkpoints by tables of rules that read in both directions and let nothing slip through.

A table lists how every tensor of one layout ("left") is called in another ("right"). Applying it is strict: a rule that
finds nothing, a layer that lacks a tensor that others have, a name that is made twice and a tensor that no rule
mentions are errors.

Names in rules are templates. Placeholders in capitals stand for numbers: `{L}`, `{B}`, `{C}` and `{N}` count from 0,
`{J}` from anywhere. `{p}` stands for the parts of a module (`weight`, `bias`), others for one part of a name without
dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

StateDict = Mapping[str, Tensor]
Conversion = tuple[Sequence[str], Sequence[str], Sequence[Tensor]]
"""Names read, names made, and their tensors."""

WEIGHT = ("weight",)
WEIGHT_AND_BIAS = ("weight", "bias")
NORM = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"  # of batch norms that are trained


class ConversionError(ValueError):
    """A checkpoint that its table of rules does not describe."""


class Rule:
    """How some tensors are called in two layouts.

    Attributes:
        optional: whether finding nothing is no error.
    """

    optional: bool

    def __call__(self, state: StateDict, *, reverse: bool) -> Iterator[Conversion]:
        """Yields what the rule makes of a left state dict, or with `reverse` of a right one."""
        raise NotImplementedError

    def counted(self, *, reverse: bool) -> str | None:  # noqa: ARG002
        """The template whose first number has the same values in all rules that begin alike; None for any values."""
        return None


@dataclass(frozen=True)
class Rename(Rule):
    """One tensor on both sides.

    Args:
        left, right: templates with the same placeholders.
        optional: no error if there is no such tensor.
        reverse_only: an older name on the right, which is read but not written.
        parts: what `{p}` stands for, all of it wherever there is some; a `COUNTER` may be there as well.
        some_layers: only some of the layers or blocks have it.
    """

    left: str
    right: str
    optional: bool = False
    reverse_only: bool = False
    parts: tuple[str, ...] = WEIGHT_AND_BIAS
    some_layers: bool = False

    def __call__(self, state: StateDict, *, reverse: bool) -> Iterator[Conversion]:
        if self.reverse_only and not reverse:
            return
        source, target = (self.right, self.left) if reverse else (self.left, self.right)
        found = {name: values for name, values in matches(source, state) if self._has(values)}
        if found:
            _check_complete(source, list(found.values()), self.parts)
        for name, values in found.items():
            yield [name], [target.format(**values)], [state[name]]

    def _has(self, values: Mapping[str, str]) -> bool:
        return "p" not in values or values["p"] in (*self.parts, COUNTER)

    def counted(self, *, reverse: bool) -> str | None:
        return None if self.some_layers or self.reverse_only else (self.right if reverse else self.left)

    def __str__(self) -> str:
        return f"{self.left} <-> {self.right}"


@dataclass(frozen=True)
class Stack(Rule):
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

    def counted(self, *, reverse: bool) -> str | None:
        return self.right[0] if reverse else self.left

    def __str__(self) -> str:
        return f"{self.left} <-> {', '.join(self.right)}"


@dataclass(frozen=True)
class Drop(Rule):
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
class Shared(Rule):
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
        if groups:
            _check_complete(source[0], [dict(key) for key in groups], WEIGHT_AND_BIAS)
        numbers = sorted({int(values["C"]) for _, values in matches(self.copies[reverse], state)})
        for key, names in groups.items():
            different = [name for name in names if not torch.equal(state[name], state[names[0]])]
            if different:
                raise ConversionError(f"{names[0]} and {different[0]} must be the same tensor, but differ")
            places = [(x, n) for x in target for n in (numbers if "{C}" in x else [0])]
            made = list(dict.fromkeys(template.format(**dict(key), C=number) for template, number in places))
            yield names, made, [state[names[0]].clone() for _ in made]

    def __str__(self) -> str:
        return f"{', '.join(self.left)} <-> {', '.join(self.right)}"


@dataclass
class _Table:
    """What applying a table has found so far."""

    read: set[str] = field(default_factory=set)
    made: dict[str, Tensor] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    # Beginning of a template up to its first number -> template -> values of that number.
    counts: dict[str, dict[str, set[int]]] = field(default_factory=dict)


def apply_rules(state: StateDict, rules: Iterable[Rule], *, source: str, reverse: bool = False) -> dict[str, Tensor]:
    """Renames a state dict.

    Args:
        state: in the left layout, or with `reverse` in the right one.
        rules: the whole table.
        source: what the state dict is, for messages.
        reverse: read the table from right to left.

    Raises:
        ConversionError: if a rule that is not optional finds nothing, tensors are missing or left over, or a name is
            read or made twice.
    """
    table = _Table()
    try:
        for rule in rules:
            _apply(rule, state, table, reverse=reverse)
        _check_counts(table)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}.") from error
    left_over = [name for name in state if name not in table.read]
    if table.idle or left_over:
        raise ConversionError(f"{source}: {_describe(table.idle, left_over)}.")
    return table.made


def _apply(rule: Rule, state: StateDict, table: _Table, *, reverse: bool) -> None:
    found = False
    for names, targets, tensors in rule(state, reverse=reverse):
        found = True
        twice = [name for name in names if name in table.read] + [name for name in targets if name in table.made]
        if twice:
            raise ConversionError(f"the rule {rule} meets {twice[0]}, which another rule has dealt with")
        table.read.update(names)
        table.made.update(zip(targets, tensors, strict=True))
    if not found:
        table.idle += [] if rule.optional else [str(rule)]
        return
    template = rule.counted(reverse=reverse)
    number = re.search(r"\{([A-Z])\}", template) if template else None
    if template and number and number[1] != "J":
        values = {int(values[number[1]]) for _, values in matches(template, state)}
        table.counts.setdefault(template[: number.start()], {})[template] = values


def _check_counts(table: _Table) -> None:
    """Whatever counts something has a tensor for each number from 0 to the last."""
    for templates in table.counts.values():
        expected = set(range(max(set().union(*templates.values())) + 1))
        for template, values in templates.items():
            if values != expected:
                number = min(expected - values)
                raise ConversionError(f"there is no {re.sub('{[A-Z]}', str(number), template, count=1)}")


def _check_complete(template: str, found: Sequence[Mapping[str, str]], parts: Sequence[str]) -> None:
    """Every combination of the placeholders' values must be there, and every part of a module."""
    names = [name for name in found[0] if name not in ("p", "C")]
    axes = [sorted({values[name] for values in found}) for name in names]
    there = {(*(values[name] for name in names), values.get("p", "")) for values in found}
    combinations: list[tuple[str, ...]] = [()]
    for axis in [*axes, list(parts) if "p" in found[0] else [""]]:
        combinations = [(*head, value) for head in combinations for value in axis]
    for combination in combinations:
        if combination not in there:
            values = {**dict(zip(names, combination, strict=False)), "p": combination[-1]}
            raise ConversionError(f"there is no {template.replace('{C}', '0').format(**values)}")


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
