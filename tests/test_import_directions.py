"""The tree keeps its shape: imports run one way, heavy packages are imported where they are used."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from detr_d2.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "detr_d2"

# Area (the longest matching prefix of a module's name) -> what else of this package it may import, as prefixes; a name
# that ends with "!" stands for that module alone. An area may always import itself.
ALLOWED = {
    "detr_d2": {"detr_d2.config", "detr_d2.data!", "detr_d2.modeling!", "detr_d2.model_zoo", "detr_d2.solver"},
    "detr_d2.__main__": {"detr_d2!", "detr_d2.tools.cli"},
    "detr_d2.config": {"detr_d2.config_file"},
    "detr_d2.config_file": {"detr_d2.downloads"},
    "detr_d2.downloads": {"detr_d2.files"},
    "detr_d2.solver": set(),
    "detr_d2.layers": set(),
    "detr_d2.memory": set(),
    "detr_d2.files": set(),
    "detr_d2.panoptic_classes": set(),
    "detr_d2.class_names": set(),
    "detr_d2.data": {"detr_d2.files", "detr_d2.panoptic_classes", "detr_d2.class_names"},
    "detr_d2.checkpoint": {
        "detr_d2.files",
        "detr_d2.downloads",
        "detr_d2.panoptic_classes",
        "detr_d2.class_names",
    },
    "detr_d2.modeling": {"detr_d2.layers", "detr_d2.panoptic_classes"},
    "detr_d2.modeling.transformer": {"detr_d2.layers"},
    "detr_d2.model_zoo": {"detr_d2.config", "detr_d2.checkpoint"},
    "detr_d2.engine": {
        "detr_d2.files",
        "detr_d2.panoptic_classes",
        "detr_d2.class_names",
        "detr_d2.memory",
        "detr_d2.config",
        "detr_d2.config_file",
        "detr_d2.solver",
        "detr_d2.data",
        "detr_d2.evaluation.coco_evaluator",
        "detr_d2.evaluation.panoptic_quality",
        "detr_d2.modeling!",
        "detr_d2.checkpoint",
        "detr_d2.model_zoo",
    },
    "detr_d2.evaluation": {
        "detr_d2.files",
        "detr_d2.solver",  # for the training steps of benchmarks
        "detr_d2.panoptic_classes",
        "detr_d2.class_names",
        "detr_d2.memory",
        "detr_d2.modeling!",
        "detr_d2.layers",
        "detr_d2.config",
        "detr_d2.config_file",
        "detr_d2.checkpoint",
        "detr_d2.data",
    },
    "detr_d2.visualization": {
        "detr_d2.files",
        "detr_d2.modeling!",
        "detr_d2.layers",  # whose attention modules it records
        "detr_d2.config",
        "detr_d2.checkpoint",
        "detr_d2.data",
    },
    "detr_d2.export": {"detr_d2.files", "detr_d2.modeling!", "detr_d2.config", "detr_d2.checkpoint"},
    "detr_d2.tools": {
        "detr_d2.files",
        "detr_d2!",
        "detr_d2.panoptic_classes",
        "detr_d2.config",
        "detr_d2.data",
        "detr_d2.engine",
        "detr_d2.checkpoint",
        "detr_d2.evaluation",
        "detr_d2.export",
        "detr_d2.layers",
        "detr_d2.model_zoo",
        "detr_d2.modeling!",
        "detr_d2.solver",
        "detr_d2.visualization",
    },
    "train_net": {"detr_d2!", "detr_d2.tools.cli", "detr_d2.tools.train"},
}

# No file of tools/ imports a command; what commands share stands in files of its own.
COMMAND_MODULES = {f"detr_d2.tools.{name.replace('-', '_')}" for name in COMMANDS}

# Paper -> the papers that it descends from: the only transformer files that it may import. The others serve all.
ANCESTORS: dict[str, set[str]] = {
    "detr": set(),
    "deformable_layers": {"detr"},
    "deformable": {"detr", "deformable_layers"},
}
TRANSFORMER_SHARED = {"build", "output"}

# Run by path before anything is installed.
STANDARD_LIBRARY_ONLY = {"detr_d2.tools.bootstrap", "detr_d2.tools.install_detectron2"}

# Importable without torch and detectron2, so that check-env can run.
LIGHT = {*STANDARD_LIBRARY_ONLY, "detr_d2.tools", "detr_d2.tools.check_env", "detr_d2.tools.cli", "detr_d2.__main__"}

OPTIONAL = {
    "faster_coco_eval",
    "huggingface_hub",
    "jinja2",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "panopticapi",
    "safetensors",
    "shapely",
    "timm",
    "torchmetrics",
}
OPTIONAL |= {"transformers", "lvis", "cityscapesscripts"}


@dataclass(frozen=True)
class Import:
    """`source` imports `target` (a module, or a name inside one) at `line`; `deferred` inside a function."""

    source: str
    target: str
    line: int
    deferred: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_imports(path: Path, root: Path) -> list[Import]:
    """All imports of a file, relative ones resolved; `from a import b` counts as a.b when that is a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    source = module_name(path, root)
    package = source if path.name == "__init__.py" else source.rpartition(".")[0]
    deferred = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                above = parents[: len(parents) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            targets = [_submodule(root, base, alias.name) for alias in node.names]
        found += [Import(source, target, node.lineno, id(node) in deferred) for target in targets]  # type: ignore[attr-defined]
    return found


def _submodule(root: Path, base: str, name: str) -> str:
    folder = root.joinpath(*base.split("."))
    return f"{base}.{name}" if (folder / f"{name}.py").is_file() or (folder / name).is_dir() else base


def area_of(module: str) -> str:
    """The longest prefix of a module's name that has a rule."""
    parts = module.split(".")
    prefixes = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    area = next((prefix for prefix in prefixes if prefix in ALLOWED), None)
    if area is None or (area == PACKAGE and module != PACKAGE):
        raise LookupError(f"{module} has no rule in ALLOWED: decide which way its imports run")
    return area


def is_below(module: str, prefix: str) -> bool:
    if prefix.endswith("!"):
        return module == prefix[:-1]
    return module == prefix or module.startswith(f"{prefix}.")


def violations(imports: list[Import]) -> Iterator[str]:
    """What breaks the rules of ALLOWED, the transformer's family tree, and the commands' independence."""
    for item in imports:
        if not is_below(item.target, PACKAGE):
            continue
        area = area_of(item.source)
        own = f"{area}!" if area == PACKAGE else area
        if not any(is_below(item.target, prefix) for prefix in {own, *ALLOWED[area]}):
            yield f"{item}, which {area} may not"
        if item.target in COMMAND_MODULES and is_below(item.source, "detr_d2.tools"):
            yield f"{item}: commands do not import each other"
        if item.target == "detr_d2.modeling.meta_arch" and item.source != "detr_d2.modeling":
            yield f"{item}: the parts do not know the architecture"
        paper = item.source.removeprefix("detr_d2.modeling.transformer.")
        relative = item.target.removeprefix("detr_d2.modeling.transformer.")
        between_papers = paper != item.source and relative != item.target
        if between_papers and relative not in TRANSFORMER_SHARED | ANCESTORS.get(paper, set()):
            yield f"{item}: a transformer imports its ancestors only"


ALL_IMPORTS = [
    item
    for path in [*sorted((ROOT / PACKAGE).rglob("*.py")), ROOT / "train_net.py"]
    for item in read_imports(path, ROOT)
]


def test_imports_run_one_way() -> None:
    assert len(ALL_IMPORTS) > 100
    assert list(violations(ALL_IMPORTS)) == []


def test_every_transformer_file_has_a_place_in_the_family() -> None:
    files = {path.stem for path in (ROOT / PACKAGE / "modeling" / "transformer").glob("*.py")} - {"__init__"}
    assert files == TRANSFORMER_SHARED | set(ANCESTORS)


@pytest.mark.parametrize(
    ("area", "packages"),
    [("detr_d2.layers", {"torch", "torchvision", "numpy", "triton"})],
)
def test_layers_know_tensors_only(area: str, packages: set[str]) -> None:
    outside = {str(item) for item in ALL_IMPORTS if is_below(item.source, area) and not is_below(item.target, PACKAGE)}
    known = packages | set(sys.stdlib_module_names)
    assert {text for text in outside if text.split()[-1].partition(".")[0] not in known} == set()


def test_triton_is_needed_by_the_file_of_its_kernels_only() -> None:
    kernels = "detr_d2.layers.deformable_triton"
    assert {item.source for item in ALL_IMPORTS if is_below(item.target, "triton")} == {kernels}
    assert [str(item) for item in ALL_IMPORTS if item.target == kernels and not item.deferred] == []


def test_bootstrap_files_use_the_standard_library_only() -> None:
    foreign = [
        str(item)
        for item in ALL_IMPORTS
        if item.source in STANDARD_LIBRARY_ONLY and item.target.partition(".")[0] not in sys.stdlib_module_names
    ]
    assert foreign == []


def test_check_env_can_run_without_dependencies() -> None:
    allowed = {*sys.stdlib_module_names, PACKAGE}
    heavy = [
        str(item)
        for item in ALL_IMPORTS
        if item.source in LIGHT and not item.deferred and item.target.partition(".")[0] not in allowed
    ]
    assert heavy == []


def test_optional_packages_are_imported_where_they_are_used() -> None:
    eager = [str(item) for item in ALL_IMPORTS if not item.deferred and item.target.partition(".")[0] in OPTIONAL]
    assert eager == []


# What a namedtuple offers under such names is public.
_NAMEDTUPLE = {"_asdict", "_fields", "_field_defaults", "_make", "_replace"}


def private_names(tree: ast.AST) -> Iterator[str]:
    """Names with one leading underscore that a file imports from others or asks of other objects than its own."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute) and not _is_own(node.value):
            names = [] if node.attr in _NAMEDTUPLE else [node.attr]
        yield from (f"line {node.lineno}: {x}" for x in names if x.startswith("_") and not x.startswith("__"))  # type: ignore[attr-defined]


def _is_own(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


# What PyTorch offers under no other name: the operators that its compiler makes of single ones (where they are absent,
# the single ones run), writes to tensors, hooks, and whether a transformation is at work.
PRIVATE_NAMES_OF_TORCH = {
    "detr_d2.layers.acceleration, _C",
    "detr_d2.layers.acceleration, _backward_hooks",
    "detr_d2.layers.acceleration, _backward_pre_hooks",
    "detr_d2.layers.acceleration, _current_level",
    "detr_d2.layers.acceleration, _forward_hooks",
    "detr_d2.layers.acceleration, _forward_pre_hooks",
    "detr_d2.layers.acceleration, _functorch",
    "detr_d2.layers.acceleration, _has_any_global_hook",
    "detr_d2.layers.acceleration, _is_mkldnn_bf16_supported",
    "detr_d2.layers.fused_convolution, _convolution_pointwise",
    "detr_d2.layers.fused_convolution, _convolution_pointwise_",
    "detr_d2.layers.linear, _linear_pointwise",
    "detr_d2.modeling.folding, _version",
}


def test_only_public_names_of_others() -> None:
    files = [*sorted((ROOT / PACKAGE).rglob("*.py")), ROOT / "train_net.py"]
    trees = {module_name(path, ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in files}
    found = {f"{name}, {private.partition(': ')[2]}" for name, tree in trees.items() for private in private_names(tree)}
    assert found == PRIVATE_NAMES_OF_TORCH


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import detectron2._C", "_C"),
        ("import detectron2._C as c", "_C"),
        ("from detectron2 import _C", "_C"),
        ("from detectron2._C import nms", "_C"),
        ("from .loader import _landscape", "_landscape"),
        ("def f(parser):\n    return parser._actions", "_actions"),
        ("import torch\ntorch.utils._pytree.tree_map()", "_pytree"),
        ("class A:\n    def f(self):\n        return self.model._parameters", "_parameters"),
        ("class A:\n    def f(self):\n        return self._trainer.iter + super()._load()", None),
        ("from __future__ import annotations\nx.__class__", None),
        ("class A:\n    @classmethod\n    def f(cls, point):\n        return cls._x, point._replace(x=1)", None),
    ],
)
def test_private_names_are_found(code: str, name: str | None) -> None:
    assert [line.partition(": ")[2] for line in private_names(ast.parse(code))] == ([] if name is None else [name])


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("detr_d2/layers/a.py", "from ..modeling import losses"),
        ("detr_d2/layers/a.py", "import detr_d2"),
        ("detr_d2/modeling/a.py", "from .meta_arch import DETR"),
        ("detr_d2/modeling/a.py", "def f():\n    from detr_d2.config import get_cfg"),
        ("detr_d2/modeling/transformer/detr.py", "from .deformable import x"),
        ("detr_d2/modeling/transformer/detr.py", "from ..criterion import x"),
        ("detr_d2/evaluation/a.py", "from ..modeling.transformer.detr import x"),
        ("detr_d2/data/a.py", "from ..engine import x"),
        ("detr_d2/engine/a.py", "from ..tools import train"),
        ("detr_d2/tools/quickstart.py", "from .train import main"),
        ("detr_d2/config.py", "from . import get_cfg"),
        ("train_net.py", "from detr_d2.tools import predict"),
    ],
)
def test_the_rules_catch_what_they_forbid(tmp_path: Path, path: str, code: str) -> None:
    for name in (
        "modeling/meta_arch",
        "modeling/transformer/deformable",
        "modeling/losses",
        "tools/train",
        "tools/predict",
    ):
        stub = tmp_path / PACKAGE / f"{name}.py"
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.touch()
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    assert list(violations(read_imports(file, tmp_path)))
