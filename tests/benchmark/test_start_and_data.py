"""`benchmark mapper`, `evaluate`, `import` and `coco-file` at small sizes; no time is ever compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from detr_d2.__main__ import main
from detr_d2.benchmark import coco as benchmark_coco
from detr_d2.benchmark import mapper as benchmark_mapper
from detr_d2.benchmark import report as benchmark_report
from detr_d2.benchmark import start
from detr_d2.benchmark.start import IMPORTS, run_statements


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    output = tmp_path / "out.json"
    assert main(["benchmark", *arguments, "--output", str(output)]) == 0
    return json.loads(output.read_text())


MAPPER = ["mapper", "--size", "48x64", "--images", "4", "--objects", "3", "--repeat", "2"]
EVALUATE = ["evaluate", "--images", "12", "--detections", "20", "--objects", "4", "--classes", "3", "--repeat", "2"]


def test_mapper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(tmp_path, *MAPPER)
    assert [x["name"] for x in report["timings"]] == ["ours", "detectron2"]
    rates = report["images_per_second"]
    assert rates["ours"] == pytest.approx(4000 / report["timings"][0]["median_ms"])
    assert "pixels, boxes and classes are equal" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["image", "instances"])
def test_mappers_that_differ_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    right = benchmark_mapper.both_mappers

    def wrong(cfg: Any) -> Any:
        mappers = right(cfg)

        def ours(record: dict[str, Any]) -> Any:
            sample = mappers["ours"](record)
            assert sample is not None
            if key == "image":
                sample["image"] = sample["image"] ^ 1
            else:
                boxes = sample["instances"].gt_boxes.tensor
                boxes[0, 0] = torch.nextafter(boxes[0, 0], torch.tensor(1e9))
            return sample

        return {**mappers, "ours": ours}

    monkeypatch.setattr(benchmark_mapper, "both_mappers", wrong)
    monkeypatch.setattr(benchmark_report, "interleave", lambda *_, **__: pytest.fail("timed"))
    assert main(["benchmark", *MAPPER]) == 1
    assert "4 of 4 samples differ" in capsys.readouterr().err


def test_evaluate(tmp_path: Path) -> None:
    report = run(tmp_path, *EVALUATE)
    assert report["largest_difference"] < 1e-9
    assert [len(x["seconds"]) for x in report["timings"]] == [2, 2]


def test_evaluations_that_differ_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = iter([{"AP": 10.0}, {"AP": 10.00001}])
    monkeypatch.setattr(benchmark_coco, "_figures", lambda _: next(figures))
    assert main(["benchmark", *EVALUATE]) == 1
    assert "differ by more than 1e-09" in capsys.readouterr().err


def test_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of modules that take milliseconds: those of the benchmark take seconds in a process of their own."""
    for statement in IMPORTS:
        exec(statement)
    statements = ("import json", "import wave")
    monkeypatch.setattr(start, "IMPORTS", statements)
    report = run(tmp_path, "import", "--repeat", "1")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["time", "peak", "memory"]
    assert [" ".join(x[:2]) for x in lines[1:3]] == list(statements)
    assert all((x[3], x[5]) == ("s", "MB") and float(x[4]) > 5 for x in lines[1:3])
    assert [x["name"] for x in report["imports"]] == list(statements)
    assert all(x["steps"][0]["seconds"] > 0 and x["steps"][0]["peak_mb"] > 5 for x in report["imports"])


def test_coco_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the processes would run, run here: each of them takes seconds to start."""

    def here(statements: Sequence[str], environment: Mapping[str, str]) -> list[dict[str, float]]:
        monkeypatch.setenv("FVCORE_CACHE", environment["FVCORE_CACHE"])
        names: dict[str, Any] = {}
        for statement in statements:
            exec(statement, names)
        return [{"seconds": 0.5, "peak_mb": 100.0}] * len(statements)

    monkeypatch.setattr(start, "run_statements", here)
    sizes = ["--images", "9", "--annotations", "30", "--classes", "4", "--points", "5"]
    report = run(tmp_path, "coco-file", *sizes)
    assert list(report["steps"])[:2] == ["checks, first time", "checks, from the cache"]
    assert report["steps"]["loader"] == {"seconds": 0.5, "peak_mb": 100.0}
    assert report["file_mb"] > 0.003


def test_processes_that_fail_say_why() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_statements(["x = 1", "x / 0"])


@pytest.mark.parametrize("arguments", [["coco-file", "--repeat", "2"], ["import", "--device", "cpu"]])
def test_options_that_would_change_nothing_are_mistakes(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["benchmark", *arguments])
    assert left.value.code == 2
    assert f"unrecognized arguments: {arguments[1]}" in capsys.readouterr().err


def test_no_round_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *MAPPER[:-1], "0"]) == 2
    assert "--repeat is 0, expected 1 or more" in capsys.readouterr().err
