"""The committed notebooks that read each other's results, held to their stored outputs by nbval; and proof that it notices."""

import pytest
from notebook_files import COPIES, FIRST_AFTER, FIRST_OF_CHAIN, LAST_OF_CHAIN, fresh_copy, hold_to_outputs, run_nbval

from sketchae.executed import read_notebook, write_notebook

CHAIN = COPIES / "nbval"


@pytest.mark.notebooks
@pytest.mark.timeout(3600)
def test_the_outputs_of_the_chain_are_what_the_code_prints():
    hold_to_outputs(fresh_copy(CHAIN.name), lambda name: FIRST_OF_CHAIN <= name < LAST_OF_CHAIN)


@pytest.mark.notebooks
@pytest.mark.timeout(3600)
def test_the_outputs_of_the_last_of_the_chain_are_what_the_code_prints():
    """By itself, also because pytest-xdist gives a third file to a process that has got no more than two tests."""
    if not list((CHAIN / "build").glob("*/basis")):
        pytest.skip("the run over the notebooks before it did not come before this one")
    hold_to_outputs(CHAIN, lambda name: LAST_OF_CHAIN <= name < FIRST_AFTER)


@pytest.mark.notebooks
def test_an_altered_output_of_a_committed_notebook_fails():
    """In place of trust in nbval: alter one number that 03_qr_finalize printed; what it reads is there from above."""
    notebook = next(iter((CHAIN / "notebooks").glob("03_*.ipynb")), None)
    if notebook is None or not list((CHAIN / "build").glob("*/basis")):
        pytest.skip("the run over the notebooks did not come before this one")
    content = read_notebook(notebook)
    texts = [output for cell in content.cells for output in cell.get("outputs", []) if "text" in output]
    assert texts, "03 prints nothing that could be altered"
    texts[-1].text = "altered " + texts[-1].text
    altered = notebook.with_name("03_altered.ipynb")
    write_notebook(altered, content)
    done = run_nbval(CHAIN / "notebooks", CHAIN, altered)
    altered.unlink()
    assert done.returncode == 1 and "Cell outputs differ" in done.stdout, done.stdout[-6000:]
