"""Notebooks as files: their parameters, and executed ones without what differs between two equal runs."""

import ast
import copy
import re
from pathlib import Path

import nbformat

from sketchae.atomic import atomic_write_text
from sketchae.errors import BadInputError

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"  # names a random model of a kernel that is gone
PROGRESS_BAR = re.compile(r"\d+%\|.*\||\d+(\.\d+)?\s?\w*(it/s|s/it)|\[\d\d:\d\d<")


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path`, as nbformat 4."""
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError) as error:
        raise BadInputError(f"{path} is not a notebook that can be read: restore it with git checkout.") from error


def write_notebook(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Write atomically, in the form that Jupyter itself writes."""
    atomic_write_text(path, nbformat.writes(notebook, version=4).rstrip("\n") + "\n")


def notebook_parameters(notebook: nbformat.NotebookNode, name: str) -> dict[str, ast.expr]:
    """Name -> default of every assignment in the cell tagged `parameters`; empty without such a cell.

    Read from the syntax tree: papermill's own inspection goes by a pattern that overlooks annotations such as
    `int | None`.
    """
    parameters = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            try:
                statements = ast.parse(cell.source).body
            except SyntaxError as error:
                raise BadInputError(f"The parameters cell of {name} is not valid Python: {error}.") from error
            for statement in statements:
                if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                    parameters[ast.unparse(statement.target)] = statement.value
                elif isinstance(statement, ast.Assign):
                    parameters.update({ast.unparse(target): statement.value for target in statement.targets})
    return parameters


def check_pair(notebook: Path) -> None:
    """Raise where `NN_name.ipynb` and its readable twin `NN_name.py` (py:percent) do not hold the same cells."""
    twin = notebook.with_suffix(".py")
    try:
        import jupytext
    except ImportError:  # only those who edit notebooks need it
        return
    if not twin.is_file():
        return
    if _cells(read_notebook(notebook)) != _cells(jupytext.read(twin)):
        raise BadInputError(
            f"{notebook.name} and {twin.name} hold different cells: bring them together with "
            f"jupytext --sync {twin} (the newer file wins)."
        )


def _cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(cell.cell_type, cell.source.strip(), tuple(cell.metadata.get("tags", ()))) for cell in notebook.cells]


def deterministic(source: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`source` with the outputs and execution counts of its executed copy, and nothing else of it.

    What papermill and Jupyter add (times, paths, versions, injected cells) stays out, and so do progress bars and
    views of widgets, whose identity is random.
    """
    result = copy.deepcopy(source)
    cells = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    counts = 0
    for cell, done in zip(result.cells, cells, strict=True):
        for noise in ("papermill", "execution"):
            cell.metadata.pop(noise, None)
        if cell.cell_type == "code":
            counts += done.execution_count is not None
            # an injected cell took a number of its own: count as if it had not been there
            cell.execution_count = None if done.execution_count is None else counts
            cell.outputs = _quiet(done.outputs, cell.execution_count)
    for noise in ("papermill", "widgets"):
        result.metadata.pop(noise, None)
    return result


def _quiet(outputs: list[nbformat.NotebookNode], execution_count: int | None) -> list[nbformat.NotebookNode]:
    kept: list[nbformat.NotebookNode] = []
    streams: dict[str, nbformat.NotebookNode] = {}
    for output in copy.deepcopy(outputs):
        if output.output_type == "stream":
            # How often a stream is flushed depends on timing: one output a stream.
            if output.name in streams:
                streams[output.name].text += output.text
                continue
            streams[output.name] = output
        elif output.output_type in ("display_data", "execute_result"):
            is_widget = output.data.pop(WIDGET_VIEW, None) is not None
            is_bar = is_widget and PROGRESS_BAR.search(output.data.get("text/plain", ""))
            if is_bar or not output.data:
                continue
            if output.output_type == "execute_result":
                output.execution_count = execution_count
        kept.append(output)
    for stream in streams.values():
        # A carriage return overwrites the line: keep what a terminal would show at the end, without progress bars.
        lines = [re.sub(r".*\r(?!$)", "", line).rstrip("\r") for line in stream.text.split("\n")]
        if stream.name == "stderr":
            lines = [line for line in lines if not PROGRESS_BAR.search(line)]
        stream.text = "\n".join(lines)
    return [output for output in kept if output.output_type != "stream" or output.text.strip()]
