from __future__ import annotations

import pytest
import torch

from detr_d2.compare.cost import timing as benchmark
from detr_d2.compare.cost.timing import Timing, interleave, machine_info, ratio_of


def test_contestants_run_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0}
    calls: list[str] = []

    def work(name: str, seconds: float) -> None:
        calls.append(name)
        clock["now"] += seconds * len(calls)  # the machine gets slower all the time

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock["now"])
    rounds: list[int] = []
    timings = interleave(
        {"a": lambda: work("a", 1.0), "b": lambda: work("b", 2.0)},
        repeat=3,
        warmup=1,
        progress=lambda: rounds.append(len(calls)),
    )
    assert calls == ["a", "b"] * 4
    assert rounds == [2, 4, 6, 8]
    assert [timing.name for timing in timings] == ["a", "b"]
    assert timings[0].seconds == (3.0, 5.0, 7.0)  # calls 3, 5, 7: the first round was warm-up
    assert timings[1].seconds == (8.0, 12.0, 16.0)  # calls 4, 6, 8, twice the work
    assert timings[0].median_ms == 5000


def test_at_least_one_round() -> None:
    with pytest.raises(ValueError, match="is 0, expected at least 1"):
        interleave({"a": lambda: None}, repeat=0)


def test_ratio_is_taken_within_rounds() -> None:
    slow = Timing("slow", (3.0, 30.0, 300.0, 4.0, 40.0))
    fast = Timing("fast", (1.0, 10.0, 100.0, 1.0, 10.0))
    ratio = ratio_of(slow, fast)
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 3.0, 4.0)
    assert str(ratio) == "3.00x (3.00 - 4.00)"


def test_percentile() -> None:
    assert Timing("x", (40.0, 10.0, 30.0, 20.0)).p95_ms == pytest.approx(38_500)  # position 2.85 between 30 and 40
    assert Timing("x", (7.0,)).p95_ms == 7_000


def test_machine() -> None:
    info = machine_info("cpu")
    assert info["threads"] == torch.get_num_threads()
    assert info["torch"] == torch.__version__
    assert info["device"] == "cpu"
    assert info["processor"]
