"""The tree keeps its shape: imports run one way, heavy packages are imported where they are used, rooms stay small."""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "detr_d2"

# Room (the longest matching prefix of a module's name, without `detr_d2.`) -> the rooms that it may import beside
# itself; an arrow allows what its target may import, too. "x!" is the module or package x alone, by its public names.
ARROWS: dict[str, set[str]] = {
    "": {"cli", "config", "data!", "modeling!", "model_zoo", "solver"},
    "__main__": {"cli"},
    "cli": {"files"},
    "files": set(),
    "class_names": set(),
    "panoptic_classes": set(),
    "downloads": {"files"},
    "renamed_keys": set(),
    "config_file": {"downloads", "renamed_keys"},
    "config_node": {"config_file"},
    "config": {"config_node", "panoptic_classes"},
    "solver": set(),
    "model_zoo": {"config", "checkpoint", "modeling!"},
    "layers": set(),
    "modeling": {"layers", "config"},
    "modeling.transformer": {"layers", "modeling.interface"},
    "data": {"config", "files", "class_names", "panoptic_classes"},
    "checkpoint": {"config", "files", "class_names", "panoptic_classes", "downloads"},
    "recipes": {"config", "data", "model_zoo"},
    "evaluation": {"data", "checkpoint", "modeling!"},
    "evaluation.arrays": set(),
    "evaluation.panoptic_quality": set(),
    "prediction": {"data", "checkpoint", "modeling!"},
    "visualization": {"prediction", "layers"},
    "engine": {"evaluation", "recipes", "model_zoo", "solver"},
    "compare": {"evaluation", "prediction", "engine.memory"},
    "compare.masks": set(),
    "compare.records": {"files"},
    "compare.measure": {"compare.records", "compare.masks", "evaluation.arrays", "evaluation.panoptic_quality"},
    "compare.report": {"compare.records"},
    "other_libraries": {"checkpoint", "modeling!"},
    "benchmark": {"engine", "compare", "visualization", "other_libraries", "layers"},
    "experiments": {"engine", "compare", "visualization"},
    "installation": set(),
    "commands": {"experiments", "benchmark", "installation", "cli"},
    "train_net": {"commands.train", "cli"},
}

# Paper -> the papers that it descends from: the only transformer files that it may import. The others serve all.
ANCESTORS: dict[str, set[str]] = {
    "detr": set(),
    "deformable_layers": {"detr"},
    "deformable": {"detr", "deformable_layers"},
}
TRANSFORMER_SHARED: set[str] = set()

# Run by path before anything is installed; and what works without torch and detectron2.
STANDARD_LIBRARY_ONLY = {"installation.bootstrap", "installation.install_detectron2"}
LIGHT = {
    *STANDARD_LIBRARY_ONLY,
    *("__main__", "cli", "commands", "commands._options", "commands.check_env"),
    *("commands.install_detectron2", "installation", "installation.check_env"),
}

OPTIONAL = {
    *("huggingface_hub", "jinja2", "onnx", "onnxruntime", "onnxscript", "panopticapi", "safetensors", "shapely"),
    *("timm", "torchmetrics", "transformers", "lvis", "cityscapesscripts", "av"),
}


@dataclass(frozen=True)
class Import:
    """`source` imports `target` (a module, or a name inside one) at `line`; `deferred` inside a function."""

    source: str
    target: str
    line: int
    deferred: bool

    def __str__(self) -> str:
        return f"{self.source or 'detr_d2'}:{self.line} imports {self.target}"


def short(module: str) -> str:
    return module.removeprefix("detr_d2").removeprefix(".")


