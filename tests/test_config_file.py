"""Config files are data: what they and their bases may hold, and what is said of anything else."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import detectron2.config
import pytest
from detectron2 import model_zoo
from detectron2.config import CfgNode as Detectron2CfgNode
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from detr_d2 import cli, config_file, get_cfg
from detr_d2.commands import train
from detr_d2.config_file import ConfigFileError, load_config_file
from detr_d2.config_node import CfgNode
from detr_d2.engine.startup.setup import load_config

RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"


def code(victim: Path) -> str:
    """A value that makes a folder when detectron2 reads it."""
    return f"!!python/object/apply:os.mkdir ['{victim}']"


class Memory(PathHandler):
    """Files of this test's process, as `memory://NAME`."""

    def __init__(self, files: dict[str, str]) -> None:
        super().__init__()
        self.files = files

    def _get_supported_prefixes(self) -> list[str]:
        return ["memory://"]

    def _open(self, path: str, mode: str = "r", *_: Any, **__: Any) -> Any:
        return io.StringIO(self.files[path]) if "b" not in mode else io.BytesIO(self.files[path].encode())


@pytest.mark.parametrize("place", ["file", "base", "relative base", "second base", "base of base", "URL", "memory"])
def test_code_is_refused_wherever_it_is_named(place: str, tmp_path: Path, web: str) -> None:
    bad, top = f"SEED: 1\nOUTPUT_DIR: {code(tmp_path / 'victim')}\n", tmp_path / "top.yaml"
    (tmp_path / "bad.yaml").write_text(bad)
    (tmp_path / "web" / "bad.yaml").write_text(bad)
    (tmp_path / "web" / "between.yaml").write_text("_BASE_: bad.yaml\n")
    (tmp_path / "good.yaml").write_text("SEED: 2\n")
    PathManager.register_handler(Memory({"memory://bad.yaml": bad}), allow_override=True)
    base = {
        "base": tmp_path / "bad.yaml",
        "relative base": "../" + tmp_path.name + "/bad.yaml",
        "second base": ["good.yaml", "bad.yaml"],
        "base of base": f"{web}/between.yaml",
        "URL": f"{web}/bad.yaml",
        "memory": "memory://bad.yaml",
    }
    top.write_text(bad if place == "file" else f"_BASE_: {base[place]}\n")
    words = r"yaml, line 2: the tag !!python/object/apply:os.mkdir is refused, .* the files that --import names"
    with pytest.raises(ConfigFileError, match=("top" if place == "file" else "bad") + r"\." + words):
        get_cfg().merge_from_file(str(top))
    with pytest.raises(ConfigFileError, match=words):
        get_cfg().merge_from_file(str(top), allow_unsafe=True)
    with pytest.raises(ValueError, match=words):
        load_config(str(top))
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    "value",
    [
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object:argparse.Namespace {}",
        "!!python/object/new:dict []",
        "!!python/object/apply:eval ['1']",
        "!mine 3",
        "[1, {a: !!python/complex 1}]",
    ],
)
def test_other_tags_are_refused_too(value: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"# a comment\nMODEL:\n  WEIGHTS: {value}\n")
    with pytest.raises(ConfigFileError, match=r"a\.yaml, line 3: the tag !.* is refused"):
        load_config_file(str(tmp_path / "a.yaml"))


def test_a_refused_tag_is_one_line_of_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(f"OUTPUT_DIR: {code(tmp_path / 'victim')}\n")
    assert cli.run(train.main, ["--config-file", str(tmp_path / "a.yaml")]) == cli.USER_ERROR
    assert capsys.readouterr().err.startswith(
        f"error: {tmp_path}/a.yaml, line 1: the tag !!python/object/apply:os.mkdir"
    )


def test_all_configs_of_detectron2_are_read_as_it_reads_them() -> None:
    root = Path(model_zoo.get_config_file(RETINANET)).parents[1]
    files = sorted(root.rglob("retinanet*.yaml")) + sorted(root.rglob("*R_50_FPN_3x.yaml"))
    assert len(files) == 10
    for file in files:
        expected = Detectron2CfgNode.load_yaml_with_base(str(file), allow_unsafe=True)
        assert load_config_file(str(file)) == expected, file
    own = get_cfg()
    own.merge_from_file(str(root / RETINANET))
    assert own.MODEL.ANCHOR_GENERATOR.SIZES[0] == [32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]


