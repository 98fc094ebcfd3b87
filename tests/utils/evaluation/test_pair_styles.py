"""Verification pairs of one style, such as two kinds of light."""

import pytest
from paths import ROOT

from models.errors import UserError
from scripts import test_fr as tester
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet
from utils.evaluation.verification_sets import STYLES, draw_pairs


def test_both_photos_of_a_pair_have_the_style_that_was_asked_for(rendered):
    faces = FaceSet(rendered)
    labels = load_labels(faces)
    is_first, is_second = STYLES["light"]
    numbers, same = draw_pairs(faces, 8, 0, "light")
    for (a, b), alike in zip(numbers.reshape(-1, 2), same, strict=True):
        assert is_first(labels[a])
        assert is_second(labels[b])
        assert (faces.labels[a] == faces.labels[b]) == alike
    with pytest.raises(UserError, match="too few photos of this kind"):
        draw_pairs(faces, 6000, 0, "frontal_profile")


def test_pairs_of_a_style_need_labels(capsys):
    with pytest.raises(SystemExit):
        tester.main(["--pairs", str(ROOT / "tests" / "photos"), "--style", "light", "--save_pairs", "/dev/null"])
    assert "labels" in capsys.readouterr().err
