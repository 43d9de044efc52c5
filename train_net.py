#!/usr/bin/env python
"""Trains or evaluates any detectron2 config; `python train_net.py --help` shows how."""

import sys

import detr_d2
from detr_d2 import cli

if __name__ == "__main__":
    if detr_d2.import_problem is not None:
        problem = f"torch and detectron2 cannot be imported here ({detr_d2.import_problem})"
        sys.exit(cli.fail(f"{problem}: use the Python of .venv, or see `python -m detr_d2 check-env`."))
    sys.exit(cli.run_command("train"))
