"""Pictures and videos of noise."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, size: tuple[int, int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)


def write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    for seed in range(frames):
        writer.write(np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    writer.release()