def read_imports(path: Path) -> Iterator[Import]:
    """All imports of a file, relative ones resolved; `from a import b` counts as a.b when that is a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = list(parts[:-1])
    source = short(".".join(package if parts[-1] == "__init__" else parts))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [x for x in ast.walk(tree) if isinstance(x, (ast.FunctionDef, ast.AsyncFunctionDef))]
    deferred = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            folder = ROOT.joinpath(*base.split("."))
            targets = [
                f"{base}.{x.name}" if (folder / f"{x.name}.py").is_file() or (folder / x.name).is_dir() else base
                for x in node.names
            ]
        else:
            continue
        yield from (Import(source, target, node.lineno, id(node) in deferred) for target in targets)


def room_of(module: str) -> str:
    """The longest prefix of a module's name that has a rule; for a target, `module` is without `detr_d2.`."""
    parts = module.split(".")
    prefixes = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    room = next((prefix for prefix in prefixes if prefix in ARROWS), "" if module == "" else None)
    assert room is not None, f"{module} has no rule in ARROWS: decide which way its imports run"
    return room


def reach(room: str) -> set[str]:
    """All that a room may import: its arrows, and theirs."""
    found: set[str] = set()
    todo = [room]
    while todo:
        for target in ARROWS.get(todo.pop(), set()) - found:
            found.add(target)
            if not target.endswith("!"):
                todo.append(room_of(target))
    return found


def below(module: str, prefix: str) -> bool:
    return module == prefix[:-1] if prefix.endswith("!") else module == prefix or module.startswith(f"{prefix}.")


def violations(imports: list[Import]) -> Iterator[str]:
    for item in imports:
        if item.target != "detr_d2" and not item.target.startswith("detr_d2."):
            continue
        target, room = short(item.target), room_of(item.source)
        if target == "":  # the package itself: its version, or to register everything
            continue
        inside = below(target, room or "!")
        if not inside and not any(below(target, x) for x in reach(room)):
            yield f"{item}, which {room} may not"
        if target.startswith("commands.") and item.source.startswith("commands.") and "._" not in target:
            yield f"{item}: commands do not import each other"
        if target == "modeling.meta_arch" and item.source != "modeling":
            yield f"{item}: the parts do not know the architecture"
        paper, other = (x.removeprefix("modeling.transformer.") for x in (item.source, target))
        papers = paper != item.source and other != target
        if papers and other not in TRANSFORMER_SHARED | ANCESTORS.get(paper, set()):
            yield f"{item}: a transformer imports its ancestors only"


FILES = [*sorted(PACKAGE.rglob("*.py")), ROOT / "train_net.py"]
ALL_IMPORTS = [item for path in FILES for item in read_imports(path)]


def test_imports_run_one_way() -> None:
    assert len(ALL_IMPORTS) > 100
    assert list(violations(ALL_IMPORTS)) == []


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("layers.padding", "detr_d2.modeling.matcher"),
        ("modeling.matcher", "detr_d2.modeling.meta_arch"),
        ("modeling.transformer.detr", "detr_d2.modeling.transformer.deformable"),
        ("data.loader", "detr_d2.engine.trainer"),
        ("engine.trainer", "detr_d2.commands.train"),
        ("commands.predict", "detr_d2.commands.train"),
        ("compare.report.page", "detr_d2.data.images"),
        ("compare.report.page", "detr_d2.compare.measure.coco"),
        ("evaluation.coco", "detr_d2.modeling.matcher"),
    ],
)
def test_what_the_arrows_forbid(source: str, target: str) -> None:
    assert len(list(violations([Import(source, target, 1, deferred=True)]))) == 1


def test_every_transformer_file_has_a_place_in_the_family() -> None:
    files = {path.stem for path in (PACKAGE / "modeling" / "transformer").glob("*.py")} - {"__init__"}
    assert files == TRANSFORMER_SHARED | set(ANCESTORS)


def _outside(sources: set[str] | str, known: set[str], *, deferred: bool) -> list[str]:
    """Imports of rooms or modules that name none of the known packages."""
    known = known | set(sys.stdlib_module_names)
    chosen = (x for x in ALL_IMPORTS if (below(x.source, sources) if isinstance(sources, str) else x.source in sources))
    return [str(x) for x in chosen if (deferred or not x.deferred) and x.target.partition(".")[0] not in known]


def test_layers_know_tensors_only() -> None:
    assert _outside("layers", {"torch", "torchvision", "numpy", "triton", "detr_d2"}, deferred=True) == []


