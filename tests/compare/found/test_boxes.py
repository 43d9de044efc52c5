"""Running a model over images: the cache, going on after a stop, images that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import CocoFiles
from segmentation_cases import PANOPTIC
from tiny_models import tiny_cfg, tiny_detr

from detr_d2.compare.data import fingerprint, load_ground_truth
from detr_d2.compare.found import cache as collect_cache
from detr_d2.compare.found.boxes import Collected, collect
from detr_d2.compare.found.cache import CandidateCache, config_hash, remembered
from detr_d2.compare.records.figures import Interval
from detr_d2.data import register_coco
from detr_d2.files import file_hash
from detr_d2.prediction.predictor import ImagePredictor


class Runner:
    """Gives the model, counts its images, and fails on the files it is told to."""

    def __init__(self) -> None:
        self.predictor = ImagePredictor(tiny_cfg("INPUT.MIN_SIZE_TEST", 48), model=tiny_detr())
        self.loaded = 0
        self.images = 0
        self.broken: dict[int, BaseException] = {}
        self._predict = self.predictor.model.predict
        self.predictor.model.predict = self._counted

    def __call__(self) -> ImagePredictor:
        self.loaded += 1
        return self.predictor

    def _counted(self, *arguments: Any, **named: Any) -> Any:
        self.images += 1
        if self.images in self.broken:
            raise self.broken[self.images]
        return self._predict(*arguments, **named)


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture
def files(tiny_coco: CocoFiles) -> list[str]:
    return sorted(str(x) for x in tiny_coco.image_root.iterdir())


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_cache, "CHUNK", 2)


def same(a: Collected, b: Collected) -> bool:
    return all(
        np.array_equal(getattr(x, name), getattr(y, name))
        for first, second in zip(a.layers, b.layers, strict=True)
        for x, y in zip(first, second, strict=True)
        for name in ("boxes_xyxy", "scores", "classes", "network_size", "image_size")
    )


def test_a_second_run_needs_no_model(runner: Runner, files: list[str], tmp_path: Path) -> None:
    done: list[int] = []
    first = collect(runner, files, CandidateCache(tmp_path / "c"), progress=done.append)
    assert (runner.images, sum(done), len(first.layers)) == (3, 3, 3)
    assert [x.image_size for x in first.layers[-1]] == [(48, 64), (64, 48), (40, 40)]
    assert [x.network_size for x in first.layers[-1]] == [(48, 64), (64, 48), (48, 48)]
    assert [len(x.scores) for x in first.layers[0]] == [8, 8, 8]
    second = collect(runner, files, CandidateCache(tmp_path / "c"), progress=done.append)
    assert (runner.images, runner.loaded, sum(done)) == (3, 1, 6)
    assert same(first, second)
    assert collect(runner, files[:2], CandidateCache(tmp_path / "c")).layers[0][1].image_size == (64, 48)
    assert runner.loaded == 1


def test_the_boxes_of_a_panoptic_model_are_things(files: list[str], tmp_path: Path) -> None:
    predictor = ImagePredictor(tiny_cfg(*PANOPTIC, "INPUT.MIN_SIZE_TEST", 48), model=tiny_detr(*PANOPTIC))
    with torch.no_grad():
        predictor.model.get_parameter("head.class_embed.bias")[4] = 50.0  # it sees nothing but the last kind of stuff
    found = collect(lambda: predictor, files, CandidateCache(tmp_path))
    classes = np.concatenate([x.classes for layer in found.layers for x in layer])
    assert len(classes) == 3 * 8 * len(found.layers)
    assert classes.max() < 3


def test_a_stopped_run_goes_on(runner: Runner, files: list[str], tmp_path: Path) -> None:
    whole = collect(runner, files, CandidateCache(tmp_path / "whole"))
    runner.images = 0
    runner.broken = {3: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        collect(runner, files, CandidateCache(tmp_path / "c"))
    assert runner.images == 3
    again = collect(runner, files, CandidateCache(tmp_path / "c"))
    assert runner.images == 4  # the first chunk of two was kept
    assert same(whole, again)


def test_an_image_that_fails_is_named_and_tried_again(runner: Runner, files: list[str], tmp_path: Path) -> None:
    runner.broken = {2: RuntimeError("no\nmemory")}
    found = collect(runner, files, CandidateCache(tmp_path))
    assert [(x.file_name, x.error) for x in found.crashed] == [(files[1], "RuntimeError: no memory")]
    assert [len(x.scores) for x in found.layers[-1]] == [8, 0, 8]
    assert [len(x.scores) for x in found.layers[0]] == [8, 0, 8]
    repaired = collect(runner, files, CandidateCache(tmp_path))
    assert runner.images == 4
    assert repaired.crashed == []
    assert len(repaired.layers[-1][1].scores) == 8


def test_an_unreadable_file_is_an_image_that_fails(runner: Runner, files: list[str], tmp_path: Path) -> None:
    Path(files[2]).write_bytes(b"no image")
    found = collect(runner, files, CandidateCache(tmp_path))
    assert [x.file_name for x in found.crashed] == [files[2]]
    assert files[2] in found.crashed[0].error


def test_a_model_that_always_fails_is_stopped(runner: Runner, files: list[str], tmp_path: Path) -> None:
    runner.broken = {i: RuntimeError("wrong model") for i in range(1, 10)}
    with pytest.raises(ValueError, match=r"fails on every image, first on .*001.png: RuntimeError: wrong model"):
        collect(runner, files, CandidateCache(tmp_path))


def test_a_broken_cache_file_is_made_again(runner: Runner, files: list[str], tmp_path: Path) -> None:
    first = collect(runner, files, CandidateCache(tmp_path))
    chunk = sorted(tmp_path.iterdir())[0]
    chunk.write_bytes(chunk.read_bytes()[:100])
    assert same(first, collect(runner, files, CandidateCache(tmp_path)))
    assert runner.images == 5


def test_the_data_have_a_fingerprint(tiny_coco: CocoFiles) -> None:
    name = register_coco(tiny_coco.spec("printed"))
    first = fingerprint(load_ground_truth(name))
    assert fingerprint(load_ground_truth(name)) == first
    image = tiny_coco.image_root / "002.png"
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    second = fingerprint(load_ground_truth(name))
    text = tiny_coco.annotations.read_text()
    tiny_coco.annotations.write_text(text.replace("[4, 6, 20, 16]", "[4, 6, 20, 17]"))
    third = fingerprint(load_ground_truth(name))
    assert len({first, second, third}) == 3


def test_the_config_has_a_hash_of_what_predictions_depend_on(tmp_path: Path) -> None:
    first = config_hash(tiny_cfg())
    assert config_hash(tiny_cfg("SOLVER.BASE_LR", 7.0, "OUTPUT_DIR", "x", "MODEL.WEIGHTS", "y")) == first
    assert config_hash(tiny_cfg("MODEL.DETR.NUM_QUERIES", 9)) != first
    assert config_hash(tiny_cfg("INPUT.MIN_SIZE_TEST", 9)) != first
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(str(tmp_path / "a")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_records_are_remembered(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> Interval:
        made.append(1)
        return Interval(1.0, float("nan"), 2.0)

    path = tmp_path / "deep" / "a.json"
    assert remembered(path, Interval, make).high == 2.0
    assert np.isnan(remembered(path, Interval, make).low)
    assert len(made) == 1
    path.write_text('{"value": 1}')  # of another version
    remembered(path, Interval, make)
    assert len(made) == 2
