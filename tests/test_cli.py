"""The command line, on throwaway notebooks: order, parameters, failures, skipping, and quiet notebooks in git."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_output
from notebook_files import write_small_notebook

from sketchae.cli import main, parse_value
from sketchae.errors import BadInputError, MissingFileError
from sketchae.executed import check_pair, deterministic, notebook_parameters, read_notebook, write_notebook
from sketchae.run_all import NotebookError, find_notebooks, run_all

FIRST = """
import os
from tqdm.auto import tqdm
print(PROFILE, os.environ["SKETCHAE_ROOT"] == os.getcwd()[:-10])
for _ in tqdm(range(3)):
    pass
""".strip()
SECOND = "N_STEPS + 1"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A clone in miniature, with two notebooks, and the working directory somewhere inside it."""
    (tmp_path / "pyproject.toml").touch()
    write_small_notebook(tmp_path / "notebooks" / "00_first.ipynb", FIRST)
    write_small_notebook(
        tmp_path / "notebooks" / "01_second.ipynb",
        SECOND,
        parameters='PROFILE = "scenes"\nN_STEPS: int | None = 4  # steps\nTEST_SEED = None',
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def first_only(project):
    """A profile of one's own, for which only the first notebook is of use."""
    profile = project / "mine.toml"
    profile.write_text('notebooks = ["00"]\nsource = "scenes"\nimage_size = 64\nn_train = 4\nn_val = 4\nn_test = 4\nn_steps = 1\n')
    return profile


def outputs(path):
    return [output for cell in read_notebook(path).cells for output in cell.get("outputs", [])]


def test_scenes_writes_in_place_and_equal_runs_give_equal_files(project):
    notebooks = find_notebooks(project / "notebooks")
    assert run_all("scenes", progress=False) == notebooks
    first = [path.read_bytes() for path in notebooks]
    assert [output.text for output in outputs(notebooks[0])] == ["scenes True\n"]  # and no progress bar
    assert outputs(notebooks[1])[0].data["text/plain"] == "5"
    for path in notebooks:
        notebook = read_notebook(path)
        nbformat.validate(notebook)
        assert dict(notebook.metadata) == {"kernelspec": notebook.metadata.kernelspec}
        assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2]
        assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
        assert not re.search(rb"papermill|iopub|20\d\d-\d\d", path.read_bytes())
    run_all("scenes", progress=False, only=["00"])
    assert [path.read_bytes() for path in notebooks] == first


def test_a_profile_names_the_notebooks_that_are_of_use_for_it(project, first_only):
    names = lambda paths: [path.name for path in paths]  # noqa: E731
    assert names(run_all("mine.toml", progress=False)) == ["00_first.ipynb"]
    assert names(run_all("mine.toml", only=["01"], progress=False)) == ["01_second.ipynb"]
    first_only.write_text(first_only.read_text().replace('"00"', '"08"'))
    with pytest.raises(BadInputError, match="There is no notebook '08'"):
        run_all("mine.toml", progress=False)


def test_other_profiles_leave_the_notebooks_alone(project):
    before = {path: path.read_bytes() for path in find_notebooks(project / "notebooks")}
    environment = dict(os.environ)
    written = run_all("smoke", progress=False, only=["00"])
    assert written == [project / "build" / "smoke" / "notebooks" / "00_first.ipynb"]
    assert outputs(written[0])[0].text == "smoke True\n"
    assert dict(os.environ) == environment
    assert {path: path.read_bytes() for path in before} == before


