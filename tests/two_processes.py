"""Two real processes on one machine, as a launcher starts them.

`accelerate launch --cpu --num_processes 2` starts one process where there is no MPI, without a word; torchrun starts two, and accelerate finds itself
among them. What runs should say how many there are, so that a test of two cannot pass with one.
"""

import os
import subprocess
import sys
from pathlib import Path

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def run_in_two(*words: str | Path, timeout_s: int = 600, **variables: str) -> subprocess.CompletedProcess:
    """`words` are a script with its arguments, or "-m", a module and its arguments; each process has one thread."""
    parents = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": parents, "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, *TWO, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
