"""Recognising that `torchrun` has started a run again: after a failure, or because a machine came or went.

`TORCHELASTIC_RESTART_COUNT` alone does not tell: it counts failures on its own machine only, and not at all those
restarts that a change of machines causes. What survives a restart is the agent, the parent of the processes.
"""

from __future__ import annotations

import json
import os

from detectron2.utils import comm

from ...files import Process, write_json
from ..main_process import in_main_process

RECORD = "elastic_run.json"


def agents_of_run(output_dir: str) -> tuple[str, list[str]]:
    """Who has started this run: the agent of this process, and those of all its processes, now and before.

    The agents of the run are recorded in the output folder. All processes must call this together; only the main one
    gets those of before.

    Args:
        output_dir: of the run.

    Returns:
        "" and nothing where `torchrun` has not started it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return "", []
    agent = f"{os.environ['TORCHELASTIC_RUN_ID']} {Process.of(os.getppid())}"
    now = set(comm.all_gather(agent))
    before = set(_read(os.path.join(output_dir, RECORD))) if comm.is_main_process() else set()
    return agent, sorted(now | before if now & before else now)


def continues_elastic_run(output_dir: str) -> bool:
    """Whether this run has been started before by the same `torchrun`, on any of its machines.

    All processes must call this together, and get the same answer. It records the agents.

    Args:
        output_dir: of the run.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    agent, _ = agents_of_run(output_dir)
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    everybody = comm.all_gather((agent, restarted))
    agents = sorted({agent for agent, _ in everybody})

    def compare() -> bool:
        path = os.path.join(output_dir, RECORD)
        known = bool(set(agents) & set(_read(path)))
        write_json(path, agents)
        return known

    return in_main_process(compare) or any(restarted for _, restarted in everybody)


def _read(path: str) -> list[str]:
    try:
        with open(path) as file:
            return list(json.load(file))
    except (FileNotFoundError, ValueError):
        return []