def test_overridden_parameters_get_a_root_of_their_own(project, capsys):
    before = {path: path.read_bytes() for path in find_notebooks(project / "notebooks")}
    assert main(["run-all", "-p", "N_STEPS", "41", "--notebooks", "01_second"]) == 0
    written = next((project / "build" / "overrides").glob("scenes-n_steps=41-*/build/scenes/notebooks/01_second.ipynb"))
    assert outputs(written)[0].data["text/plain"] == "42"
    assert str(written) in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "N_STEP", "3"], "No notebook to run has a parameter 'N_STEP': they have N_STEPS, TEST_SEED"),
        (["-p", "N_STEPS", "3", "--notebooks", "00"], "No notebook to run has a parameter 'N_STEPS'"),
        (["-p", "PROFILE", "smoke"], "give it as --profile"),
        (["--profile", "smok"], "choose one of coco, scenes, sketch, smoke"),
        (["--profile", "mine.toml"], "There is no profile file"),
        (["--notebooks", "07"], "There is no notebook '07': the notebooks are 00_first, 01_second"),
    ],
)
def test_what_is_unknown_is_refused_before_anything_runs(project, capsys, arguments, message):
    assert main(["run-all", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (project / "build").exists()


def test_outside_a_clone_the_remedy_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run-all"]) == 1
    assert "SKETCHAE_ROOT" in capsys.readouterr().err


def test_it_stops_at_the_first_failure_and_names_it(project, capfd):
    first = write_small_notebook(project / "notebooks" / "00_first.ipynb", "1 + 1", "value = 1 / 0", "print('never')")
    before = first.read_bytes()
    assert main(["run-all"]) == 1
    error = capfd.readouterr().err
    assert "00_first.ipynb stopped in cell [3] (value = 1 / 0) with ZeroDivisionError: division by zero" in error
    kept = project / "build" / "scenes" / "notebooks" / "00_first.ipynb"
    assert str(kept) in error and any(output.output_type == "error" for output in outputs(kept))
    assert first.read_bytes() == before
    assert not (kept.parent / "01_second.ipynb").exists()


def test_a_kernel_that_dies_is_told_in_one_sentence(project):
    write_small_notebook(project / "notebooks" / "00_first.ipynb", "import os\nos._exit(9)")
    with pytest.raises(NotebookError, match=r"00_first.ipynb stopped because its Python process died"):
        run_all("scenes", progress=False)


def test_finished_work_is_skipped_until_something_changes(project, capsys, monkeypatch):
    def execute(notebook, output, given, progress):  # what papermill leaves behind, without the wait for a kernel
        executed = read_notebook(notebook)
        for cell in executed.cells[1:]:
            cell.execution_count = 1
        write_notebook(output, executed)

    monkeypatch.setattr("sketchae.run_all._execute", execute)

    def run():
        assert main(["run-all", "--profile", "smoke", "--skip-finished"]) == 0
        return re.findall(r"(\d\d)_\w+: finished before", capsys.readouterr().out)

    assert run() == []
    assert run() == ["00", "01"]
    (project / "build" / "smoke" / "finished" / "01_second.json").write_text("half a fi")
    assert run() == ["00"]
    write_small_notebook(project / "notebooks" / "00_first.ipynb", "'another cell'")
    assert run() == []  # the second notebook stands on the first one
    (project / "build" / "smoke" / "notebooks" / "01_second.ipynb").unlink()
    assert run() == ["00"]


def test_an_edit_during_the_run_is_not_lost(project):
    notebook = project / "notebooks" / "00_first.ipynb"
    edit = f"import pathlib\npath = pathlib.Path({str(notebook)!r})"
    edit += "\npath.write_text(path.read_text().replace('throw', 'keep'))"
    write_small_notebook(notebook, edit)
    with pytest.raises(NotebookError, match="edited while it ran"):
        run_all("scenes", progress=False)
    assert "keepaway" in notebook.read_text()


def test_a_notebook_and_its_twin_must_agree(project):
    notebook = project / "notebooks" / "00_first.ipynb"
    twin = notebook.with_suffix(".py")
    subprocess.run([sys.executable, "-m", "jupytext", "--quiet", "--to", "py:percent", str(notebook)], check=True)
    check_pair(notebook)
    twin.write_text(twin.read_text().replace("print(PROFILE", "print(1, PROFILE"))
    with pytest.raises(BadInputError, match=r"jupytext --sync"):
        run_all("scenes", progress=False)


def test_a_broken_notebook_file_is_named(project):
    (project / "notebooks" / "01_second.ipynb").write_text("{")
    with pytest.raises(BadInputError, match=r"01_second\.ipynb is not a notebook"):
        run_all("scenes", progress=False)


def test_no_notebooks(tmp_path):
    with pytest.raises(MissingFileError, match="No notebook"):
        find_notebooks(tmp_path)


def test_parameters_are_read_whatever_their_annotation(project):
    parameters = notebook_parameters(read_notebook(project / "notebooks" / "01_second.ipynb"), "01")
    assert list(parameters) == ["PROFILE", "N_STEPS", "TEST_SEED"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("1e-3", 1e-3), ("None", None), ("True", True), ("(0, 1)", (0, 1)), ("l1", "l1"), ("a/b", "a/b")],
)
def test_values_on_the_command_line(text, value):
    assert parse_value(text) == value and type(parse_value(text)) is type(value)


def test_an_existing_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    assert parse_value("./pictures") == str(tmp_path / "pictures")


def test_outputs_are_stripped_of_what_differs_between_equal_runs(tmp_path):
    source = read_notebook(write_small_notebook(tmp_path / "a.ipynb", "x"))
    executed = read_notebook(tmp_path / "a.ipynb")
    executed.metadata["papermill"] = {"duration": 1.0}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "random"}}
    executed.cells[1].execution_count, executed.cells[2].execution_count = 1, 3
    executed.cells[2].metadata["execution"] = {"iopub.status.busy": "now"}
    executed.cells[2].outputs = [
        new_output("stream", name="stdout", text="a\n"),
        new_output("stream", name="stderr", text="\r 10%|#  | 1/10 [00:01<00:09]\r100%|###| 10/10\nUserWarning: w\n"),
        new_output("stream", name="stdout", text="b\rc\n"),
        new_output("display_data", data={**widget, "text/plain": " 0%|          | 0/5 [00:00<?, ?it/s]"}),
        new_output("display_data", data={**widget, "text/plain": "VBox()"}),
        new_output("execute_result", data={"text/plain": "1"}, execution_count=3),
    ]
    result = deterministic(source, executed)
    nbformat.validate(result)
    cell = result.cells[2]
    assert [output.get("text") or dict(output.data) for output in cell.outputs] == [
        *("a\nc\n", "UserWarning: w\n"),
        *({"text/plain": "VBox()"}, {"text/plain": "1"}),
    ]
    assert cell.execution_count == cell.outputs[-1].execution_count == 2
    assert "execution" not in cell.metadata and "papermill" not in result.metadata
    assert not source.cells[2].outputs  # the input is not changed
    assert json.dumps(executed).count("model_id") == 2