def test_measures_are_numpy_and_the_page_is_records() -> None:
    for room in ("compare.measure", "compare.report"):
        heavy = {"torch", "torchvision", "detectron2", "cv2"}
        assert [str(x) for x in ALL_IMPORTS if below(x.source, room) and x.target.partition(".")[0] in heavy] == []


def test_triton_is_needed_by_the_file_of_its_kernels_only() -> None:
    kernels = "layers.deformable_attention.triton_kernels"
    assert {item.source for item in ALL_IMPORTS if below(item.target, "triton")} == {kernels}
    assert [str(item) for item in ALL_IMPORTS if item.target == f"detr_d2.{kernels}" and not item.deferred] == []


def test_what_runs_first_needs_nothing() -> None:
    assert _outside(STANDARD_LIBRARY_ONLY, set(), deferred=True) == []
    assert _outside(LIGHT, {"detr_d2"}, deferred=False) == []
    assert _outside("files", {"detr_d2", "numpy"}, deferred=False) == []  # numpy for annotations


def test_optional_packages_are_imported_where_they_are_used() -> None:
    eager = [str(item) for item in ALL_IMPORTS if not item.deferred and item.target.partition(".")[0] in OPTIONAL]
    assert eager == []


def test_rooms_and_files_stay_small() -> None:
    modules = [path for path in FILES if path.name != "__init__.py"]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules}
    assert {name: n for name, n in lengths.items() if n > 300} == {}
    assert 100 <= statistics.median(lengths.values()) <= 170
    rooms = {path.parent for path in modules} - {PACKAGE / "commands", ROOT}
    counts = {str(room.relative_to(ROOT)): sum(path.parent == room for path in modules) for room in rooms}
    assert {room: n for room, n in counts.items() if n > 14} == {}


def test_every_room_says_what_it_is_for() -> None:
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), f"{folder} says nothing"


# What a namedtuple offers under such names is public.
_NAMEDTUPLE = {"_asdict", "_fields", "_field_defaults", "_make", "_replace"}


def private_names(tree: ast.AST) -> Iterator[str]:
    """Names with one leading underscore that a file imports from others or asks of other objects than its own."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.ImportFrom):
            modules = [x for x in (node.module or "").split(".") if not (node.level and x in ("_options", "_run"))]
            names = [*modules, *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute) and not _is_own(node.value):
            names = [] if node.attr in _NAMEDTUPLE else [node.attr]
        yield from (x for x in names if x.startswith("_") and not x.startswith("__"))


def _is_own(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


# What PyTorch offers under no other name: the operators that its compiler makes of single ones (where they are absent,
# the single ones run), writes to tensors, hooks, and whether a transformation is at work.
PRIVATE_NAMES_OF_TORCH = {
    "layers.fast.calls, _C",
    "layers.fast.calls, _backward_hooks",
    "layers.fast.calls, _backward_pre_hooks",
    "layers.fast.calls, _current_level",
    "layers.fast.calls, _forward_hooks",
    "layers.fast.calls, _forward_pre_hooks",
    "layers.fast.calls, _functorch",
    "layers.fast.calls, _has_any_global_hook",
    "layers.fast.convolution, _is_mkldnn_bf16_supported",
    "layers.fast.convolution, _convolution_pointwise",
    "layers.fast.convolution, _convolution_pointwise_",
    "modeling.backbone.folding, _version",
}


def test_only_public_names_of_others() -> None:
    found = set()
    for path in FILES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {f"{short(name)}, {x}" for x in private_names(tree)}
    assert found == PRIVATE_NAMES_OF_TORCH


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import detectron2._C as c", "_C"),
        ("from detectron2._C import nms", "_C"),
        ("from .loader import _landscape", "_landscape"),
        ("import torch\ntorch.utils._pytree.tree_map()", "_pytree"),
        ("class A:\n    def f(self):\n        return self.model._parameters", "_parameters"),
        ("class A:\n    def f(self):\n        return self._trainer.iter + super()._load()", None),
        ("class A:\n    @classmethod\n    def f(cls, point):\n        return cls._x, point._replace(x=1)", None),
    ],
)
def test_private_names_are_found(code: str, name: str | None) -> None:
    assert list(private_names(ast.parse(code))) == ([] if name is None else [name])
