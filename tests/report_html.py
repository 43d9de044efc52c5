"""The page of `compare` as a tree of elements, for tests of what stands in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_VOID = {"meta", "link", "img", "input", "br", "path", "use", "rect"}  # the last three as `_inline` writes them


@dataclass
class Node:
    """An element."""

    tag: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    def find_all(self, tag: str = "", **attributes: str) -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                fits = all(child.attributes.get(key.strip("_")) == value for key, value in attributes.items())
                if fits and tag in ("", child.tag):
                    yield child
                yield from child.find_all(tag, **attributes)

    def find(self, tag: str = "", **attributes: str) -> Node:
        return next(self.find_all(tag, **attributes))

    def text(self) -> str:
        parts = [child if isinstance(child, str) else child.text() for child in self.children]
        return re.sub(r"\s+", " ", " ".join(parts)).strip()


class _Builder(HTMLParser):
    """Fails on tags that are not closed in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {key: value or "" for key, value in attrs})
        assert len(node.attributes) == len(attrs), f"an attribute of <{tag}> stands there twice"
        self.open[-1].children.append(node)
        if tag not in _VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: str) -> Node:
    builder = _Builder()
    builder.feed(page)
    builder.close()
    assert len(builder.open) == 1
    return builder.open[0]


def cells(root: Node, table: str) -> dict[tuple[str, str], Node]:
    """(text of the first column, heading) -> cell."""
    element = root.find("table", id=table)
    heads = [head.text() for head in element.find("thead").find_all("th")]
    rows = [[x for x in row.children if isinstance(x, Node)] for row in element.find("tbody").find_all("tr")]
    return {(row[0].text(), head): cell for row in rows for head, cell in zip(heads, row, strict=True)}


def gallery_data(root: Node) -> dict[str, Any]:
    (text,) = root.find("script", id="gallery-data").children
    assert isinstance(text, str)
    return json.loads(text)
