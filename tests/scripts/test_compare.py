"""Tables that compare face recognition results and datasets."""

import json

import pytest
from paths import PHOTOS

from models.errors import UserError
from scripts import compare
from utils.evaluation import metrics as metrics
from utils.evaluation.comparison import accuracy_table


def test_the_fr_table_has_means_deviations_and_the_gap_to_real_photos(tmp_path, capsys):
    for name, values in (("real", (0.9, 0.8)), ("a", (0.8, 0.6)), ("b", (0.9, 0.7))):
        figures = dict(zip(("lfw", "cfp_fp"), ({"accuracy": v} for v in values), strict=True))
        (tmp_path / f"{name}.json").write_text(json.dumps(figures))
    words = [f"real={tmp_path}/real.json", f"syn={tmp_path}/a.json", f"syn={tmp_path}/b.json", "--real", "real"]
    compare.main(words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("| gap to real, (REAL - SYN) / SYN as in UIFace |")
    assert lines[2] == "| real | 90.00% | 80.00% | 85.00% | - |"
    assert lines[3] == "| syn | 85.00% ± 7.07% | 65.00% ± 7.07% | 75.00% ± 7.07% | 13.33% |"
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(UserError, match="was tested on"):
        accuracy_table({"a": [{"lfw": 1.0}], "b": [{"cfp": 1.0}]})
    with pytest.raises(SystemExit):
        compare.main(["nothing"])
    assert "NAME=FILE" in capsys.readouterr().err


def test_datasets_are_compared_side_by_side(tmp_path, capsys):
    def report(name, separate, judge="judge", leak=None):
        values = {
            "overview": {"judge": judge},
            "people": {"separate_share": separate, "mean_similarity": 0.1},
            "identity": {
                "closer_to_another_person": 0,
                "equal_error_rate": None,
                "similarity_to_own_centre": {"mean": 1},
            },
        }
        values |= {"leakage": [{"mean_of_largest": leak, "above": {"0.5": 0.25}}]} if leak else {}
        (tmp_path / name).write_text(json.dumps(values))
        return tmp_path / name

    words = [f"a={report('1', 0.5)}", f"b={report('2', 1, leak=0.3)}", f"b={report('3', 0.8, leak=0.3)}"]
    compare.main([*words, "--output", str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    assert text == capsys.readouterr().out
    assert text.splitlines()[2] == "| a | 50.00% | 0.00% | - | - | 0.100 | 1.000 | - |"
    assert text.splitlines()[3] == (
        "| b | 90.00% ± 14.14% | 0.00% ± 0.00% | - | 25.00% ± 0.00% | 0.100 ± 0.000 | 1.000 ± 0.000 | 0.300 ± 0.000 |"
    )
    fidelity = {"reference": "r", "features": "x", "images": [9, 9], "neighbours": 3, "precision": 0.5, "recall": 0.25}
    distance = {"distance_name": "Fréchet distance (features of x)", "frechet_distance": 7.0}
    compared = []
    for number, changes in enumerate(({}, {}, {"neighbours": 10})):
        path = report(f"f{number}", 1)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"fidelity": fidelity | distance | changes}))
        compared.append(f"{number}={path}")
    compare.main(compared[:2])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("| precision | recall | Fréchet distance (features of x) |")
    assert lines[2].endswith("| 0.500 | 0.250 | 7 |")
    compare.main(compared)  # 10 neighbours are not 3
    assert "Fréchet" not in capsys.readouterr().out
    for word, message in (
        (f"c={report('4', 1, 'another')}", "different FR models"),
        (f"c={PHOTOS}/nothing.json", "not a report.json"),
        ("nothing", "NAME=FILE"),
    ):
        with pytest.raises(SystemExit):
            compare.main([*words, word])
        assert message in capsys.readouterr().err
