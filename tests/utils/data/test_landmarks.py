"""Landmarks of heads at a pose, their pictures, and what passes for such a picture."""

import numpy as np
import pytest

from utils.data.alignment import TEMPLATE
from utils.data.images import decode_image, encode_jpeg
from utils.data.landmarks import check_landmarks, check_picture, draw_landmarks, landmarks_at, landmarks_of_label


def test_a_frontal_head_has_its_landmarks_near_the_template():
    assert np.abs(landmarks_at(0) - TEMPLATE).max() < 3.5
    assert np.allclose(landmarks_at(0).mean(0), TEMPLATE.mean(0), atol=1e-3)


def test_positive_angles_turn_the_nose_right_and_up_and_the_head_clockwise():
    eyes, nose = landmarks_at(0)[:2].mean(0), landmarks_at(0)[2]
    right, up, tilted = landmarks_at(40), landmarks_at(0, 20), landmarks_at(0, 0, 20)
    assert right[2, 0] - right[:2, 0].mean() > nose[0] - eyes[0] + 8
    assert up[2, 1] - up[:2, 1].mean() < nose[1] - eyes[1] - 8
    assert tilted[1, 1] > tilted[0, 1] + 8
    mirrored = landmarks_at(-40)[[1, 0, 2, 4, 3]]
    assert np.allclose(mirrored[:, 0] - TEMPLATE[:, 0].mean(), TEMPLATE[:, 0].mean() - right[:, 0], atol=1e-3)
    assert np.allclose(mirrored[:, 1], right[:, 1])


def test_dots_have_the_published_colours_and_three_pixels():
    picture = draw_landmarks(np.array([[30, 50], [70, 50], [50, 70], [40, 90], [60, 90]]))
    for (x, y), colour in (((30, 50), 0), ((70, 50), 0), ((50, 70), 1), ((40, 90), 2), ((60, 90), 2)):
        dot = np.zeros((5, 5, 3))
        dot[1:4, 1:4, colour] = 255
        assert np.array_equal(picture[y - 2 : y + 3, x - 2 : x + 3], dot)
    assert (picture > 0).sum() == 45


def test_a_picture_tells_fractions_of_a_pixel():
    points = landmarks_at(12.3, 4.5, -6.7)
    weights = draw_landmarks(points)[..., 1].astype(float)
    rows, columns = np.mgrid[:112, :112]
    nose = [(axis * weights).sum() / weights.sum() for axis in (columns, rows)]
    assert np.abs(nose - points[2]).max() < 0.1


@pytest.mark.parametrize("quality", [None, 75, 95])
def test_pictures_of_all_poses_pass_also_when_compressed(quality):
    for yaw in range(-90, 91, 15):
        for pitch in (-30, 0, 30):
            picture = draw_landmarks(landmarks_at(yaw, pitch))
            check_picture(picture if quality is None else decode_image(encode_jpeg(picture, quality)))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((4, 2)), "five points"),
        (np.full((5, 2), 112), "off the image"),
        (np.full((5, 2), -0.1), "off the image"),
        (np.full((5, 2), np.nan), "off the image"),
        ("left", "five pairs of numbers"),
    ],
)
def test_unsuitable_landmarks_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        check_landmarks(points)


@pytest.mark.parametrize("angles", [(91, 0, 0), (0, 46, 0), (0, 0, -46), (float("nan"), 0, 0)])
def test_angles_out_of_range_are_refused(angles):
    with pytest.raises(ValueError, match="it lies between"):
        landmarks_at(*angles)


def test_a_label_gives_its_landmarks_or_those_of_its_pose():
    assert np.array_equal(landmarks_of_label({"yaw": 3, "pitch": None}), landmarks_at(3))
    exact = landmarks_at(20).tolist()
    assert np.array_equal(landmarks_of_label({"yaw": 3, "landmarks": exact}), exact)
    made_to = {"landmarks": {"yaw": 50}, "yaw": 45}  # a line of a manifest: what was wanted, and what was measured
    assert np.array_equal(landmarks_of_label(made_to), landmarks_at(45))
    with pytest.raises(ValueError, match="neither landmarks nor a yaw"):
        landmarks_of_label({"pitch": 1})
