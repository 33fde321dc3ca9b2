"""Which of several processes is this? A launcher (torchrun, `accelerate launch`) says so in the environment, and accelerate reads it.

Where there is no GPU, accelerate has to be told that the CPU is meant: else every process takes itself for the only one.
"""

import torch
from accelerate import Accelerator, PartialState


def process_state() -> PartialState:
    """This process's place among those that were launched together: `process_index`, `num_processes`, `device`, `is_main_process`."""
    return PartialState(cpu=not torch.accelerator.is_available())


def new_accelerator() -> Accelerator:
    """The same for a training."""
    return Accelerator(cpu=not torch.accelerator.is_available())
