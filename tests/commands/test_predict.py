"""`predict`, and detectron2's own ways of predicting, with a small DETR of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from media_files import write_image, write_video
from PIL import Image
from pycocotools.coco import COCO
from tiny_models import tiny_cfg

from detr_d2.__main__ import main
from detr_d2.checkpoint import Checkpointer
from detr_d2.config import get_cfg
from detr_d2.data import register_coco
from detr_d2.engine import Trainer
from detr_d2.prediction.predictor import ImagePredictor
from detr_d2.prediction.videos import VideoReader

CATEGORIES = {1: "cat", 23: "bear", 24: "zebra", 56: "cup"}  # dataset id -> name; the model's classes are 0..3
SIZES = {"a.png": (61, 97), "b.png": (80, 64), "sub/c.png": (50, 50)}  # height, width


def small_config(*options: Any) -> CfgNode:
    common = ["MODEL.DETR.NUM_CLASSES", 4, "MODEL.DETR.NUM_QUERIES", 12, "INPUT.MIN_SIZE_TEST", 96]
    return tiny_cfg(*common, "INPUT.MAX_SIZE_TEST", 140, "DATALOADER.NUM_WORKERS", 0, *options)


def save_model(cfg: CfgNode, folder: Path, **metadata: Any) -> Path:
    """Random weights with boxes and classes that differ from query to query and from image to image."""
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "class_embed" in name or "bbox_embed" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    checkpointer = Checkpointer(model, str(folder))
    checkpointer.metadata.update(metadata)
    checkpointer.save("model")
    return folder / "model.pth"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, an annotation file with gaps in its ids, a checkpoint that knows its class names, a config file."""
    root = tmp_path_factory.mktemp("predict")
    images = []
    for index, (name, size) in enumerate(SIZES.items()):
        write_image(root / "images" / name, size, seed=index)
        images.append({"id": 100 + 7 * index, "file_name": name, "height": size[0], "width": size[1]})
    annotations = [
        {"id": 1, "image_id": 100, "category_id": 23, "bbox": [5, 5, 30, 20], "area": 600, "iscrowd": 0},
        {"id": 2, "image_id": 107, "category_id": 56, "bbox": [1, 2, 40, 30], "area": 1200, "iscrowd": 0},
    ]
    categories = [{"id": key, "name": name} for key, name in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content))
    cfg = small_config()
    save_model(cfg, root, class_names=list(CATEGORIES.values()))
    (root / "config.yaml").write_text(cfg.dump())
    return root


@pytest.fixture
def dataset(data: Path) -> str:
    return register_coco(f"predict_test={data / 'annotations.json'}:{data / 'images'}")


def predict(data: Path, output: Path, *arguments: object) -> int:
    common = ["predict", "--config-file", data / "config.yaml", "--weights", data / "model.pth", "--output", output]
    return main([str(x) for x in (*common, *arguments)])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def assert_same(first: Instances, second: Instances) -> None:
    assert first.image_size == second.image_size
    assert len(first) == len(second) > 0
    torch.testing.assert_close(first.pred_boxes.tensor, second.pred_boxes.tensor, rtol=0, atol=1e-4)
    torch.testing.assert_close(first.scores, second.scores, rtol=0, atol=1e-4)
    assert first.pred_classes.tolist() == second.pred_classes.tolist()


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_a_file_gives_the_detections_of_the_evaluation_loop(data: Path, dataset: str, image_format: str) -> None:
    cfg = small_config("INPUT.FORMAT", image_format, "MODEL.WEIGHTS", str(data / "model.pth"))
    cfg.DATASETS.TEST = (dataset,)
    default_predictor = DefaultPredictor(cfg)
    ours = ImagePredictor(cfg, model=default_predictor.model)
    seen = 0
    for inputs in Trainer.build_test_loader(cfg, dataset):
        with torch.no_grad():
            expected = default_predictor.model(inputs)[0]["instances"]
        image = read_image(inputs[0]["file_name"], format="BGR")
        assert expected.image_size == image.shape[:2]
        assert_same(default_predictor(image)["instances"], expected)
        assert_same(ours(image), expected)
        seen += 1
    assert seen == len(SIZES)


def test_without_height_and_width_boxes_are_pixels_of_the_resized_image(data: Path) -> None:
    cfg = small_config("MODEL.WEIGHTS", str(data / "model.pth"))
    predictor = DefaultPredictor(cfg)
    image = read_image(str(data / "images" / "a.png"), format="BGR")  # 61 x 97: the long side becomes 140
    inputs = ImagePredictor(cfg, model=predictor.model).inputs(image)
    assert inputs["image"].shape == (3, 88, 140)
    with torch.no_grad():
        resized = predictor.model([{"image": inputs["image"]}])[0]["instances"]
    original = predictor(image)["instances"]
    assert resized.image_size == (88, 140)
    resized.pred_boxes.scale(97 / 140, 61 / 88)
    torch.testing.assert_close(resized.pred_boxes.tensor, original.pred_boxes.tensor, rtol=0, atol=1e-4)
    torch.testing.assert_close(resized.scores, original.scores, rtol=0, atol=1e-4)


