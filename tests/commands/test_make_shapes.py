"""The command that makes a shapes dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detr_d2.commands.make_shapes import main


def test_options_reach_the_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shapes"
    options = ["--size", "96", "64", "--objects", "1", "2", "--object-size", "10", "20", "--noise", "2.5", "--panoptic"]
    assert main([str(out), "--images", "3", "--seed", "4", "--difficulty", "crowded", *options]) == 0
    made_with = json.loads((out / "parameters.json").read_text())
    expected = {
        "num_images": 3, "seed": 4, "width": 96, "height": 64, "min_objects": 1, "max_objects": 2, "min_size": 10,
        "max_size": 20, "noise": 2.5, "panoptic": True, "stacking": 0.8,
    }  # fmt: skip
    assert {key: made_with[key] for key in expected} == expected
    assert f"--coco NAME={out / 'annotations.json'}:{out / 'images'}" in capsys.readouterr().out
    assert len(list((out / "images").iterdir())) == 3
    assert (out / "panoptic.json").exists()


def test_second_call_says_that_it_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = [str(tmp_path / "shapes"), "--images", "1", "--seed", "0"]
    assert main(call) == 0
    assert "is there already" not in capsys.readouterr().out
    assert main(call) == 0
    assert "is there already, made with the same parameters" in capsys.readouterr().out


def test_shapes_that_find_no_place_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crowd = ["--objects", "60", "60", "--max-overlap", "0"]
    assert main([str(tmp_path / "shapes"), "--images", "1", "--seed", "0", *crowd]) == 0
    made = json.loads((tmp_path / "shapes" / "annotations.json").read_text())["annotations"]
    assert f"{60 - len(made)} shapes found no place" in capsys.readouterr().out


def test_bad_values_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        main([str(tmp_path / "shapes"), "--images", "0", "--seed", "0"])
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "shapes"), "--images", "1", "--seed", "0", "--difficulty", "extreme"])
    assert stop.value.code == 2
