"""Tables of rules: both directions, and an error for whatever they do not describe."""

from __future__ import annotations

import pytest
import torch

from detr_d2.checkpoint.rules import ConversionError, Drop, Rename, Rule, Stack, apply_rules

RULES: list[Rule] = [
    Rename("block.{L}.conv{J}.{p}", "stage.{L}.layer.{J}.{p}"),
    Stack("attn.{L}.w", ("attn.{L}.q", "attn.{L}.k", "attn.{L}.v")),
    Rename("extra.{p}", "more.{p}", optional=True),
    Rename("extra.{p}", "old.{p}", optional=True, reverse_only=True),
    Drop("junk"),
]


def left() -> dict[str, torch.Tensor]:
    return {
        "block.0.conv1.weight": torch.tensor([1.0]),
        "block.12.conv2.bias": torch.tensor([2.0]),
        "attn.3.w": torch.arange(6.0).view(6, 1),
    }


def test_names_and_stacks_go_there_and_back() -> None:
    right = apply_rules(left(), RULES, source="x")
    assert set(right) == {"stage.0.layer.1.weight", "stage.12.layer.2.bias", "attn.3.q", "attn.3.k", "attn.3.v"}
    assert right["attn.3.k"].tolist() == [[2.0], [3.0]]
    assert right["stage.12.layer.2.bias"].tolist() == [2.0]
    back = apply_rules(right, RULES, source="x", reverse=True)
    assert back.keys() == left().keys()
    assert all(torch.equal(back[name], value) for name, value in left().items())


def test_parts_of_a_stack_do_not_share_memory_with_it() -> None:
    state = left()
    right = apply_rules(state, RULES, source="x")
    right["attn.3.q"].zero_()
    assert state["attn.3.w"][1].item() == 1.0


def test_an_old_name_is_read_and_not_written() -> None:
    right = {**apply_rules(left(), RULES, source="x"), "old.a": torch.tensor([5.0])}
    made = apply_rules(right, RULES, source="x", reverse=True)
    assert made["extra.a"].item() == 5.0
    again = apply_rules(made, RULES, source="x")
    assert "more.a" in again
    assert "old.a" not in again


def test_what_one_side_has_no_use_for_is_dropped_on_that_side_only() -> None:
    assert "junk" not in apply_rules({**left(), "junk": torch.zeros(1)}, RULES, source="x")
    right = apply_rules(left(), RULES, source="x")
    with pytest.raises(ConversionError, match="junk"):
        apply_rules({**right, "junk": torch.zeros(1)}, RULES, source="x", reverse=True)


def test_a_rule_that_finds_nothing_is_an_error() -> None:
    state = {name: value for name, value in left().items() if not name.startswith("block")}
    with pytest.raises(ConversionError, match=r"my file: 1 rules find nothing, such as block\.\{L\}\.conv"):
        apply_rules(state, RULES, source="my file")


def test_a_left_over_tensor_is_an_error() -> None:
    state = {**left(), "block.x.conv1.weight": torch.zeros(1), "block.0.conv1.a.b": torch.zeros(1)}
    with pytest.raises(ConversionError, match=r"2 tensors are unknown, such as block\.x\.conv1\.weight"):
        apply_rules(state, RULES, source="x")


def test_a_stack_without_one_of_its_parts_is_an_error() -> None:
    right = apply_rules(left(), RULES, source="x")
    del right["attn.3.v"]
    with pytest.raises(ConversionError, match=r"find nothing, such as attn.*2 tensors are unknown"):
        apply_rules(right, RULES, source="x", reverse=True)


def test_a_name_made_or_read_twice_is_an_error() -> None:
    with pytest.raises(ConversionError, match="same"):
        apply_rules({"a": torch.zeros(1), "b": torch.zeros(1)}, [Rename("a", "same"), Rename("b", "same")], source="x")
    with pytest.raises(ConversionError, match=r"meets a, which another rule"):
        apply_rules({"a": torch.zeros(1)}, [Rename("a", "b"), Rename("a", "c")], source="x")


def test_dots_in_templates_are_dots_and_numbers_are_numbers() -> None:
    with pytest.raises(ConversionError):
        apply_rules({"aXb": torch.zeros(1)}, [Rename("a.b", "c")], source="x")
    with pytest.raises(ConversionError):
        apply_rules({"a.one": torch.zeros(1)}, [Rename("a.{N}", "b.{N}")], source="x")
