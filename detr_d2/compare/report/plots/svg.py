"""Figures of matplotlib as SVG that lives inside a page: coloured by its style sheet, without ids of its own."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import get_named_colors_mapping
from matplotlib.figure import Figure

# Names of colours, so that the same figure can be drawn for a page and for a file. For a page each is a code, in whose
# place `_variables` puts the variable of the style sheet.
INK = "detr_d2:ink"
MUTED = "detr_d2:muted"
PAPER = "detr_d2:paper"
_COLOURS = 8
_SHADES = 6
_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

SIZE = (4.7, 2.9)  # inches; about as wide as a phone, so that text is never shrunk much
_FONTSIZE = 9.5
_STYLE_SHEET = Path(__file__).parents[1] / "templates" / "report.css"
_SVG = "{http://www.w3.org/2000/svg}"
LIVE = "live-"
"""How the gid of an artist begins that the script of the page moves; the rest is its `data-line`."""

_HREF = "{http://www.w3.org/1999/xlink}href"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "detr_d2",  # the same ids every time
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": _FONTSIZE,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": _FONTSIZE + 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": MUTED,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # text that other programs can change
}


def colour(index: int) -> str:
    """Of the series `index`; after eight they begin again, with other dashes."""
    return f"detr_d2:c{index % _COLOURS}"


def css_colour(index: int) -> str:
    """The same as the style sheet names it, for what is not drawn by matplotlib."""
    return f"var(--c{index % _COLOURS})"


def shade(index: int) -> str:
    """Of the part `index` of a bar, 0 to 5."""
    return f"detr_d2:s{index}"


_CODES = {
    INK: "#010000",
    MUTED: "#010001",
    PAPER: "#010002",
    **{colour(i): f"#0200{i:02x}" for i in range(_COLOURS)},
    **{shade(i): f"#0300{i:02x}" for i in range(_SHADES)},
}


def _set_colours(values: Mapping[str, str]) -> None:
    names = get_named_colors_mapping()
    for name, value in values.items():
        names[name] = value


_set_colours(_CODES)


@contextmanager
def drawing_files() -> Iterator[None]:
    """Inside, matplotlib draws in the style of the page, with the light colours of its style sheet."""
    css = _STYLE_SHEET.read_text(encoding="utf-8")
    light = re.findall(r"--(\w+): (#[0-9a-f]{6})", css.partition("}")[0])
    _set_colours({f"detr_d2:{name}": value for name, value in light if f"detr_d2:{name}" in _CODES})
    try:
        with _style():
            yield
    finally:
        _set_colours(_CODES)


def series_style(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of a series, told apart without colours as well."""
    return {
        "color": colour(index),
        "linestyle": _DASHES[(index + index // _COLOURS) % len(_DASHES)],
        "marker": _MARKERS[index % len(_MARKERS)],
    }


def draw(draw_on: Callable[[Axes], object], prefix: str, *, size: tuple[float, float] = SIZE) -> str:
    """An `<svg>` element.

    Args:
        draw_on: is given empty axes.
        prefix: of the ids, unique in the page.
        size: width and height in inches.
    """
    with _style():
        figure = Figure(figsize=size, layout="constrained")
        draw_on(figure.add_subplot())
        return _inline(figure, prefix)


def swatch(prefix: str, **style: Any) -> str:
    """A short line with its marker, or with `facecolor` a filled box, for a legend."""
    with _style():
        figure = Figure(figsize=(0.42, 0.17))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        if "facecolor" in style:
            axes.fill_between([0.25, 0.75], 0, 1, **style)
        else:
            axes.plot([0, 0.5, 1], [0.5, 0.5, 0.5], markevery=[1], clip_on=False, **style)
        return _inline(figure, prefix)


@contextmanager
def _style() -> Iterator[None]:
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has other fonts
        yield


def _inline(figure: Figure, prefix: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in [x for x in parent if x.tag.removeprefix(_SVG) in ("metadata", "style")]:  # of the whole page
            parent.remove(child)
    references = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", ElementTree.tostring(root, encoding="unicode")))
    for element in root.iter():
        _clean(element, references, prefix)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("aria-hidden", "true")  # what is around it says what it shows
    root.set("focusable", "false")
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, references: set[str], prefix: str) -> None:
    """Names without namespaces, as HTML wants them; only ids that something refers to; two decimals are enough."""
    element.tag = element.tag.removeprefix(_SVG)
    attributes = {"href" if key == _HREF else key: value for key, value in element.attrib.items()}
    if attributes.get("id") not in references:
        name = attributes.pop("id", "")
        if name.startswith(LIVE):
            attributes["data-line"] = name.removeprefix(LIVE)
    for key, value in attributes.items():
        if key == "id":
            value = f"{prefix}-{value}"
        elif key == "href":
            value = value.replace("#", f"#{prefix}-", 1)
        elif key == "clip-path":
            value = value.replace("url(#", f"url(#{prefix}-", 1)
        elif key == "style":
            value = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", value)  # matplotlib before 3.9
            value = re.sub(r"font-family: [^;]*;? ?", "", value).replace("url(#", f"url(#{prefix}-")  # of hatches
            value = _variables(value)
        else:
            value = re.sub(r"(\.\d\d)\d+", r"\1", value).strip()
        attributes[key] = value
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    element.attrib.clear()
    element.attrib.update(attributes)
    element.text, element.tail = ((x if x and x.strip() else None) for x in (element.text, element.tail))


def _variables(style: str) -> str:
    for name, code in _CODES.items():
        style = style.replace(code, f"var(--{name.partition(':')[2]})")
    return style
