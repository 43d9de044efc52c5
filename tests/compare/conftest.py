"""The example of a comparison and its page, made once."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from report_html import Node, parse

from detr_d2.compare.records.comparison import Comparison


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two grey files for the gallery."""
    folder = tmp_path_factory.mktemp("images")
    for i, name in enumerate(("0.png", "1.png")):
        Image.fromarray(np.full((96, 128, 3), 60 + 90 * i, np.uint8)).save(folder / name)
    return str(folder / "0.png"), str(folder / "1.png")


@pytest.fixture(scope="session")
def example(images: tuple[str, str]) -> Comparison:
    """DETR, Faster R-CNN, and a model that failed."""
    from comparison_example import example_comparison

    return example_comparison(images)


@pytest.fixture(scope="session")
def page(example: Comparison) -> str:
    """Its page."""
    from detr_d2.compare.report.page import render

    return render(example)


@pytest.fixture(scope="session")
def root(page: str) -> Node:
    """The page as a tree."""
    return parse(page)
