from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_cfg

from detr_d2.__main__ import main
from detr_d2.benchmark import criterion as benchmark_criterion
from detr_d2.benchmark import deformable_attention as benchmark_attention
from detr_d2.benchmark import report as benchmark_report
from detr_d2.benchmark.criterion import Problem, SetLoss

SMALL = ["--batch", "2", "--queries", "6", "--layers", "2", "--objects", "3", "--classes", "4", "--repeat", "2"]


@pytest.mark.parametrize("backward", [False, True])
def test_criterion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, backward: bool
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.delenv("DETR_REPO", raising=False)
    arguments = [*SMALL, "--device", "cpu", "--output", str(tmp_path / "out.json"), *["--backward"] * backward]
    assert main(["benchmark", "criterion", *arguments]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [x["name"] for x in report["timings"]] == ["ours", "transformers"]
    for x in report["timings"]:
        assert len(x["seconds"]) == 2
        assert min(x["seconds"]) > 0
    ours, theirs = report["timings"]
    ratios = sorted(a / b for a, b in zip(theirs["seconds"], ours["seconds"], strict=True))
    assert theirs["time_ratio"]["median"] == pytest.approx(sum(ratios) / 2)
    assert max(report["differences"].values()) < 1e-4
    assert report["settings"]["layers"] == 2
    assert report["machine"]["threads"] == torch.get_num_threads()
    output = capsys.readouterr().out
    assert "forward and backward" in output if backward else "forward and backward" not in output
    assert "time / ours" in output


def test_different_results_are_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = benchmark_criterion.package_loss

    def wrong(problem: Problem) -> SetLoss:
        return lambda: {name: x + 0.01 * ("giou" in name) for name, x in right(problem)().items()}

    monkeypatch.setattr(benchmark_criterion, "package_loss", wrong)
    monkeypatch.setattr(benchmark_report, "interleave", lambda *_, **__: pytest.fail("timed"))
    assert main(["benchmark", "criterion", *SMALL, "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert "differ by more than 0.0001" in captured.err
    assert "loss_giou" in captured.err


def test_nothing_to_compare_with(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.delenv("DETR_REPO", raising=False)
    assert main(["benchmark", "criterion", *SMALL, "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert "not there: transformers, authors" in captured.out
    assert "nothing to compare with" in captured.err


ATTENTION = ["--height", "64", "--width", "48", "--channels", "4", "--heads", "2", "--levels", "2", "--repeat", "2"]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("queries", [0, 5])
def test_deformable_attention(tmp_path: Path, capsys: pytest.CaptureFixture[str], backward: bool, queries: int) -> None:
    arguments = [*ATTENTION, "--queries", str(queries), "--device", "cpu", *["--backward"] * backward]
    assert main(["benchmark", "deformable-attention", *arguments, "--output", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [x["name"] for x in report["timings"]] == ["ours", "grid_sample loop"]
    assert all(len(x["seconds"]) == 2 for x in report["timings"])
    assert set(report["differences"]) == {"output", "value", "locations", "weights"}
    assert max(report["differences"].values()) < 1e-4
    assert report["settings"]["backend"] == "auto"
    output = capsys.readouterr().out
    assert f"1 x {queries or 60} queries to 60 tokens of 2 levels" in output
    assert ("forward and backward" in output) == backward


def test_different_attention_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = benchmark_attention.package_attention
    monkeypatch.setattr(
        benchmark_attention, "package_attention", lambda problem, backend: 1.01 * right(problem, backend)
    )
    monkeypatch.setattr(benchmark_report, "interleave", lambda *_, **__: pytest.fail("timed"))
    assert main(["benchmark", "deformable-attention", *ATTENTION, "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert "differ by more than 0.0001" in captured.err
    assert "the gradient of the locations" in captured.out


def test_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(tiny_cfg("MODEL.DETR.NUM_CLASSES", 0).dump())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.yaml").write_text(tiny_cfg("MODEL.DETR.NUM_CLASSES", 0, "MODEL.WEIGHTS", "no.pth").dump())
    configs = [str(tmp_path / "a.yaml"), str(tmp_path / "b" / "a.yaml")]
    sizes = ["--height", "48", "--width", "64", "--batch", "2", "--classes", "5", "--repeat", "2", "--device", "cpu"]
    overrides = ["--opts", "MODEL.DETR.NUM_QUERIES", "3"]
    output = ["--output", str(tmp_path / "out.json")]
    assert main(["benchmark", "model", "--config-file", *configs, *sizes, *output, *overrides]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [x["name"] for x in report["timings"]] == ["a", "a-2"]
    assert report["timings"][0]["time_ratio"]["median"] == 1
    cfg = tiny_cfg("MODEL.DETR.NUM_CLASSES", 5, "MODEL.DETR.NUM_QUERIES", 3)
    from detectron2.modeling import build_model

    expected = sum(x.numel() for x in build_model(cfg).parameters())
    assert report["parameters"] == {"a": expected, "a-2": expected}
    assert "random weights" in capsys.readouterr().out


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["criterion", "--queries", "0"], "queries is 0"),
        (["criterion", *SMALL, "--repeat", "0"], "--repeat is 0"),
        (["criterion", *SMALL, "--contestants", "ours", "nobody"], "no contestant 'nobody'"),
        (["deformable-attention", "--levels", "0"], "levels is 0"),
        (["deformable-attention", *ATTENTION, "--backend", "triton"], "the tensors are on cpu"),
        (["model", "--config-file", "nowhere.yaml"], "nowhere.yaml"),
    ):
        assert main(["benchmark", *arguments, "--device", "cpu"]) == 2
        assert message in capsys.readouterr().err
