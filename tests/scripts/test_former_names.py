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


FORMER_FLAGS = [  # script, flag, former names of the flag
    ("scripts/change_encoder.py", "--data", "--photos"),
    ("scripts/change_encoder.py", "--id_weights", "--new_encoder"),
    ("scripts/change_encoder.py", "--old_id_weights", "--old_encoder"),
    ("scripts/convert_dataset.py", "--start_end", "--people"),
    ("scripts/convert_weights.py", "--data", "--norms_of"),
    ("scripts/convert_weights.py", "--fraction", "--share"),
    ("scripts/evaluate_fr.py", "--data", "--pairs"),
    ("scripts/evaluate_fr.py", "--id_weights", "--weights"),
    ("scripts/evaluate_generator.py", "--evaluator_weights", "--judge_weights"),
    ("scripts/extract_features.py", "--data", "--images"),
    ("scripts/extract_features.py", "--id_weights", "--encoder"),
    ("scripts/extract_features.py", "--output", "--dest", "-d"),
    ("scripts/gpu_check.py", "--output", "--output_dir"),
    ("scripts/inspect_dataset.py", "--output", "--sheet"),
    ("scripts/linear_start.py", "--data", "--train_source"),
    ("scripts/measure_dataset.py", "--pair_count", "--pairs"),
    ("scripts/prepare_training_set.py", "--data", "--images"),
    ("scripts/prepare_training_set.py", "--id_weights", "--encoder"),
    ("world/quality_curve.py", "--data", "--photos"),
    ("world/render_faces.py", "--example", "--images"),
    ("world/run_ablation.py", "--data", "--photos"),
    ("world/run_ablation.py", "--evaluator_weights", "--judge"),
    ("world/run_ablation.py", "--example", "--images"),
    ("world/run_ablation.py", "--id_weights", "--encoder"),
    ("world/run_ablation.py", "--identities", "--people"),
    ("world/run_ablation.py", "--model_weights", "--generator"),
    ("world/run_ablation.py", "--pair_count", "--pairs"),
    ("world/run_ablation.py", "--quality_weights", "--quality"),
]


@pytest.mark.parametrize("script", sorted({script for script, *_ in FORMER_FLAGS}))
def test_a_former_flag_is_another_name_of_the_present_one(script, capsys, monkeypatch):
    printed = help_of(script, capsys, monkeypatch)
    for _, *names in (entry for entry in FORMER_FLAGS if entry[0] == script):
        assert re.search(r"( \S+)?, ".join(names) + r"\b", printed), names  # argparse lists the names of one flag so
