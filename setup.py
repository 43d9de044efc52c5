"""Packaging of detr_d2: pure Python, nothing to compile, config files shipped inside the package."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

# What this package itself imports. detectron2 is not among it, because it has no release on PyPI: it brings its own
# dependencies (see detr_d2/installation/install_detectron2.py).
REQUIREMENTS = [
    "torch>=2.6",  # CVE-2025-32434: before, weights_only=True could run code
    "torchvision>=0.21",
    "numpy>=1.23",
    "scipy>=1.9",
    "Pillow>=9.1",
    "pycocotools>=2.0.6",
    "opencv-python>=4.6",
    "faster-coco-eval>=1.8",  # before, its Boundary AP was wrong where a detection lies in a crowd region
    "packaging>=21.0",
    "PyYAML>=5.4",
    "fvcore>=0.1.5",
    "iopath>=0.1.7",
    "msgspec>=0.18",
    "tabulate>=0.8.9",
    "tensorboard>=2.10",
    "termcolor>=1.1",
    "tqdm>=4.62",
]

EXTRAS = {
    "dev": [
        "av>=12.0",
        "hypothesis>=6.80",
        "jinja2>=3.0",
        "matplotlib>=3.6",
        "mypy>=1.8",
        "onnx>=1.15",
        "onnxruntime>=1.17",
        "onnxscript>=0.1",
        "pytest>=7.4",
        "pytest-xdist>=3.5",
        "ruff>=0.6",
        "selenium>=4.11",
        "tidecv-light>=1.0",
        "timm>=1.0",
        "torchmetrics>=1.2",
        "transformers>=4.50",
    ],
    "report": ["jinja2>=3.0", "matplotlib>=3.6"],
    "export": ["onnx>=1.15", "onnxruntime>=1.17", "onnxscript>=0.1"],
    "hf": ["huggingface_hub>=0.23", "safetensors>=0.4", "timm>=1.0", "transformers>=4.50"],
    "video": ["av>=12.0"],  # H.264; without it OpenCV writes what no browser plays
    "masks": ["shapely>=1.8"],  # detectron2 crops polygons with it
}


class BuildWithConfigs(build_py):
    """Puts the YAML files of the top-level `configs/` into the built package as `detr_d2/configs/`."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the checkout's own folder is found
            return
        for path in self._config_files():
            target = Path(self.build_lib, "detr_d2", path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *map(str, self._config_files())]

    @staticmethod
    def _config_files() -> list[Path]:
        return sorted(Path("configs").rglob("*.yaml"))


def _version() -> str:
    text = (ROOT / "detr_d2" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert match is not None
    return match[1]


setup(
    name="detr_d2",
    version=_version(),
    description="DETR for detectron2: object detection as set prediction, trained and evaluated beside Faster R-CNN",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["detr_d2", "detr_d2.*"]),
    package_data={
        "detr_d2": ["py.typed"],
        "detr_d2.compare.report": ["templates/*.*", "templates/sections/*.html"],
        "detr_d2.visualization": ["templates/*.html"],
    },
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["detr-d2 = detr_d2.__main__:main"]},
    cmdclass={"build_py": BuildWithConfigs},
    zip_safe=False,
)
