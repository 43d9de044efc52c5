#!/usr/bin/env python
"""Trains or evaluates any detectron2 config; `python train_net.py --help` shows how."""

import sys

from detr_d2.tools import cli, train

if __name__ == "__main__":
    sys.exit(cli.run(train.main))
