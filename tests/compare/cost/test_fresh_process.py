"""Work in a fresh process: what comes back, and what is said when nothing does."""

from __future__ import annotations

import pytest

from detr_d2.compare.cost.fresh_process import measured_mb, run_python


def test_the_marked_line_comes_back() -> None:
    code = "import os; print('noise'); print('result: ' + os.environ['A_VALUE']); print('result: later')"
    assert run_python(["-c", code], "result: ", {"A_VALUE": "5"}) == "5"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('noise')", "the process printed no line that begins with 'result: '"),
        ("raise ValueError('broken in two')", "ValueError: broken in two"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_failures_say_what_happened(code: str, message: str) -> None:
    with pytest.raises(RuntimeError) as failure:
        run_python(["-c", code], "result: ")
    assert str(failure.value) == message


def test_a_module_gets_its_task_as_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("module")
    code = "import json, sys; print('bytes:', json.load(open(sys.argv[1]))['count'] * 1000)"
    (folder / "measures_nothing.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    assert measured_mb("measures_nothing", {"count": 1500}, "bytes:") == 1.5