def test_a_base_in_the_zoo_may_compute_and_a_copy_of_it_may_not(tmp_path: Path) -> None:
    zoo = Path(model_zoo.get_config_file(RETINANET)).parents[1] / "Base-RetinaNet.yaml"
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {zoo}\nSEED: 3\n")
    (tmp_path / "link.yaml").symlink_to(zoo)
    (tmp_path / "copy.yaml").write_text(zoo.read_text())
    assert load_config_file(str(tmp_path / "mine.yaml"))["MODEL"]["ANCHOR_GENERATOR"]["SIZES"][4][0] == 512
    assert load_config_file(str(tmp_path / "link.yaml")) == load_config_file(str(zoo))
    with pytest.raises(
        ConfigFileError, match=r"copy\.yaml, line 8: the tag !!python/object/apply:eval .* name the file in .*"
    ):
        load_config_file(str(tmp_path / "copy.yaml"))


@pytest.mark.parametrize(
    "text", ["__import__('os').getpid()", "x", "[x for x in y]", "'a' * 9", "(lambda: 1)()", "[1][0]"]
)
def test_the_zoo_computes_lists_of_numbers_only(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_file, "_ZOO", str(tmp_path))
    (tmp_path / "a.yaml").write_text(f'A: !!python/object/apply:eval ["{text}"]\n')
    with pytest.raises(ConfigFileError, match=r"a\.yaml: .* is no number, list of numbers or product of such"):
        load_config_file(str(tmp_path / "a.yaml"))


def test_bases_are_merged_as_detectron2_merges_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yaml").write_text("SOLVER: {STEPS: !!python/tuple [3, 4], GAMMA: 0.5}\nSEED: 1\n")
    (tmp_path / "b.yaml").write_text("SOLVER:\n  GAMMA: 0.25\n")
    (tmp_path / "c.yaml").write_text("_BASE_: [~/a.yaml, b.yaml]\nSEED: 2\n")
    expected = {"SOLVER": {"STEPS": (3, 4), "GAMMA": 0.25}, "SEED": 2}
    assert load_config_file(str(tmp_path / "c.yaml")) == expected
    assert Detectron2CfgNode.load_yaml_with_base(str(tmp_path / "c.yaml"), allow_unsafe=True) == expected


def test_bases_of_two_servers_are_two_files(tmp_path: Path, web: str) -> None:
    other = web.replace("127.0.0.1", "localhost")
    (tmp_path / "web" / "folder").mkdir()
    (tmp_path / "web" / "folder" / "a.yaml").write_text("_BASE_: ../b.yaml\n")
    for seed, host in enumerate((web, other)):
        (tmp_path / "web" / "b.yaml").write_text(f"SEED: {seed}\n")
        (tmp_path / "top.yaml").write_text(f"_BASE_: {host}/folder/a.yaml\n")
        assert load_config_file(str(tmp_path / "top.yaml")) == {"SEED": seed}


