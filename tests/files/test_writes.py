"""Nothing of the package writes, renames or deletes past `detr_d2.files`, but what is listed here with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What writes to a path, by the last parts of its name. `.replace` of a path looks like that of a text: `os.replace` is
# what the package uses.
WRITES = {
    *("write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "imwrite", "VideoWriter", "to_csv"),
    *("os.open", "os.replace", "os.rename", "rename", "os.truncate", "os.link", "os.symlink"),
    *("shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move"),
    *("rmtree", "unlink", "os.remove", "os.unlink", "rmdir", "mkdtemp", "mkstemp", "NamedTemporaryFile"),
}
# What writes to a path or into an open file; which of the two shows from the name of the argument.
WRITES_TO = {"torch.save", "np.save", "np.savez", "np.savez_compressed", "pickle.dump", "json.dump", "savefig", "save"}
OPEN_FILES = {"file", "buffer"}
RECORDS = {"self.checkpointer.save", "result.save", "collected.save"}  # methods of our own, which write through it

ALLOWED = {
    # The writer itself, and the lock, which is made in one step.
    "files/writing.py: os.replace, os.rename, os.truncate, os.unlink, rmdir, rmtree, open",
    "files/temporaries.py: os.open, os.unlink, rmtree",
    "files/write_errors.py: open",
    "files/folder_lock.py: os.open, os.link, os.unlink, open",
    # Within a folder that appears as a whole, or that is thrown away.
    "data/shapes/synthetic.py: save",
    "benchmark/coco.py: write_text",
    "benchmark/mapper.py: save",
    "compare/cost/fresh_process.py: write_text",
    "compare/cost/memory.py: torch.save",
    "installation/bootstrap.py: rmtree",
    # Files that this package has made, by their names: on --fresh, on --overwrite, or when a training is finished.
    "compare/found/cache.py: unlink",
    "compare/run_costs.py: unlink",
    "commands/attention.py: unlink",
    "experiments/training_job.py: unlink, rmdir",
    # OpenCV and PyAV take a name, here that of a new file.
    "prediction/videos.py: VideoWriter, open",
    # From a folder beside, where it was downloaded.
    "downloads.py: os.replace",
    # What is not a file of the user's: a switch of the kernel, /dev/null, the console of a training.
    "compare/cost/memory.py: write_text",
    "cli.py: os.open",
    "experiments/timed_training.py: open",
}


def writes(tree: ast.AST) -> Iterator[str]:
    """The names of all calls of a file that write, rename or delete."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = _dotted(node.func)
        last, last_two = name.rpartition(".")[2], ".".join(name.split(".")[-2:])
        if last == "open" and _writes_by_mode(node):
            yield "open"
        elif (last != name or last == "rmtree") and (
            last_two in WRITES or last in WRITES
        ):  # a bare `write_text` is that of `detr_d2.files`
            yield last_two if last_two in WRITES else last
        elif (last_two in WRITES_TO or last in WRITES_TO) and name not in RECORDS and not _into_open_file(node):
            yield last_two if last_two in WRITES_TO else last


def _dotted(node: ast.expr) -> str:
    """A name with its dots; what is called or indexed on the way is one part, "()"."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "()"


def _writes_by_mode(node: ast.Call) -> bool:
    modes = [x.value for x in (*node.args, *(k.value for k in node.keywords)) if isinstance(x, ast.Constant)]
    return any(isinstance(x, str) and set(x) <= set("rwxabt+") and set(x) & set("wxa+") for x in modes)


def _into_open_file(node: ast.Call) -> bool:
    return any(isinstance(x, ast.Name) and x.id in OPEN_FILES for x in node.args)


def _found() -> set[str]:
    package = ROOT / "detr_d2"
    found = set()
    for path in sorted(package.rglob("*.py")):
        names = sorted(set(writes(ast.parse(path.read_text(encoding="utf-8")))))
        found |= {f"{path.relative_to(package).as_posix()}: {name}" for name in names}
    return found


def test_all_files_are_written_by_the_one_writer() -> None:
    allowed = {f"{line.partition(': ')[0]}: {name}" for line in ALLOWED for name in line.partition(": ")[2].split(", ")}
    assert _found() == allowed


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("open(path, 'w')", "open"),
        ("path.open('ab')", "open"),
        ("os.fdopen(x, 'w'); open(path, mode='r+b')", "open"),
        ("open(path); open(path, 'rb'); open(path, encoding='utf-8')", None),
        ("Path(x).write_text(y, encoding='utf-8')", "write_text"),
        ("cv2.imwrite(str(path), image)", "imwrite"),
        ("figure.savefig(path)", "savefig"),
        ("figure.savefig(buffer, format='svg')", None),
        ("torch.save(data, path)", "torch.save"),
        ("write_file(path, lambda file: torch.save(data, file))", None),
        ("np.savez(partial, **arrays)", "np.savez"),
        ("Image.fromarray(x).save(path, quality=90)", "save"),
        ("self.checkpointer.save('model_best')", None),
        ("shutil.rmtree(folder, ignore_errors=True)", "rmtree"),
        ("for x in folder.glob('*'): x.unlink()", "unlink"),
        ("name.replace('a', 'b')", None),
    ],
)
def test_writes_are_found(code: str, name: str | None) -> None:
    assert list(writes(ast.parse(code))) == ([] if name is None else [name])