def test_detectron2s_own_evaluation_and_visualizer_take_the_model(data: Path, dataset: str, tmp_path: Path) -> None:
    cfg = small_config("MODEL.WEIGHTS", str(data / "model.pth"))
    cfg.DATASETS.TEST = (dataset,)
    predictor = DefaultPredictor(cfg)
    evaluator = COCOEvaluator(dataset, output_dir=str(tmp_path))
    results = inference_on_dataset(predictor.model, Trainer.build_test_loader(cfg, dataset), evaluator)
    assert 0 <= results["bbox"]["AP"] <= 100
    rows = read(tmp_path / "coco_instances_results.json")
    assert {row["image_id"] for row in rows} == {100, 107, 114}
    assert {row["category_id"] for row in rows} <= set(CATEGORIES)

    image = read_image(str(data / "images" / "a.png"), format="BGR")
    instances = predictor(image)["instances"]
    drawn = Visualizer(image[:, :, ::-1], predictor.metadata).draw_instance_predictions(instances).get_image()
    assert drawn.shape == image.shape
    assert not np.array_equal(drawn, image[:, :, ::-1])


def test_images_of_a_folder(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert predict(data, output, data / "images", "--score-threshold", "0") == 0
    contents = read(output / "images.json")
    assert [x["name"] for x in contents["categories"]] == list(CATEGORIES.values())  # from the checkpoint
    assert [x["id"] for x in contents["categories"]] == [0, 1, 2, 3]  # this one knows no ids
    assert [Path(x["file_name"]).name for x in contents["images"]] == ["a.png", "b.png", "c.png"]
    assert [(x["height"], x["width"]) for x in contents["images"]] == list(SIZES.values())
    for name, size in SIZES.items():
        drawn, original = read_image(str(output / name), "BGR"), read_image(str(data / "images" / name), "BGR")
        assert drawn.shape == (*size, 3)
        assert not np.array_equal(drawn, original)

    results = read(output / "predictions.json")
    predictor = DefaultPredictor(small_config("MODEL.WEIGHTS", str(data / "model.pth")))
    for x in contents["images"]:
        instances = predictor(read_image(x["file_name"], format="BGR"))["instances"]
        rows = [row for row in results if row["image_id"] == x["id"]]
        boxes = instances.pred_boxes.tensor.clone()
        boxes[:, 2:] -= boxes[:, :2]  # xyxy -> xywh
        torch.testing.assert_close(torch.tensor([row["bbox"] for row in rows]), boxes, rtol=0, atol=1e-4)
        assert [row["category_id"] for row in rows] == instances.pred_classes.tolist()


def test_ids_of_an_annotation_file_come_back_in_the_results(data: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "new.png", (40, 40), seed=9)
    spec = f"predict_cli={data / 'annotations.json'}:{data / 'images'}"
    output = tmp_path / "out"
    images = [data / "images" / "b.png", data / "images" / "sub" / "c.png", tmp_path / "new.png"]
    assert predict(data, output, *images, "--coco", spec, "--score-threshold", "0") == 0
    assert [x["id"] for x in read(output / "images.json")["images"]] == [107, 114, 115]
    results = read(output / "predictions.json")
    assert {row["category_id"] for row in results} <= set(CATEGORIES)

    images = [image for image in images if image.name != "new.png"]
    known = [row for row in results if row["image_id"] != 115]
    (tmp_path / "known.json").write_text(json.dumps(known))
    loaded = COCO(str(data / "annotations.json")).loadRes(str(tmp_path / "known.json"))
    assert len(loaded.anns) == len(known) == 2 * 12
    indices = DefaultPredictor(small_config("MODEL.WEIGHTS", str(data / "model.pth")))(
        read_image(str(images[0]), format="BGR")
    )["instances"].pred_classes.tolist()
    assert [row["category_id"] for row in known[:12]] == [list(CATEGORIES)[index] for index in indices]


def test_the_threshold_drops_detections(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = data / "images" / "a.png"
    assert predict(data, tmp_path / "all", image, "--score-threshold", "0") == 0
    scores = sorted(row["score"] for row in read(tmp_path / "all" / "predictions.json"))
    middle = (scores[5] + scores[6]) / 2
    assert scores[5] < middle < scores[6]
    assert "note: the AP" not in capsys.readouterr().out
    assert predict(data, tmp_path / "some", image, "--score-threshold", str(middle)) == 0
    assert "note: the AP of predictions.json is lower than that of the model" in capsys.readouterr().out
    assert sorted(row["score"] for row in read(tmp_path / "some" / "predictions.json")) == scores[6:]


def test_video(data: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    write_video(clip, frames=3)
    output = tmp_path / "out"
    assert predict(data, output, clip, "--score-threshold", "0") == 0

    images = read(output / "images.json")["images"]
    assert [(x["id"], x["frame"]) for x in images] == [(1, 0), (2, 1), (3, 2)]
    written = VideoReader(output / images[0]["picture"])
    assert written.size == (96, 64)
    assert written.rate == 10
    assert len(list(written)) == 3
    assert sorted(path.name for path in output.iterdir()) == sorted(
        ["images.json", "predictions.json", images[0]["picture"]]
    )
    results = read(output / "predictions.json")
    predictor = DefaultPredictor(small_config("MODEL.WEIGHTS", str(data / "model.pth")))
    for number, frame in enumerate(VideoReader(clip)):
        scores = [row["score"] for row in results if row["image_id"] == number + 1]
        torch.testing.assert_close(torch.tensor(scores), predictor(frame)["instances"].scores, rtol=0, atol=1e-4)


def test_pictures_are_named_relative_to_the_output(data: Path, tmp_path: Path) -> None:
    assert predict(data, tmp_path / "out", data / "images") == 0
    pictures = [x["picture"] for x in read(tmp_path / "out" / "images.json")["images"]]
    assert pictures == list(SIZES)  # "sub/c.png" among them
    assert all((tmp_path / "out" / picture).is_file() for picture in pictures)


def test_same_name_from_two_folders_gives_two_pictures(data: Path, tmp_path: Path) -> None:
    for index, folder in enumerate(("one", "two")):
        write_image(tmp_path / folder / "x.bmp", (32, 32), seed=index)
    assert predict(data, tmp_path / "out", tmp_path / "one" / "x.bmp", tmp_path / "two" / "x.bmp") == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"x.png", "x-2.png"}


def test_a_corrupt_image_is_named_and_the_others_are_worked_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in" / "good.png", (32, 32), seed=0)
    (tmp_path / "in" / "bad.png").write_bytes((tmp_path / "in" / "good.png").read_bytes()[:200])
    (tmp_path / "in" / "empty.mp4").write_bytes(b"")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "gone.png")
    write_image(tmp_path / "in" / "huge.png", (200, 200), seed=0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 19_999)  # more than twice as many are an error to Pillow
    assert predict(data, tmp_path / "out", tmp_path / "in") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    for name, error in zip(("bad.png", "empty.mp4", "huge.png", "link.png"), errors, strict=True):
        assert name in error
    assert [Path(x["file_name"]).name for x in read(tmp_path / "out" / "images.json")["images"]] == ["good.png"]


def test_nothing_is_overwritten_unless_asked(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = data / "images" / "a.png"
    assert predict(data, tmp_path / "out", image) == 0
    before = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    assert predict(data, tmp_path / "out", image, "--score-threshold", "0") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == before
    assert predict(data, tmp_path / "out", image, "--score-threshold", "0", "--overwrite") == 0
    assert len(read(tmp_path / "out" / "predictions.json")) == 12
    assert predict(data, data / "images", image) == 2
    assert "is an input" in capsys.readouterr().err


def test_mistakes_are_said_before_the_work(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = data / "images" / "a.png"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    arguments: dict[str, list[Any]] = {
        "nowhere.png does not exist": [tmp_path / "nowhere.png"],
        "holds no image": [tmp_path / "empty"],
        "given twice": [image, data / "images"],
        "no.pth": [image, "--weights", tmp_path / "no.pth"],
        "cannot write into": [image, "--output", tmp_path / "file"],
        "expected 0 to 1": [image, "--score-threshold", "50"],
        "--batch-size is 0": [image, "--batch-size", "0"],
        "trained on 4 classes": [image, "--classes", "a,b,c"],
        "none of them empty": [image, "--classes", "a,,c"],
        "NUM_CLASSES is 3": [image, "--opts", "MODEL.DETR.NUM_CLASSES", "3"],
        "MODEL.NO_SUCH_KEY": [image, "--opts", "MODEL.NO_SUCH_KEY", "3"],
        "has shape": [image, "--opts", "MODEL.DETR.NUM_QUERIES", "13"],
        "it is a model of another config": [image, "--opts", "MODEL.DETR.TRANSFORMER.NUM_DECODER_LAYERS", "4"],
        "no such config": [image, "--config-file", "no.yaml"],
    }
    for message, extra in arguments.items():
        assert predict(data, tmp_path / "out", *extra) == 2, message
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: "), error
        assert message in error
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_checkpoint_of_another_number_of_classes_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(small_config(), tmp_path)  # knows no class names
    weights = ["--weights", tmp_path / "model.pth"]
    image = data / "images" / "a.png"
    assert predict(data, tmp_path / "out", image, *weights, "--opts", "MODEL.DETR.NUM_CLASSES", "7") == 2
    error = capsys.readouterr().err
    assert "class_embed" in error
    assert "NUM_CLASSES" in error
    assert predict(data, tmp_path / "out", image, *weights, "--classes", "w,x,y,z") == 0
    assert [x["name"] for x in read(tmp_path / "out" / "images.json")["categories"]] == ["w", "x", "y", "z"]


def test_category_ids_of_the_checkpoint(data: Path, tmp_path: Path) -> None:
    save_model(small_config(), tmp_path, class_names=list(CATEGORIES.values()), category_ids=list(CATEGORIES))
    image = data / "images" / "a.png"
    extra = ["--weights", tmp_path / "model.pth", "--score-threshold", "0"]
    assert predict(data, tmp_path / "out", image, *extra, "--opts", "MODEL.DETR.NUM_CLASSES", "0") == 0
    predictor = DefaultPredictor(small_config("MODEL.WEIGHTS", str(tmp_path / "model.pth")))
    indices = predictor(read_image(str(image), format="BGR"))["instances"].pred_classes.tolist()
    ids = [row["category_id"] for row in read(tmp_path / "out" / "predictions.json")]
    assert ids == [list(CATEGORIES)[index] for index in indices]


def test_faster_rcnn(data: Path, tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.INPUT.MIN_SIZE_TEST = 64
    torch.manual_seed(0)
    Checkpointer(build_model(cfg), str(tmp_path)).save("frcnn")
    (tmp_path / "frcnn.yaml").write_text(cfg.dump())
    extra = ["--config-file", tmp_path / "frcnn.yaml", "--weights", tmp_path / "frcnn.pth", "--classes", "p,q,r,s"]
    assert predict(data, tmp_path / "out", data / "images" / "a.png", *extra, "--score-threshold", "0.2") == 0
    results = read(tmp_path / "out" / "predictions.json")
    assert results
    assert all(0.2 <= row["score"] <= 1 for row in results)


def test_parts_of_the_user_are_imported(data: Path, tmp_path: Path) -> None:
    own = tmp_path / "predicting_parts.py"
    own.write_text(
        "from detr_d2.modeling import TRANSFORMER_REGISTRY\n"
        "from detr_d2.modeling.transformer import DETRTransformer\n"
        "@TRANSFORMER_REGISTRY.register()\n"
        "class PredictingTransformer(DETRTransformer):\n"
        "    pass\n"
        "def add_config(cfg):\n"
        "    cfg.MODEL.MINE = 0\n"
    )
    write_image(tmp_path / "a.png", (40, 60), seed=1)
    options = ["--opts", "MODEL.MINE", 1, "MODEL.DETR.TRANSFORMER.NAME", "PredictingTransformer"]
    assert predict(data, tmp_path / "out", tmp_path / "a.png", "--import", own, *options) == 0
    assert (tmp_path / "out" / "a.png").exists()


def test_classes_in_another_order_and_ids_that_are_texts(data: Path, tmp_path: Path) -> None:
    """The annotation file names its categories and images in its own way; the names that are predicted stay."""
    content = read(data / "annotations.json")
    numbers = {name: 9 - i for i, name in enumerate(CATEGORIES.values())}
    content["categories"] = [{"id": number, "name": name} for name, number in numbers.items()]
    content["annotations"] = []
    for image in content["images"][1:]:  # the first image is not in the file
        image["id"] = f"IMG-{image['id']}"
    del content["images"][0]
    (tmp_path / "other.json").write_text(json.dumps(content))
    folder = data / "images"
    common = [folder, "--score-threshold", "0"]
    assert predict(data, tmp_path / "plain", *common, "--coco", f"plain={data / 'annotations.json'}:{folder}") == 0
    assert predict(data, tmp_path / "other", *common, "--coco", f"other={tmp_path / 'other.json'}:{folder}") == 0
    rows = [read(tmp_path / name / "predictions.json") for name in ("plain", "other")]
    name_of = {number: name for name, number in numbers.items()}
    assert [CATEGORIES[x["category_id"]] for x in rows[0]] == [name_of[x["category_id"]] for x in rows[1]]
    ids = [list(dict.fromkeys(x["image_id"] for x in found)) for found in rows]
    assert ids[1] == [1, *(f"IMG-{x}" for x in ids[0][1:])]