def _bomb(first: str, line: str, depth: int) -> str:
    names = "abcdefghijklmnop"
    lines = [line.format(name=names[i + 1], items=", ".join([f"*{names[i]}"] * 10)) for i in range(depth)]
    return "\n".join([first, *lines])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n", "holds a list"),
        ("text\n", "holds a str"),
        ("\tSEED: 1\n", "not YAML: .*line 1"),
        ("SEED: [1\n", "not YAML: "),
        ("a: &a [*a]\n", "line 1: a value contains itself"),
        ("- " * 1000, "nested too deeply"),
        ("a: " + "{a: " * 1500, "nested too deeply"),
        (_bomb("a: &a [x, x, x, x, x, x, x, x, x, x]", "{name}: &{name} [{items}]", 12), "more than 100,000 values"),
        (_bomb("a: &a {A: 1}", "{name}: &{name} {{<<: [{items}]}}", 12), "more than 100,000 values"),
        ("1: 2\n", "line 1: a key is '1', expected text"),
        ("MODEL:\n  ? [a]\n  : 1\n", "line 2: a key is made of several values"),
        ("_BASE_: 3\n", "_BASE_ is 3, expected the path"),
        ("_BASE_: a.yaml\n", r"a\.yaml is its own _BASE_"),
        ("_BASE_: ./folder/../a.yaml\n", r"a\.yaml is its own _BASE_"),
        ("_BASE_: folder\n", r"folder, the _BASE_ of .*a\.yaml, is a folder"),
        ("_BASE_: ''\n", r"the _BASE_ of .*a\.yaml, is a folder"),
        ("SOLVER: {GAMMA: 0.5}\nSEED: 1\nSOLVER: {BASE_LR: 1.0}\n", "line 3: SOLVER is there already, in line 1"),
        ("SEED: 1\nSOLVER: {GAMMA: 0.5, GAMMA: 1.0}\n", "line 2: GAMMA is there already, in line 2"),
        ("!!python/name:os.system A: 1\n", "line 1: the tag !!python/name:os.system is refused"),
        ("SEED: 1\n? !!python/tuple [!mine a]\n: 1\n", "line 2: a key is made of several values"),
        ("_BASE_: detectron2://no/such.yaml\n", r"detectron2://no/such\.yaml could not be downloaded"),
        ("_BASE_: [b.yaml, b.yaml]\n", "has more than 50 files as its _BASE_"),
        ("_BASE_: c.yaml\nSEED: {a: 1}\n", "SEED has keys of its own here, but is 1 in its _BASE_"),
        ("SEED: 2019-99-99\n", r"a\.yaml: month must be in"),
    ],
)  # fmt: skip
def test_what_is_no_config_is_said(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(content)
    (tmp_path / "c.yaml").write_text("SEED: 1\n")
    (tmp_path / "folder").mkdir()
    for name, base in zip("bdefgh", ("d", "e", "f", "g", "h", "c"), strict=True):  # 2 + 4 + ... + 128 files
        (tmp_path / f"{name}.yaml").write_text(f"_BASE_: [{base}.yaml, {base}.yaml]\n")
    with pytest.raises(ConfigFileError, match=rf"{words}"):
        load_config(str(tmp_path / "a.yaml"))


def test_a_base_that_is_not_there_is_named_with_its_file(tmp_path: Path, web: str) -> None:
    (tmp_path / "a.yaml").write_text("_BASE_: nowhere.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml, the _BASE_ of .*a\.yaml, does not exist"):
        load_config(str(tmp_path / "a.yaml"))
    (tmp_path / "a.yaml").write_text(f"_BASE_: {web}/nowhere.yaml\n")
    with pytest.raises(ConfigFileError, match=r"http://.*/nowhere\.yaml could not be downloaded \(File not found\)"):
        load_config(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_and_line_ends_of_windows_are_read(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("OUTPUT_DIR: ä\r\nSOLVER: &s\r\n  GAMMA: 0.5\r\n".encode(encoding))
    assert load_config(str(tmp_path / "a.yaml")).OUTPUT_DIR == "ä"


def test_a_config_is_in_every_other_way_detectron2s(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.MODEL.MINE = detectron2.config.CfgNode({"WIDTH": 1})  # as users' add_config functions do
    (tmp_path / "a.yaml").write_text("MODEL: {MINE: {WIDTH: 2}}\n")
    for again in (cfg.clone(), copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert again == cfg
        assert type(again) is CfgNode
        again.merge_from_file(str(tmp_path / "a.yaml"))
        again.merge_from_list(["MODEL.MINE.WIDTH", 3, "SEED", 4])
        assert (again.MODEL.MINE.WIDTH, again.SEED) == (3, 4)
        again.freeze()
        assert again.MODEL.is_frozen()
        with pytest.raises(AttributeError, match="immutable"):
            again.SEED = 5
    assert CfgNode.load_cfg(cfg.dump()).dump() == Detectron2CfgNode.load_cfg(cfg.dump()).dump()
    (tmp_path / "old.yaml").write_text("VERSION: 1\nMODEL: {WEIGHT: x}\n")
    cfg.merge_from_file(str(tmp_path / "old.yaml"))
    assert (type(cfg), cfg.MODEL.WEIGHTS) == (CfgNode, "x")
