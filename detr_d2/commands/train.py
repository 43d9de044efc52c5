"""`train_net.py` and `python -m detr_d2 train`: trains or evaluates any detectron2 config."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from .. import cli
from ..checkpoint import Checkpointer
from ..data import DatasetReport, check_datasets, check_order_of_classes, check_test_images, register_datasets
from ..data.checks.datasets import check_evaluation_sets
from ..data.coco.file import forget_coco_file
from ..data.registration import is_panoptic
from ..engine import Trainer, launch, setup
from ..engine.build import class_metadata
from ..engine.evaluators import check_evaluators
from ..engine.hooks import naming_images
from ..engine.main_process import hold_output_dir
from ..engine.resume.elastic import agents_of_run, continues_elastic_run
from ..engine.resume.last_checkpoint import find_last_checkpoint
from ..engine.startup.launch import started_by_torchrun, world_size
from ..engine.startup.setup import begin, find_config_file, import_user_modules
from ..engine.startup.summary import recipe_line, summarise_run, suspicious_settings
from ..files import hold_folder
from ._options import add_coco_and_import

logger = logging.getLogger(__name__)

EPILOG = """
Examples:

  the paper's DETR on 8 GPUs
    python train_net.py --config-file configs/detr_r50.yaml --num-gpus 8

  your own COCO-format data, classes taken from the file
    python train_net.py --config-file configs/detr_r50.yaml \\
        --coco my_train=train.json:images --coco my_val=val.json:images \\
        DATASETS.TRAIN "('my_train',)" DATASETS.TEST "('my_val',)"

  several machines, restarted by themselves after a failure
    torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29400 --max_restarts 3 \\
        train_net.py --config-file configs/detr_r50.yaml
"""


def build_parser() -> argparse.ArgumentParser:
    """detectron2's arguments, `--coco` and `--import`."""
    parser = default_argument_parser(EPILOG)
    parser.prog = "train_net.py"
    parser.description = (
        "Train a detectron2 model, or evaluate it with --eval-only. Without a GPU, --num-gpus counts CPU processes."
    )
    add_coco_and_import(
        parser,
        datasets="DATASETS.TRAIN and DATASETS.TEST",
        import_help="such as one that registers a transformer; its add_config(cfg), if there is one, adds config keys",
    )
    parser.set_defaults(dist_url="auto")  # a free port, so that two runs on one machine do not meet
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs in the process that the user starts: checks, then launches the processes that train."""
    args = build_parser().parse_args(argv)
    cfg = setup(args)
    # One process of the run does it for all: here, or under torchrun in `run`, once they have found each other.
    with hold_folder(cfg.OUTPUT_DIR) if _starts_the_run(args) else nullcontext():
        return _launch(cfg, args)


def _starts_the_run(args: argparse.Namespace) -> bool:
    return not started_by_torchrun() and args.machine_rank == 0


def _launch(cfg: CfgNode, args: argparse.Namespace) -> int:
    if args.config_file:
        args.config_file = find_config_file(args.config_file)  # detectron2 prints the file, and wants a path
    reports = None if started_by_torchrun() or args.eval_only else check_datasets(cfg)
    if world_size(args.num_gpus, args.num_machines) > 1 and not started_by_torchrun():
        forget_coco_file()  # other processes load it
    try:
        launch(
            _end_as_a_command,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(cfg, args, reports),
        )
    except ProcessExitedException as error:  # it has said why
        return error.exit_code if error.exit_code > 0 else 1
    return 0


def _end_as_a_command(cfg: CfgNode, args: argparse.Namespace, reports: list[DatasetReport] | None) -> None:
    """`run`; in a spawned process, which has no caller to tell, errors of the user end it with their exit code."""

    def main(_: Sequence[str] | None) -> int:
        run(cfg, args, reports)
        return 0

    if multiprocessing.parent_process() is None:
        main(None)
    elif code := cli.run(main):
        sys.exit(code)


def run(cfg: CfgNode, args: argparse.Namespace, reports: list[DatasetReport] | None) -> None:
    """Runs in every process of the run.

    Args:
        cfg: from `setup`.
        args: the command line.
        reports: of the datasets, if they have been checked.
    """
    with ExitStack() as stack:
        if started_by_torchrun():
            agent, agents = agents_of_run(cfg.OUTPUT_DIR)
            stack.enter_context(hold_output_dir(cfg.OUTPUT_DIR, run=agent, same_run=agents))
        _run(cfg, args, reports)


def _run(cfg: CfgNode, args: argparse.Namespace, reports: list[DatasetReport] | None) -> None:
    import_user_modules(args.imports)
    register_datasets(cfg, evaluation_only=args.eval_only)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="detr_d2")
    begin(cfg, args)
    if args.eval_only:
        evaluate(cfg, resume=args.resume)
        return
    restarted = continues_elastic_run(cfg.OUTPUT_DIR)
    if restarted:
        logger.info("torchrun has restarted this run, which continues from its last checkpoint.")
    train(cfg, check_datasets(cfg) if reports is None else reports, resume=args.resume or restarted)


def evaluate(cfg: CfgNode, *, resume: bool) -> None:
    """Evaluates `MODEL.WEIGHTS`, or with `resume` the last checkpoint of `OUTPUT_DIR`, on `DATASETS.TEST`."""
    check_evaluators(cfg)
    check_evaluation_sets(cfg)
    check_test_images(cfg)
    model = Trainer.build_model(cfg)
    checkpointer = Checkpointer(model, save_dir=cfg.OUTPUT_DIR)
    checkpointer.metadata.update(class_metadata(cfg.DATASETS.TEST, panoptic=is_panoptic(cfg)))
    last, content = find_last_checkpoint(checkpointer) if resume else ("", None)
    rest = checkpointer.load_trained(last or cfg.MODEL.WEIGHTS, content)
    if not rest.get("class_names"):
        check_order_of_classes(cfg)
    with naming_images(model):
        results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)


def train(cfg: CfgNode, reports: Sequence[DatasetReport], *, resume: bool) -> None:
    """Trains to `SOLVER.MAX_ITER`, from the last checkpoint of `OUTPUT_DIR` with `resume`."""
    check_evaluators(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    logger.info("This run:\n" + summarise_run(trainer.cfg, trainer.unwrapped_model, trainer.optimizer, reports))
    warnings = suspicious_settings(trainer.cfg)
    for sentence in warnings.values():
        logger.warning(sentence)
    if line := recipe_line(trainer.cfg, reports, without_keys=warnings):
        logger.info(line)
    trainer.train()


if __name__ == "__main__":
    sys.exit(cli.run(main))
