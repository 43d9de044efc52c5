"""`benchmark infer`, `train-step`, `scaling` and `ceilings` on small models; no time is ever compared."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from parity_models import small_cfg
from tiny_baselines import tiny_faster_rcnn_cfg
from tiny_deformable import tiny_deformable_cfg

from detr_d2.__main__ import main
from detr_d2.benchmark import ceilings as benchmark_ceilings
from detr_d2.benchmark import contestants as benchmark_contestants
from detr_d2.benchmark import memory as benchmark_memory
from detr_d2.benchmark import models as benchmark_models
from detr_d2.benchmark import report as benchmark_report
from detr_d2.benchmark.contestants import build_contestant, our_weights, why_not_compiled

SMALL = ["--batch", "2", "--classes", "5", "--repeat", "2", "--device", "cpu", "--size", "48x64", "--mixed"]


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(small_cfg().dump())
    return str(path)


@pytest.fixture
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETR_REPO", raising=False)


def run(command: str, config: str, tmp_path: Path, *options: str) -> dict[str, Any]:
    output = tmp_path / "out.json"
    assert main(["benchmark", command, "--config-file", config, *SMALL, "--output", str(output), *options]) == 0
    report = json.loads(output.read_text())
    assert report["machine"]["threads"] == torch.get_num_threads()
    return report


def names_of(report: dict[str, Any]) -> list[str]:
    return [x["name"] for x in report["timings"]]


def test_other_libraries_have_no_mixed_query_selection() -> None:
    cfg = tiny_deformable_cfg("mixed")
    for name in ("transformers", "authors"):
        assert "has no mixed query selection" in str(benchmark_contestants.missing(name, cfg))
    assert benchmark_contestants.missing("ours", cfg) is None


@pytest.mark.usefixtures("only_ours")
def test_those_that_are_there_take_part(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    report = run("infer", config, tmp_path)
    assert names_of(report) == ["ours", "ours-eager", "transformers"]
    assert report["differences"].keys() == {"ours-eager", "transformers"}
    assert all(0 <= x < 1e-4 for values in report["differences"].values() for x in values.values())
    assert all(len(x["seconds"]) == 2 for x in report["timings"])
    output = capsys.readouterr().out
    assert "not there: authors: DETR_REPO" in output
    assert "mixed sizes" in output


@pytest.mark.skipif(not os.environ.get("DETR_REPO"), reason="set DETR_REPO to a checkout of the authors' repository")
@pytest.mark.parametrize("command", ["infer", "train-step"])
def test_the_authors_take_part(config: str, tmp_path: Path, command: str) -> None:
    report = run(command, config, tmp_path, "--contestants", "ours", "authors")
    assert names_of(report) == ["ours", "authors"]


@pytest.mark.usefixtures("only_ours")
def test_another_detector_is_timed_only(config: str, tmp_path: Path) -> None:
    faster_rcnn = tmp_path / "rcnn.yaml"

    faster_rcnn.write_text(tiny_faster_rcnn_cfg().dump())
    name = f"detectron2:{faster_rcnn}"
    report = run("infer", config, tmp_path, "--contestants", "ours", name)
    assert names_of(report) == ["ours", name]
    assert report["differences"] == {}


def test_training_steps(config: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    report = run("train-step", config, tmp_path, "--contestants", "ours", "transformers", "--checkpoint")
    assert names_of(report) == ["ours", "transformers", "ours-recompute"]
    assert report["differences"].keys() == {"transformers", "ours-recompute"}
    assert all(values.keys() == {"losses", "gradient norm"} for values in report["differences"].values())
    curves = report["losses"]
    assert all(len(x) == 4 for x in curves.values())  # two rounds of warm-up, two timed
    assert all(x[0] != x[-1] for x in curves.values())  # the optimizer has moved the weights


@pytest.mark.usefixtures("only_ours")
def test_compiled_is_told_apart_from_its_first_call(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The compiler itself has no part in this: a stand-in hands the function back, and must be asked for it."""
    asked: list[dict[str, Any]] = []

    def stand_in(function: Any, **options: Any) -> Any:
        asked.append(options)
        return function

    monkeypatch.setattr(benchmark_contestants, "why_not_compiled", lambda _: None)
    monkeypatch.setattr(torch, "compile", stand_in)
    report = run("infer", config, tmp_path, "--contestants", "ours", "ours-eager", "ours-compiled")
    assert asked == [{"dynamic": False}]
    assert names_of(report) == ["ours", "ours-eager", "ours-compiled"]
    assert report["differences"].keys() == {"ours-eager", "ours-compiled"}
    assert report["warm_up_seconds"].keys() == {"ours-compiled"}
    assert report["warm_up_seconds"]["ours-compiled"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert ["first call of" in x for x in lines if x.startswith("ours")] == [False, False, True]


@pytest.mark.slow
@pytest.mark.skipif(why_not_compiled("cpu") is not None, reason="torch.compile needs a C++ compiler")
def test_compiled_equals_ours(config: str, tmp_path: Path) -> None:
    report = run("infer", config, tmp_path, "--contestants", "ours", "ours-compiled")
    assert all(0 <= x < 1e-4 for x in report["differences"]["ours-compiled"].values())


def test_compiling_needs_a_compiler(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler --flag")
    assert main(["benchmark", "infer", "--config-file", config, *SMALL, "--contestants", "ours", "ours-compiled"]) == 2
    error = capsys.readouterr().err
    assert "torch.compile needs a C++ compiler, and no-such-compiler is not there" in error
    assert len(error.strip().splitlines()) == 1
    assert why_not_compiled("cuda") is None


@pytest.mark.parametrize("command", ["train-step", "scaling"])
def test_compiled_only_predicts(config: str, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main(["benchmark", command, "--config-file", config, *SMALL, "--contestants", "ours-compiled"]) == 2
    assert "ours-compiled takes part in `benchmark infer` only" in capsys.readouterr().err


def test_recomputation_is_of_transformer_and_backbone() -> None:
    cfg = small_cfg()
    model = build_contestant("ours-recompute", cfg, our_weights(cfg, 0), {}, "cpu").model
    assert model.get_submodule("transformer.encoder").recompute
    assert model.get_submodule("backbone").recompute


def test_autocast_is_beside_float32(config: str, tmp_path: Path) -> None:
    report = run("infer", config, tmp_path, "--contestants", "ours", "--amp", "bf16")
    assert names_of(report) == ["ours", "ours-float32"]
    changes = report["autocast_differences"]["ours"]
    assert 1e-5 < changes["boxes"] < 0.5
    report = run("train-step", config, tmp_path, "--contestants", "ours", "--amp", "bf16")
    assert names_of(report) == ["ours", "ours-float32"]
    assert report["losses"]["ours"][0] != report["losses"]["ours-float32"][0]


@pytest.mark.parametrize("command", ["infer", "train-step"])
def test_different_results_are_not_timed(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    right = benchmark_models.build_contestant

    def wrong(name: str, *arguments: Any) -> benchmark_contestants.Contestant:
        contestant = right(name, *arguments)
        if name == "ours-eager":
            with torch.no_grad():
                contestant.model.get_parameter("head.class_embed.bias")[0] += 0.01
        return contestant

    monkeypatch.setattr(benchmark_models, "build_contestant", wrong)
    monkeypatch.setattr(benchmark_report, "interleave", lambda *_, **__: pytest.fail("timed"))
    arguments = ["--config-file", config, *SMALL, "--contestants", "ours", "ours-eager"]
    assert main(["benchmark", command, *arguments]) == 1
    error = capsys.readouterr().err
    assert "differ by more than 0.0001 from those of ours-eager" in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.usefixtures("only_ours")
def test_times_are_kept_where_memory_cannot_be_measured(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> float:
        raise RuntimeError("killed")

    monkeypatch.setattr(benchmark_memory, "measured_mb", fail)
    output = tmp_path / "out.json"
    arguments = ["--config-file", config, *SMALL, "--contestants", "ours", "--memory", "--output", str(output)]
    assert main(["benchmark", "infer", *arguments]) == 1
    assert "error: the memory of ours could not be measured: killed" in capsys.readouterr().err
    report = json.loads(output.read_text())
    assert report["added_memory_mb"] == {"ours": None}
    assert len(report["timings"][0]["seconds"]) == 2


def test_memory_of_contestants(config: str, tmp_path: Path) -> None:
    """Libraries and model, some hundred MB, do not count; gradients and activations do."""
    options = ["--contestants", "ours", "--memory", "--repeat", "1", "--batch", "1"]
    report = run("train-step", config, tmp_path, *options)
    parameters = 4 * sum(x.numel() for x in build_model(small_cfg()).parameters() if x.requires_grad)
    assert parameters / 1e6 < report["added_memory_mb"]["ours"] < 350


@pytest.mark.usefixtures("only_ours")
def test_scaling(config: str, tmp_path: Path) -> None:
    picture = tmp_path / "plots" / "scaling.png"
    options = ["--sizes", "32x32", "64x48", "--queries", "3", "--batches", "--contestants", "ours", "ours-eager"]
    report = run("scaling", config, tmp_path, *options, "--plot", str(picture))
    assert {axis: [x["value"] for x in points] for axis, points in report["curves"].items()} == {
        "megapixels": [32 * 32 / 1e6, 64 * 48 / 1e6],
        "queries": [3],
    }
    assert report["curves"]["queries"][0]["median_ms"].keys() == {"ours", "ours-eager"}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_ceilings(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = benchmark_ceilings.ceilings_work
    monkeypatch.setattr(benchmark_ceilings, "ceilings_work", lambda device, dtype: right(device, dtype, 0.05))
    report = run("ceilings", config, tmp_path)
    assert report["ceilings"].keys() == {"matrix product", "3x3 convolution", "memory copy"}
    rate = 2 * report["gflops"] / report["timings"][0]["median_ms"] * 1000
    assert report["fraction"] == pytest.approx(rate / report["ceilings"]["matrix product"])


@pytest.mark.usefixtures("only_ours")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--contestants", "authors"], "contestant authors: DETR_REPO is ''"),
        (["--contestants", "ours", "theirs"], "there is no contestant 'theirs'"),
        (["--contestants", "ours", "ours"], "one twice"),
        (["--contestants", "detectron2:nowhere.yaml"], "nowhere.yaml"),
        (["--batch", "0"], "batch is 0"),
        (["--config-file", "faster_rcnn_r50_fpn.yaml"], "expected a DETR"),
    ],
)
def test_mistakes(config: str, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["benchmark", "infer", "--config-file", config, *SMALL, *options]) == 2
    assert message in capsys.readouterr().err


def test_transformers_must_be_installed(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark_contestants.importlib.util, "find_spec", lambda _: None)
    assert main(["benchmark", "infer", "--config-file", config, *SMALL, "--contestants", "transformers"]) == 2
    assert "transformers is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["800", "x", "0x3", "-1x4", "3x4x5"])
def test_sizes_are_height_and_width(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", "infer", f"--size={text}"])
    assert "is not HEIGHTxWIDTH" in capsys.readouterr().err
