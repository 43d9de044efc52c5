"""Recognising that `torchrun` has started a run again: after a failure, or because a machine came or went.

`TORCHELASTIC_RESTART_COUNT` alone does not tell: it counts failures on its own machine only, and not at all those
restarts that a change of machines causes. What survives a restart is the agent, the parent of the processes.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from detectron2.utils import comm

from ..files import write_json

RECORD = "elastic_run.json"


def continues_elastic_run(output_dir: str) -> bool:
    """Whether this run has been started before by the same `torchrun`, on any of its machines.

    The agents of the run are recorded in the output folder. All processes must call this together, and get the same
    answer.

    Args:
        output_dir: of the run.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    agent = f"{os.environ['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {os.getppid()}{_start_of(os.getppid())}"
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    everybody = comm.all_gather((agent, restarted))
    agents = sorted({agent for agent, _ in everybody})
    answer = None
    if comm.is_main_process():
        path = os.path.join(output_dir, RECORD)
        answer = any(restarted for _, restarted in everybody) or bool(set(agents) & set(_read(path)))
        write_json(path, agents)
    return bool(comm.all_gather(answer)[0])


def _start_of(process: int) -> str:
    """When a process began, in words that no other start on this machine has; empty where Linux does not tell.

    Containers give the same host name and the same numbers of processes again and again.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()  # behind the name of the program
    except OSError:
        return ""
    return f" {boot} {fields[19]}"


def _read(path: str) -> list[str]:
    try:
        with open(path) as file:
            return list(json.load(file))
    except (FileNotFoundError, ValueError):
        return []
