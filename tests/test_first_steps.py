"""docs/first_steps.ipynb runs from any folder and makes what it says; here at toy size, with the demo models."""

import base64
import json
import shlex
from types import SimpleNamespace

import cv2
import nbformat
import numpy as np
import pytest
from commands import run
from documented_commands import page_commands
from nbclient import NotebookClient
from paths import ROOT, files_of

import image_generation

NOTEBOOK = ROOT / "docs" / "first_steps.ipynb"
TOY = "IDENTITIES, IMAGES, SIGMAS, YAWS, QUALITIES, MAX_ITERS = 3, 2, (0.3, 0.7), (-30, 30), (22,), 2"
TOY_FLAGS = "--start_end 0:3 --example 2 --max_iters 2"  # the same for the command that the notebook shows
SIDE, LABELS = 112, 24  # pixels: of a face, and the height of the labels above the columns of a sheet


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """``cells``: the executed code cells; ``folder``: the current folder of their kernel."""
    folder = tmp_path_factory.mktemp("elsewhere")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = next(number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(TOY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # where the project is not installed
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    return SimpleNamespace(cells=[cell for cell in notebook.cells if cell.cell_type == "code"], folder=folder)


def outputs_of(executed, source):
    """The outputs of the first cell whose source contains a text."""
    return next(cell.outputs for cell in executed.cells if source in cell.source)


def text_of(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def picture_of(outputs):
    """The only picture in the outputs, (H, W, 3)."""
    (code,) = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR)


def test_every_picture_has_a_face_for_each_identity_and_value(executed):
    sheets = {"MaskRates().draw_masks": (1, 3), "Recipe(example=1": (3, 2), "yaw_target(pose": (3, 2)}
    sheets |= {"quality_target(networks.quality, quality)], f": (3, 1), "contact_sheet_path(folder)": (3, 2)}
    for source, (rows, columns) in sheets.items():
        picture = picture_of(outputs_of(executed, source))
        above, left = picture.shape[0] - rows * SIDE, picture.shape[1] - columns * SIDE
        assert above in (0, LABELS), source
        assert left >= 0, source
        faces = picture[above:, left:].reshape(rows, SIDE, columns, SIDE, 3)  # (R, H, C, W, 3)
        assert (faces.std(axis=(1, 3)) > 5).all(), source


def test_the_chart_shows_a_point_for_each_turned_face(executed):
    picture = picture_of(outputs_of(executed, "left.scatter"))
    assert picture.shape[1] > 2 * picture.shape[0]
    hues = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
    coloured = hues[..., 1] > 150
    assert {0, 1} == {x // (picture.shape[1] // 2) for x in np.flatnonzero(coloured.any(axis=0))}  # in both halves


def test_a_progress_bar_is_shown_for_each_value_and_for_the_dataset(executed):
    for source, names in {"yaw_target(pose": ("yaw -30", "yaw 30"), "make_dataset(\n": ("/3",)}.items():
        outputs = outputs_of(executed, source)
        widgets = [output.data["text/plain"] for output in outputs if "text/plain" in output.get("data", {})]
        shown = text_of(outputs) + "".join(widgets)
        assert [name for name in names if name not in shown] == []


def test_the_dataset_is_the_one_that_the_command_in_the_notebook_makes(executed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = [command for command in page_commands() if command.page == "docs/first_steps.ipynb"]
    assert command.script == "image_generation.py"
    words = [word.replace("weights/demo", str(ROOT / "weights" / "demo")) for word in command.words]
    run(image_generation.main, *words, *shlex.split(TOY_FLAGS))
    made = files_of(executed.folder / "generated_images")
    images = [name for name in made if name.startswith("first_steps/")]
    assert len(images) == 3 * 2
    expected = files_of(tmp_path / "generated_images")
    for name in (*images, "first_steps.about/manifest.jsonl", "first_steps.about/settings.json"):
        assert made[name] == expected[name], name


def test_the_report_is_written_and_shown(executed):
    folder = executed.folder / "generated_images" / "first_steps.report"
    report = json.loads((folder / "report.json").read_text())
    assert (report["overview"]["images"], report["overview"]["people"]) == (6, 3)
    assert {"quality", "yaw"} <= report["variety"].keys()
    assert "6 images of 3 identities, 0 unreadable" in text_of(outputs_of(executed, "measure("))
    (page,) = [output.data["text/html"] for output in outputs_of(executed, "<iframe") if "data" in output]
    assert "6 images of 3 identities" in page


def test_nothing_is_written_outside_the_folder_of_generated_images(executed):
    assert [path.name for path in executed.folder.iterdir()] == ["generated_images"]


def test_the_notebook_is_stored_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert [cell.id for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert NOTEBOOK.stat().st_size < 300_000
