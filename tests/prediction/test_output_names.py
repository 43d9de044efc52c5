"""Names of outputs: no two the same, on no file system, whatever the inputs are called."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_d2.prediction import output_names
from detr_d2.prediction.media import Media
from detr_d2.prediction.output_names import Output, OutputNames, frame_name, match_images, plan_outputs


def plan(names: list[str], folder: Path, *, maps: bool = True, overwrite: bool = False) -> list[Output]:
    media = [Media(path=folder / "in" / name, name=Path(name)) for name in names]
    return plan_outputs(media, folder / "out", maps=maps, overwrite=overwrite)


@pytest.fixture(autouse=True)
def _mp4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_names, "video_suffix", lambda: ".mp4")


@pytest.mark.parametrize(
    ("inputs", "pictures", "maps"),
    [
        (["a.jpg"], ["a.jpg"], ["a.png"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"], ["a.png", "a-2.png"]),
        (["a.bmp", "a.tif", "a.gif"], ["a.png", "a-2.png", "a-3.png"], ["a.png", "a-2.png", "a-3.png"]),
        (["A.png", "a.png"], ["A.png", "a-2.png"], ["A.png", "a-2.png"]),
        (["scan.2024", "scan.2025"], ["scan.2024.png", "scan.2025.png"], ["scan.2024.png", "scan.2025.png"]),
        (["d.x/a.b.TIF"], ["d.x/a.b.png"], ["d.x/a.b.png"]),
        (["cam1.2024.01.05.avi"], ["cam1.2024.01.05.mp4"], ["cam1.2024.01.05"]),
        (["cam.1.mp4", "cam.1.avi"], ["cam.1.mp4", "cam.1-2.mp4"], ["cam.1", "cam.1-2"]),
        (["clip.mp4", "clip-000000.png"], ["clip.mp4", "clip-000000.png"], ["clip-2", "clip-000000.png"]),
        (["x.png", "panoptic/x.png"], ["x.png", "panoptic/x.png"], ["x-2.png", "panoptic/x.png"]),
        (["scan.jpg", "scan.jpg/p.png"], ["scan.jpg", "scan-2.jpg/p.png"], ["scan.png", "scan-2.jpg/p.png"]),
        (["scan.jpg/p.png", "scan.jpg"], ["scan.jpg/p.png", "scan-2.jpg"], ["scan.jpg/p.png", "scan-2.png"]),
        (["images.json/p.png"], ["images-2.json/p.png"], ["images-2.json/p.png"]),
    ],
)  # fmt: skip
def test_names_of_pictures_and_maps(tmp_path: Path, inputs: list[str], pictures: list[str], maps: list[str]) -> None:
    outputs = plan(inputs, tmp_path)
    assert [x.picture.as_posix() for x in outputs] == pictures
    assert [x.map.as_posix() for x in outputs if x.map] == maps
    assert plan(inputs, tmp_path, maps=False) == [Output(x.picture) for x in outputs]


PARTS = ["a", "A", "é", "e\u0301", "a.b", "a-2", "clip", "clip-000000", "clip-000001", "panoptic", "x.png"]
SUFFIXES = [".png", ".jpg", ".PNG", ".tif", ".avi", ".mp4", "", ".json"]
NAMES = st.builds(
    lambda parts, suffix: "/".join(parts) + suffix,
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=3),
    st.sampled_from(SUFFIXES),
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(names=st.lists(NAMES, max_size=8))
def test_no_two_files_of_one_run_have_the_same_name(names: list[str]) -> None:
    media = [Media(path=Path("/in", str(index)), name=Path(name)) for index, name in enumerate(names)]
    claimed: list[list[Path]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_names, "claim_files", lambda files, **_: claimed.append(files))
        outputs = plan_outputs(media, Path("/nowhere"), maps=True, overwrite=False)
    files = [path.relative_to("/nowhere") for path in claimed[0]]
    for item, output in zip(media, outputs, strict=True):
        if item.is_video and output.map:
            files += [Path("panoptic") / frame_name(output.map, number) for number in (0, 1, 2_000_000)]
    keys = {unicodedata.normalize("NFC", str(file)).casefold() for file in files}
    assert len(keys) == len(files)
    folders = {unicodedata.normalize("NFC", str(x)).casefold() for file in files for x in file.parents}
    assert not keys & folders


def test_what_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    for existing in ("out/a.png", "out/panoptic/a.png", "out/panoptic/clip-000003.png", "out/panoptic.json"):
        (tmp_path / existing).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / existing).touch()
        with pytest.raises(ValueError, match=rf"{existing} exists already"):
            plan(["a.png", "clip.mp4"], tmp_path)
        plan(["a.png", "clip.mp4"], tmp_path, overwrite=True)
        (tmp_path / existing).unlink()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    (tmp_path / "out" / "panoptic" / "a.png").symlink_to(tmp_path / "in" / "a.png")
    with pytest.raises(ValueError, match=r"panoptic/a\.png is an input"):
        plan(["a.png"], tmp_path, overwrite=True)


def test_numbers() -> None:
    names = OutputNames(["a"])
    assert [names.claim(Path("A")) for _ in range(2)] == [Path("A-2"), Path("A-3")]


def test_images_of_an_annotation_file_are_found_by_path_and_through_links(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for name in ("one", "two", "three"):
        (tmp_path / "store" / name).touch()
    links = {"a": "one", "b": "one", "c": "two", "other c": "two", "d": "three"}
    for link, name in links.items():
        (tmp_path / f"{link}.png").symlink_to(tmp_path / "store" / name)
    known = {tmp_path / "a.png": "A", tmp_path / "b.png": "B", tmp_path / "c.png": 7, tmp_path / "store/three": 0}
    paths = [tmp_path / f"{link}.png" for link in links] + [tmp_path / "store" / "one", tmp_path / "store" / "three"]
    media = [Media(path=path, name=Path(path.name)) for path in paths]
    found = match_images(media, known)
    assert {path.name: image_id for path, image_id in found.items()} == {
        "a.png": "A",
        "b.png": "B",
        "c.png": 7,
        "three": 0,
    }
    assert match_images(media[4:5], known) == {paths[4]: 0}  # a link to it, where it is not an input itself
    assert match_images(media[5:6], known) == {}  # a and b alike