def test_profiles_are_listed(capsys):
    assert main(["profiles"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["coco", "scenes", "sketch", "smoke"]


def test_the_paper_is_checked_and_refreshed(project, capsys):
    assert main(["paper", "--check"]) == 1 and "clone" in capsys.readouterr().err
    (project / "results").mkdir()
    (project / "results" / "values.json").write_text('{"evaluate.swap_score": 0.5}')
    (project / "results" / "manifest.json").write_text("{}")
    (project / "paper.md").write_text("It is <!--v:evaluate.swap_score:.2f-->0.40<!--/v-->.\n")
    assert main(["paper", "--check"]) == 1
    assert "evaluate.swap_score stands as '0.40', the results say '0.50'" in capsys.readouterr().out
    assert main(["paper", "--refresh"]) == main(["paper", "--check"]) == 0
    assert "-->0.50<!--" in (project / "paper.md").read_text()


def test_the_package_imports_fast_and_lazily():
    code = (
        "import sys, sketchae, sketchae.cli, sketchae.profiles; sketchae.load_profile('smoke');"
        "print([m for m in ('torch', 'papermill', 'matplotlib', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_lab_extra_the_remedy_is_named(project, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert main(["run-all"]) == 1
    assert "sketchae[lab]" in capsys.readouterr().err


def test_unknown_attribute_is_an_attribute_error():
    import sketchae

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sketchae.nonsense
    assert "load_profile" in dir(sketchae)
