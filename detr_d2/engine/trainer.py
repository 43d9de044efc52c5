"""The trainer: detectron2's `DefaultTrainer` with DETR's recipe, on any device, resuming exactly."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .. import solver
from ..checkpoint import Checkpointer
from ..data import build_stock_mapper, check_order_of_classes
from ..data.registration import is_panoptic
from ..modeling import build_model
from .build import build_train_step, class_metadata, distribute, share_buffers
from .evaluators import build_evaluator
from .hooks import BestCheckpoint, PeriodicCheckpoint, PeriodicWriter, TrimMemory, naming_images
from .main_process import hold_output_dir
from .resume.last_checkpoint import find_last_checkpoint
from .resume.metrics_file import forget_metrics, with_whole_lines
from .resume.numbered_loader import NumberedLoader
from .resume.training_state import (
    apply_config,
    check_same_optimizer,
    collect_process_states,
    get_random_state,
    hyperparameters,
    log_resume,
    next_iteration,
    process_state,
    restore_before_loader,
    restore_random_state,
    solver_settings,
)
from .weight_average import WeightAverage

logger = logging.getLogger(__name__)

WRITE_PERIOD = 20  # iterations, as in detectron2


class Trainer(DefaultTrainer):
    """Trains and evaluates any detectron2 model; a config without our keys trains as with `DefaultTrainer`.

    Resuming continues as if the run had not been interrupted: the same images, the same random numbers, the best AP.
    Learning rate and schedule are always those of the config; a line says so where the checkpoint had others.

    With `SOLVER.EMA_DECAY`, the average of the weights is what is evaluated and saved; see `WeightAverage`. Hooks of
    your own do that inside `evaluated_weights`; outside, the model has the weights, after training too.

    Differs from `DefaultTrainer` in

    * the step (`TrainStep`), the optimizer and the schedule (`detr_d2.solver`);
    * the n-th image of a run is augmented by random numbers that depend on the seed and n alone;
    * several processes work without GPUs too;
    * an iteration's checkpoint is saved after its evaluation, so that resuming does not lose the result.

    Args:
        cfg: a config with the keys of `add_detr_config`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)  # DefaultTrainer's own wraps the model for GPUs only
        for name in ("detectron2", "detr_d2"):
            if not logging.getLogger(name).isEnabledFor(logging.INFO):
                setup_logger(name=name)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        check_order_of_classes(cfg)
        # The order in which DefaultTrainer builds, and so the order in which random numbers are drawn.
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self._before_loader = get_random_state()
        data_loader = self.build_train_loader(cfg)
        model = distribute(model)
        self._trainer = build_train_step(cfg, model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(
            model, cfg.OUTPUT_DIR, class_head_from=cfg.MODEL.DETR.CLASS_HEAD_FROM, trainer=weakref.proxy(self)
        )
        self.checkpointer.metadata.update(class_metadata(cfg.DATASETS.TRAIN, panoptic=is_panoptic(cfg)))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._collected: tuple[int, list[dict[str, Any]]] | None = None  # by which iteration, process states
        self._loaded: dict[str, Any] = {}  # of the checkpoint that is resumed
        self._average = WeightAverage(self.unwrapped_model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None
        self.register_hooks(self.build_hooks())

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model without DistributedDataParallel."""
        return self._trainer.unwrapped_model

    def build_hooks(self) -> list[HookBase | None]:
        """detectron2's hooks, the average of the weights, the best checkpoint and, on a CPU, less memory."""
        period = self.cfg.TEST.EVAL_PERIOD
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            self._build_precise_bn(),
            self._average,
            hooks.EvalHook(period, self._evaluate),
            PeriodicWriter(self.build_writers(), WRITE_PERIOD, period) if comm.is_main_process() else None,
            self._build_best_checkpoint(),
            PeriodicCheckpoint(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD),
            TrimMemory() if torch.device(self.cfg.MODEL.DEVICE).type == "cpu" else None,
        ]

    def build_writers(self) -> list[EventWriter]:
        """detectron2's, with lines of metrics.json that are whole."""
        return with_whole_lines(super().build_writers(), self.cfg.OUTPUT_DIR)

    def train(self) -> OrderedDict[str, Any] | None:
        """Trains; raises ValueError if another run writes into `OUTPUT_DIR`."""
        with hold_output_dir(self.cfg.OUTPUT_DIR):
            return super().train()

    def _build_precise_bn(self) -> HookBase | None:
        if not (self.cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model)):
            return None
        if self._average is not None:
            raise ValueError(
                "TEST.PRECISE_BN.ENABLED measures the statistics of the weights, which SOLVER.EMA_DECAY replaces by "
                "their average: use one of the two."
            )
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # a second loader, which shall not disturb the first
        return hooks.PreciseBN(
            cfg.TEST.EVAL_PERIOD, self.model, self.build_train_loader(cfg), cfg.TEST.PRECISE_BN.NUM_ITER
        )

    def _build_best_checkpoint(self) -> HookBase | None:
        names = self.cfg.DATASETS.TEST
        if not (self.cfg.TEST.BEST_CHECKPOINT and names):
            return None
        metric = "bbox/AP" if len(names) == 1 else f"{names[0]}/bbox/AP"
        return BestCheckpoint(self.cfg.TEST.EVAL_PERIOD, self.checkpointer, metric)

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """Inside, the model has the weights to evaluate and save: their average, if the config asks for one."""
        if self._average is None:
            yield
        else:
            with self._average.in_use():
                yield

    def _evaluate(self) -> OrderedDict[str, Any]:
        """Evaluates what a checkpoint would hold: the main process's model. A failure does not lose the training."""
        with self.evaluated_weights(), naming_images(self.model):
            share_buffers(self.model)
            try:
                self._last_eval_results = self.test(self.cfg, self.model)
            except Exception:
                self.checkpointer.save("model_evaluation_failed")
                raise
        return self._last_eval_results

    def resume_or_load(self, resume: bool = True) -> None:
        """Continues from the last checkpoint of `OUTPUT_DIR` if `resume` and there is one, else loads `MODEL.WEIGHTS`.

        A checkpoint that cannot be read is set aside, and the run goes back to the one before it.

        Raises:
            ValueError: the checkpoint is of another optimizer, not all processes see it, or another run writes there.
        """
        with hold_output_dir(self.cfg.OUTPUT_DIR):  # where files are renamed and cut off
            path, content = find_last_checkpoint(self.checkpointer) if resume else ("", None)
            if path:
                return self._resume(path, content)
        if self.checkpointer.has_checkpoint():
            logger.warning(
                f"{self.cfg.OUTPUT_DIR} holds checkpoints of an earlier run, which this one overwrites; "
                "--resume would continue it."
            )
        return super().resume_or_load(resume=False)

    def _resume(self, path: str, content: dict[str, Any] | None) -> None:
        fresh = hyperparameters(self.optimizer)
        self.checkpointer.load(path, content=content)
        self.start_iter = next_iteration(self.iter, self.max_iter, path)
        forget_metrics(self.cfg.OUTPUT_DIR, self.start_iter)
        apply_config(self.optimizer, self.scheduler, fresh, self.start_iter)
        log_resume(self._loaded.get("solver"), self.cfg, self.start_iter, self.optimizer)

    def before_train(self) -> None:
        """Runs the hooks; a resumed run then goes to the images and random numbers that come next."""
        super().before_train()
        if self.start_iter >= self.max_iter:
            self.iter = self.max_iter - 1  # as at the end of the run that has trained
        if self.start_iter > 0:
            self._continue()

    def _continue(self) -> None:
        states = self._loaded.get("processes")
        if not states:
            logger.warning("The checkpoint has no random states: the order of images starts anew.")
            return
        state, exact = process_state(states)
        restore_before_loader(state)
        self._before_loader = get_random_state()
        self._trainer.reset_data_loader(lambda: self.build_train_loader(self.cfg))
        seek = getattr(self.data_loader, "seek", None)
        exact = bool(seek and state["loader"] and seek(state["loader"])) and exact
        self._trainer.batches()  # starting workers draws a random number
        restore_random_state(state)
        if not exact:
            logger.warning("Resuming is not exact: other processes, other images a step, or an older checkpoint.")

    def check_gradients(self) -> None:
        """Raises FloatingPointError if the last step has spoiled the weights; see `TrainStep.check_gradients`."""
        self._trainer.check_gradients()

    def collect_resume_state(self) -> None:
        """Gathers what the next checkpoint needs of every process; all processes must call it."""
        self._collected = (self.iter, collect_process_states(self._before_loader, self.data_loader))

    def state_dict(self) -> dict[str, Any]:
        """detectron2's state, the settings of the solver and, if collected in this iteration, process states."""
        state = super().state_dict()
        state["iteration"] = min(self.iter, self.max_iter - 1)  # detectron2 counts one more behind the last step
        state["solver"] = solver_settings(self.cfg)
        if self._collected is not None and self._collected[0] == self.iter:
            state["processes"] = self._collected[1]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a checkpoint of this trainer or of detectron2's."""
        check_same_optimizer(state_dict.get("solver"), self.cfg)
        self._loaded = {key: state_dict[key] for key in ("solver", "processes") if key in state_dict}
        hooks_state = dict(state_dict.get("hooks", {}))
        average = None if self._average else hooks_state.pop(WeightAverage.__qualname__, None)
        try:
            super().load_state_dict({**state_dict, "hooks": hooks_state})
            if average is not None:
                self._continue_without(average)
        except ValueError as error:
            raise ValueError(
                f"the checkpoint to resume has other parameters than the model ({error}); MODEL.DETR.FREEZE, "
                "the parameter groups or the model have changed: start a new run with the checkpoint as MODEL.WEIGHTS."
            ) from error

    def _continue_without(self, average: dict[str, Any]) -> None:
        """Gives the model its weights where the checkpoint has their average in their place.

        Args:
            average: state of a `WeightAverage`.
        """
        hook = WeightAverage(self.unwrapped_model, decay=0.5)  # which it needs no more
        hook.load_state_dict(average)
        hook.before_train()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """See `detr_d2.modeling.build_model`."""
        model = build_model(cfg)
        logging.getLogger(__name__).info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """See `detr_d2.solver.build_optimizer`."""
        return solver.build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
        """See `detr_d2.solver.build_lr_scheduler`."""
        return solver.build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Images in the order in which detectron2 draws them, each augmented by random numbers of its own."""
        return NumberedLoader(cfg, seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed())

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """detectron2's, with the image sizes that `INPUT.RESIZE_ROUNDING` asks for."""
        return build_detection_test_loader(cfg, dataset_name, mapper=build_stock_mapper(cfg, False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """See `detr_d2.engine.build_evaluator`."""
        return build_evaluator(cfg, dataset_name)
