"""Which of an identity's images are kept."""

import numpy as np

from utils.dataset.image_record import ImageRecord
from utils.generation.pipeline import GeneratedImage
from utils.generation.selection import Selection

PIXELS = np.zeros((112, 112, 3), np.uint8)


def images(*scores):
    """One image for each score, None for one that the gate left out."""
    return [
        GeneratedImage(None, ImageRecord(0, "0", i, 0.3, passed=False, tries=({"reason": "id_similarity 0 below 1"},)))
        if score is None else GeneratedImage(PIXELS, ImageRecord(0, "0", i, 0.3, measured={"score": score}))
        for i, score in enumerate(scores)
    ]  # fmt: skip


def kept(selected):
    return [image.record.index for image in selected if image.pixels is not None]


def test_the_best_are_kept_in_their_order_and_of_equal_ones_the_first():
    selected = Selection(3, "score")(images(0.2, 0.9, None, 0.5, 0.5, 0.5, 0.1))
    assert kept(selected) == [1, 3, 4]
    assert [image.record.passed for image in selected] == [False, True, False, True, True, False, False]
    assert selected[5].record.tries == ({"score": 0.5, "reason": "not among the best 3"},)
    assert selected[5].record.measured == {}
    assert selected[2].record.tries[-1]["reason"] == "id_similarity 0 below 1"


def test_an_incomplete_identity_keeps_what_it_has_or_nothing():
    assert kept(Selection(3, "score")(images(0.2, None, 0.4))) == [0, 2]
    selected = Selection(3, "score", complete=True)(images(0.2, None, 0.4))
    assert kept(selected) == []
    assert selected[0].record.tries[-1]["reason"] == "identity incomplete: 2 of 3 images"
    assert kept(Selection(2, complete=True)(images(0.2, None, 0.4))) == [0, 2]
