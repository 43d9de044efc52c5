"""The Triton kernels: in the interpreter, down to machine code without a GPU, and for real where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import deformable_cases
import pytest
import torch
from deformable_cases import KERNEL_CASES, NAMES, accumulated, kernel_differences

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}

on_gpu = pytest.mark.skipif(not torch.cuda.is_available() or INTERPRETED, reason="needs a GPU")


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """What the script reports; in a process of its own, because triton reads the variable when it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, deformable_cases.__file__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", KERNEL_CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_interpreted(interpreted: dict[str, Any], dtype: str, case: str, name: str) -> None:
    assert interpreted["differences"][dtype][case][name] < TOLERANCE[dtype]


def test_interpreted_gradients_add_in_float32(interpreted: dict[str, Any]) -> None:
    assert interpreted["accumulated"] == 3000  # float16 would stop at 2048


def test_refusals(interpreted: dict[str, Any]) -> None:
    second, unordered = interpreted["refusals"]
    assert "no second derivative" in second
    assert "use_deterministic_algorithms(True) forbids that" in unordered


def test_a_lost_location_stays_with_its_query_and_head(interpreted: dict[str, Any]) -> None:
    assert interpreted["lost"] == [False, False, True, False, False, False]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("generation", [75, *(pytest.param(x, marks=pytest.mark.slow) for x in (80, 90))])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_compiles_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: str, generation: int) -> None:
    """The interpreter accepts what the compiler does not."""
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from detr_d2.layers.deformable_attention import triton_kernels as deformable_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = {"HEADS": 3, "CHANNELS": 24, "LEVELS": 2, "POINTS": 2, "BLOCK_ROWS": 16, "BLOCK_CHANNELS": 32}
    types = {"value": dtype, "output": dtype, "grad_output": dtype, "attention": dtype, "by_attention": dtype}
    types |= {"table": "i32", "locations": "fp32", "by_value": "fp32", "by_location": "fp32"}
    for kernel in (deformable_triton._forward_kernel, deformable_triton._backward_kernel):
        signature = {name: f"*{types[name]}" if name in types else "i32" for name in kernel.arg_names}
        signature |= dict.fromkeys(sizes, "constexpr")
        compiled = triton_compile(
            ASTSource(kernel, signature, sizes),
            target=GPUTarget("cuda", generation, 32),
            options={"num_warps": 4, "enable_fp_fusion": True},
        )
        assert len(compiled.asm["cubin"]) > 0
        adds = [line for line in compiled.asm["ptx"].splitlines() if "red.global" in line or "atom." in line]
        assert bool(adds) == (kernel is deformable_triton._backward_kernel)
        assert all("f32" in line for line in adds)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    tolerance = TOLERANCE[str(dtype).removeprefix("torch.")]
    for case, differences in kernel_differences(dtype, "cuda").items():
        for name, difference in differences.items():
            assert difference < tolerance, f"{name} of the case {case!r}"
    assert accumulated(dtype, "cuda") == torch.tensor(3000.0).to(dtype).item()
