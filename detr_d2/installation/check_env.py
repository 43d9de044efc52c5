"""What `check-env` reports: versions, the GPU, which optional parts are present and what each missing one costs.

Works without torch, detectron2 or any other dependency, since finding out what is missing is its purpose.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType

# Module to import -> distribution that holds it. torch first: torchvision and detectron2 fail because of it.
REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "detectron2.modeling": "detectron2",
    "numpy": "numpy",
    "scipy.optimize": "scipy",
    "PIL.Image": "Pillow",
    "cv2": "opencv-python",
    "faster_coco_eval": "faster-coco-eval",
    "pycocotools.mask": "pycocotools",
    "fvcore": "fvcore",
    "iopath": "iopath",
    "msgspec": "msgspec",
    "packaging.requirements": "packaging",
    "yaml": "PyYAML",
    "tabulate": "tabulate",
    "tensorboard": "tensorboard",
    "termcolor": "termcolor",
    "tqdm": "tqdm",
}

# Module -> what cannot be done without it, and how to get it.
OPTIONAL = {
    "detectron2._C": "detectron2 is pure Python here: no deformable convolution and no rotated boxes; no config of "
    "this package needs it.",
    "detectron2.model_zoo": "configs of detectron2's model zoo cannot be found by name: `pip install 'setuptools<81'`.",
    "transformers": "`benchmark criterion` cannot compare with the loss of transformers: `pip install 'detr_d2[hf]'`.",
    "safetensors": "weights in .safetensors files cannot be read: `pip install 'detr_d2[hf]'`.",
    "shapely": "polygon masks cannot be cropped (INPUT.MASK_FORMAT \"bitmask\" can): `pip install 'detr_d2[masks]'`.",
    "av": "videos are written as no browser plays them: `pip install 'detr_d2[video]'`.",
    "lvis": "datasets in LVIS format cannot be evaluated: `pip install lvis`.",
    "panopticapi": "detectron2's panoptic evaluator cannot run; install it from github.com/cocodataset/panopticapi.",
    "cityscapesscripts": "Cityscapes cannot be evaluated: `pip install cityscapesscripts`.",
}


@dataclass(frozen=True)
class Part:
    """One line of the report.

    `state` is a version, "yes" or "missing"; `problem` is a sentence when something required is broken; `cost` is a
    sentence when something optional is absent.
    """

    name: str
    state: str
    problem: str = ""
    cost: str = ""


def _import(module: str) -> ModuleType | Exception:
    """The module, or why it cannot be imported: a broken library raises anything from OSError to AttributeError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(module)
        except Exception as error:
            return error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def _version(distribution: str, module: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # copied, conda's, or under another name
        top = sys.modules.get(module.partition(".")[0])
        return str(getattr(top, "__version__", "present"))


def required_parts() -> Iterator[Part]:
    """One part for each package that nothing works without; imports them."""
    for module, distribution in REQUIRED.items():
        found = _import(module)
        if isinstance(found, Exception):
            package = "detr_d2 install-detectron2" if distribution == "detectron2" else f"pip install {distribution}"
            problem = f"{distribution} cannot be imported ({_reason(found)}); `python -m {package}`."
            yield Part(distribution, "broken", problem)
        else:
            yield Part(distribution, _version(distribution, module))


def too_old() -> Iterator[Part]:
    """One part for each installed distribution older than this package's lower bound."""
    try:
        from packaging.requirements import Requirement

        requirements = [Requirement(x) for x in importlib.metadata.requires("detr_d2") or []]
    except ImportError:  # a checkout that was never installed has no bounds to compare with
        return
    for requirement in requirements:
        if requirement.marker is not None:  # belongs to an extra
            continue
        with suppress(importlib.metadata.PackageNotFoundError):  # there under another name, or reported as broken
            found = importlib.metadata.version(requirement.name)
            if not requirement.specifier.contains(found, prereleases=True):
                wanted = f"expected {requirement.specifier}: `pip install '{requirement}'`"
                yield Part(requirement.name, found, f"{requirement.name} is {found}, {wanted}.")


# Version from which on a known hole of a library is closed -> what it lets through below.
UNSAFE_BELOW = {
    "torch": (
        "2.10",
        "CVE-2026-24747: a checkpoint can write to memory although it is read with weights_only; our commands check "
        "the file first, other programs do not: `pip install 'torch>=2.10'`.",
    )
}


def unsafe_parts() -> Iterator[Part]:
    """One part for each installed distribution with a known hole; it works, so that this is a warning."""
    for name, (version, hole) in UNSAFE_BELOW.items():
        with suppress(ImportError):  # neither of the two is there, which required_parts reports
            from packaging.version import Version

            found = importlib.metadata.version(name)
            if Version(found) < Version(version):
                yield Part(name, found, cost=f"warning: {hole}")


def gpu_part() -> Part:
    """The GPUs that torch can use."""
    torch = _import("torch")
    if isinstance(torch, Exception):
        return Part("GPU", "unknown")
    if not torch.cuda.is_available():
        cuda = torch.version.cuda
        built = f"torch {torch.__version__} is built for CUDA {cuda}" if cuda else "no CUDA build"
        cost = f"all runs on the CPU ({built}): fine for the quickstart and small data, weeks for COCO."
        return Part("GPU", "none", cost=cost)
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Part("GPU", f"{len(names)} x {names[0]} (CUDA {torch.version.cuda})")


def optional_parts() -> Iterator[Part]:
    """One part for each optional module."""
    for module, cost in OPTIONAL.items():
        found = _import(module)
        package = module.partition(".")[0]
        if package != module and isinstance(_import(package), Exception):
            continue  # its absence is reported already
        if isinstance(found, Exception):
            yield Part(module, "missing", cost=cost)
        else:
            yield Part(module, _version(module, module))


def plugin_part() -> Part:
    """This package itself, once what it needs is there."""
    package = importlib.import_module("detr_d2")
    problem = package.import_problem
    for module in ("data", "modeling", "model_zoo", "solver"):  # a light start has imported none of them
        found = None if problem else _import(f"detr_d2.{module}")
        problem = _reason(found) if isinstance(found, Exception) else problem
    return Part("detr_d2", package.__version__, f"detr_d2 cannot be used ({problem})." if problem else "")


def collect() -> list[tuple[str, list[Part]]]:
    """The report: titled groups of parts."""
    python = Part("Python", f"{platform.python_version()} ({sys.executable}, {platform.platform()})")
    return [
        ("required", [python, *required_parts(), plugin_part()]),
        ("too old", list(too_old())),
        ("unsafe", list(unsafe_parts())),
        ("hardware", [gpu_part()]),
        ("optional", list(optional_parts())),
    ]


def render(groups: Sequence[tuple[str, Sequence[Part]]]) -> str:
    """The report as text: one line for each part, with a sentence where something is missing or broken."""
    width = max(len(part.name) for _, parts in groups for part in parts)
    lines = []
    for title, parts in groups:
        lines += [f"{title}:"] if parts else []
        for part in parts:
            line = f"  {part.name:<{width}}  {part.state}"
            lines.append(line + (f": {part.cost}" if part.cost else ""))
    return "\n".join(lines)
