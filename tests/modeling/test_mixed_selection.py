"""Mixed query selection: proposals give the places of the queries, their content is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from state_dicts import assert_same
from tiny_deformable import stir, tiny_deformable
from tiny_models import random_input
from torch import Tensor

from detr_d2.checkpoint import Checkpointer
from detr_d2.checkpoint.layouts.identify import convert, identify
from detr_d2.checkpoint.layouts.rules import ConversionError
from detr_d2.modeling import DETR

CONTENT = "transformer.query_embed.weight"


def decoder_inputs(model: DETR, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Content, position and references of the queries in evaluation."""
    found: list[Any] = []
    handle = model.get_submodule("transformer.decoder").register_forward_pre_hook(
        lambda _module, inputs: found.append(inputs)
    )
    with torch.no_grad():
        model.eval()(batch)
    handle.remove()
    content, position, references = found[0][:3]
    return content, position, references


def test_only_the_content_differs_from_two_stages() -> None:
    plain, mixed = tiny_deformable("two_stage"), tiny_deformable("mixed")
    stir(plain)
    state = mixed.state_dict()
    assert state.keys() - plain.state_dict().keys() == {CONTENT}
    assert state[CONTENT].shape == (8, 64)
    mixed.load_state_dict({**plain.state_dict(), CONTENT: state[CONTENT]})
    batch = [random_input(48, 64, 0), random_input(64, 40, 0)]
    content, position, references = decoder_inputs(mixed, batch)
    assert torch.equal(content, state[CONTENT].expand(2, -1, -1))
    proposed, *places = decoder_inputs(plain, batch)
    assert not torch.equal(proposed, content)
    torch.testing.assert_close([position, references], places)


def test_contents_are_given_out_in_the_order_of_the_scores() -> None:
    model = tiny_deformable("mixed")
    stir(model)
    found: list[Any] = []
    handle = model.get_submodule("transformer").register_forward_hook(
        lambda _module, _inputs, output: found.append(output.proposals)
    )
    content, _, references = decoder_inputs(model, [random_input(64, 64, 0)])
    handle.remove()
    logits, boxes = found[0][:2]
    best = logits[0, :, 0].argsort(descending=True)[:8]
    torch.testing.assert_close(references[0], boxes[0, best])
    assert torch.equal(content[0], model.get_parameter(CONTENT))


def test_an_image_with_fewer_tokens_than_queries() -> None:
    model = tiny_deformable("mixed", "MODEL.DETR.NUM_QUERIES", 500)
    content, position, _ = decoder_inputs(model, [random_input(32, 32, 0)])
    assert content.shape == position.shape
    assert content.shape[1] < 500
    assert torch.equal(content[0], model.get_parameter(CONTENT)[: content.shape[1]])


def test_content_learns() -> None:
    model = tiny_deformable("mixed").train()
    stir(model)
    torch.stack(list(model([random_input(48, 64, 2)]).values())).sum().backward()
    gradient = model.get_parameter(CONTENT).grad
    assert gradient is not None
    assert (gradient != 0).any(dim=1).all()


def test_needs_two_stages() -> None:
    with pytest.raises(ValueError, match=r"MODEL\.DETR\.TRANSFORMER: mixed_selection needs two_stage: True"):
        tiny_deformable("refine", "MODEL.DETR.TRANSFORMER.DEFORMABLE.MIXED_SELECTION", True)


def test_checkpoints(tmp_path: Path) -> None:
    model = tiny_deformable("mixed")
    stir(model)
    Checkpointer(model, str(tmp_path)).save("mixed")
    again = tiny_deformable("mixed")
    Checkpointer(again).load_trained(str(tmp_path / "mixed.pth"))
    assert_same(again.state_dict(), model.state_dict())
    more = tiny_deformable("mixed", "MODEL.DETR.NUM_QUERIES", 11)
    Checkpointer(more).load(str(tmp_path / "mixed.pth"), [])
    assert torch.equal(more.state_dict()[CONTENT][:8], model.state_dict()[CONTENT])


@pytest.mark.parametrize("library", ["official", "huggingface"])
def test_other_libraries_have_no_such_model(library: str) -> None:
    state = tiny_deformable("mixed").state_dict()
    layout = identify(state)
    assert layout is not None
    assert layout.name == "detectron2"
    with pytest.raises(ConversionError, match="has no two-stage Deformable DETR with mixed query selection"):
        convert(state, library, source="mixed.pth")
