"""A sheet of faces over the values of an attribute."""

import json

from scripts import attribute_sheet


def test_the_sheet_and_its_figures_are_written_and_what_accepted_means_is_printed(demo, tmp_path, capsys):
    attribute_sheet.main(
        ["--attribute", "quality", "--values", "15", "1000", "--count", "2", "--max_iters", "2", *demo.models,
         "--quality_weights", str(demo.encoder), "--center_feature", str(demo.vectors), "--output", str(tmp_path / "s")]
    )  # fmt: skip
    figures = json.loads((tmp_path / "s.json").read_text())
    assert figures["vectors"] == 2
    assert figures["1000"]["accepted"] == 0
    assert figures["15"]["mean"] <= figures["1000"]["mean"] + 5
    printed = capsys.readouterr().out
    assert "id similarity" in printed
    assert "accepted: quality at most 1 too low, id similarity of at least 0.7\n" in printed
    assert (figures["tolerance"], figures["lowest_id_similarity"]) == ({"quality": 1.0}, 0.7)
