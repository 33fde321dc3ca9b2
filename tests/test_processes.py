"""Who am I among several processes? Asked under a real launcher."""

import json

from two_processes import run_in_two

SCRIPT = """
import json, sys
from pathlib import Path
from sketchae.processes import new_accelerator, process_state

state, accelerator = process_state(), new_accelerator()
found = [state.process_index, state.num_processes, state.is_main_process, accelerator.process_index, accelerator.num_processes]
Path(sys.argv[1], f"{state.process_index}.json").write_text(json.dumps(found))
state.destroy_process_group()
"""


def test_launched_processes_know_each_other(tmp_path):
    (tmp_path / "ask.py").write_text(SCRIPT)
    ran = run_in_two(tmp_path / "ask.py", tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = [json.loads((tmp_path / f"{i}.json").read_text()) for i in (0, 1)]
    assert found == [[0, 2, True, 0, 2], [1, 2, False, 1, 2]]
