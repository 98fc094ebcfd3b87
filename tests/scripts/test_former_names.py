"""Names that scripts and flags had before: they keep working."""

import importlib
import re
import runpy
import sys

import pytest
from paths import ROOT

FORMER_SCRIPTS = {
    "compare_datasets": "scripts.compare",
    "compare_fr": "scripts.compare",
    "quality_curve": "world.quality_curve",
    "render_faces": "world.render_faces",
    "run_ablation": "world.run_ablation",
    "shrink_weights": "scripts.convert_weights",
    "test_fr": "scripts.evaluate_fr",
    "train_pose": "world.train_pose",
}


def help_of(script, capsys, monkeypatch):
    """What ``python SCRIPT --help`` prints, without the script's name and line breaks."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 0
    return re.sub(r"\s+", " ", capsys.readouterr().out).partition(".py")[2]


@pytest.mark.parametrize(("former", "present"), FORMER_SCRIPTS.items())
def test_a_former_script_does_what_the_present_one_does(former, present, capsys, monkeypatch):
    path = present.replace(".", "/") + ".py"
    printed = help_of(f"scripts/{former}.py", capsys, monkeypatch)
    assert printed == help_of(path, capsys, monkeypatch)
    assert importlib.import_module(f"scripts.{former}").main is importlib.import_module(present).main
