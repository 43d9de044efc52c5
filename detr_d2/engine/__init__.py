"""Training: the trainer, the step it repeats, the processes it runs in, and what is checked before it starts."""

from .evaluators import build_evaluator
from .startup.launch import launch
from .startup.setup import setup
from .train_step import TrainStep
from .trainer import Trainer

__all__ = ["TrainStep", "Trainer", "build_evaluator", "launch", "setup"]
