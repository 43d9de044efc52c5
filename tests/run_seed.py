"""The seed of this run of the tests."""

from __future__ import annotations

import os
import random

SEED = int(os.environ.get("DETR_D2_TEST_SEED") or random.SystemRandom().randrange(2**31))

os.environ["DETR_D2_TEST_SEED"] = str(SEED)  # for the workers of this run
