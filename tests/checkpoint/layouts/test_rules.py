"""Tables of rules: both directions, and an error for whatever they do not describe."""

from __future__ import annotations

import pytest
import torch

from detr_d2.checkpoint.layouts.rules import NORM, ConversionError, Drop, Rename, Rule, Stack, apply_rules

RULES: list[Rule] = [
    Rename("block.{L}.conv{J}.{p}", "stage.{L}.layer.{J}.{p}"),
    Stack("block.{L}.attn.w", ("stage.{L}.q", "stage.{L}.k", "stage.{L}.v")),
    Rename("extra.{x}", "more.{x}", optional=True),
    Rename("extra.{x}", "old.{x}", optional=True, reverse_only=True),
    Drop("junk"),
]


def left() -> dict[str, torch.Tensor]:
    """Two blocks of a projection and two convolutions."""
    state = {}
    for block in (0, 1):
        state[f"block.{block}.attn.w"] = torch.arange(6.0).view(6, 1) + 10 * block
        for conv in (1, 2):
            state[f"block.{block}.conv{conv}.weight"] = torch.tensor([100.0 * block + conv])
            state[f"block.{block}.conv{conv}.bias"] = torch.tensor([-100.0 * block - conv])
    return state


def test_names_and_stacks_go_there_and_back() -> None:
    right = apply_rules(left(), RULES, source="x")
    assert len(right) == 14
    assert right["stage.0.k"].tolist() == [[2.0], [3.0]]
    assert right["stage.1.layer.2.bias"].tolist() == [-102.0]
    back = apply_rules(right, RULES, source="x", reverse=True)
    assert back.keys() == left().keys()
    assert all(torch.equal(back[name], value) for name, value in left().items())


def test_parts_of_a_stack_do_not_share_memory_with_it() -> None:
    state = left()
    right = apply_rules(state, RULES, source="x")
    right["stage.0.q"].zero_()
    assert state["block.0.attn.w"][1].item() == 1.0


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
    state = {name: value for name, value in left().items() if "conv" not in name}
    with pytest.raises(ConversionError, match=r"my file: 1 rules find nothing, such as block\.\{L\}\.conv"):
        apply_rules(state, RULES, source="my file")


@pytest.mark.parametrize("missing", sorted(left()))
def test_a_tensor_that_its_like_have_is_missed_by_name(missing: str) -> None:
    state = {name: value for name, value in left().items() if name != missing}
    with pytest.raises(ConversionError, match=f"x: there is no {missing}"):
        apply_rules(state, RULES, source="x")


def test_numbers_begin_at_0_and_leave_none_out() -> None:
    state = {name.replace("block.1.", "block.2."): value for name, value in left().items()}
    with pytest.raises(ConversionError, match=r"there is no block\.1\."):
        apply_rules(state, RULES, source="x")


def test_a_trained_norm_may_count_its_batches() -> None:
    rules: list[Rule] = [Rename("bn.{p}", "norm.{p}", parts=NORM)]
    state = {f"bn.{part}": torch.zeros(1) for part in NORM}
    assert len(apply_rules(state, rules, source="x")) == 4
    counted = apply_rules({**state, "bn.num_batches_tracked": torch.tensor(7)}, rules, source="x")
    assert counted["norm.num_batches_tracked"].item() == 7
    with pytest.raises(ConversionError, match=r"1 tensors are unknown, such as bn\.extra"):
        apply_rules({**state, "bn.extra": torch.zeros(1)}, rules, source="x")


def test_a_left_over_tensor_is_an_error() -> None:
    state = {**left(), "block.x.conv1.weight": torch.zeros(1), "block.0.conv1.a.b": torch.zeros(1)}
    with pytest.raises(ConversionError, match=r"2 tensors are unknown, such as block\.x\.conv1\.weight"):
        apply_rules(state, RULES, source="x")


@pytest.mark.parametrize("missing", ["stage.1.q", "stage.1.v"])
def test_a_stack_without_one_of_its_parts_is_an_error(missing: str) -> None:
    right = apply_rules(left(), RULES, source="x")
    del right[missing]
    with pytest.raises(ConversionError, match=r"there is no stage\.1\.q|2 tensors are unknown, such as stage\.1\.q"):
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
