"""Random erasing against torchvision's, which the published recipe uses."""

import numpy as np
import torch
from fr_training import image_of
from paths import PHOTOS
from torchvision.transforms.v2 import RandomErasing

from utils.data.augmentation import NO_HOLE, draw_hole, erase
from utils.data.face_set import FaceSet
from utils.data.fr_data import RecognitionData
from utils.data.mixup import Shares

DRAWS = 2000


def test_the_erased_rectangle_is_mid_grey_in_what_the_network_gets():
    data, plain = (RecognitionData(FaceSet(PHOTOS), seed=3, erase=erase) for erase in (1.0, 0.0))
    for index in range(9):
        image, before = image_of(data[0, index]), image_of(plain[0, index])  # the same photo, mirrored alike
        changed = (image != before).any(0)  # (112, 112)
        rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
        box = image[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]  # (3, h, w)
        assert (box == 0).all()
        assert 0.015 < box[0].numel() / changed.numel() < 0.34


def test_photos_that_are_blended_in_are_erased_as_well():
    erased, plain = (
        RecognitionData(FaceSet(PHOTOS), seed=1, erase=erase, real=FaceSet(PHOTOS), psi=Shares(0.0, 0.0))
        for erase in (1.0, 0.0)
    )
    assert (image_of(erased[0, 4]) == 0).float().mean() > 0.01
    assert (image_of(plain[0, 4]) == 0).float().mean() == 0


def test_rectangles_are_distributed_as_torchvisions():
    image = torch.ones(1, 112, 112)
    rng = np.random.default_rng(0)
    ours = statistics(lambda: erase(image[None].clone(), torch.tensor([draw_hole(rng, 0.5, 112, 112)]))[0])
    torch.manual_seed(0)
    theirs = statistics(lambda: RandomErasing()(image))
    tolerances = (0.05, 0.015, 0.01, 0.15, 0.15)  # three to four standard errors of a difference of two means
    for name, a, b, tolerance in zip(
        ("share", "area", "spread", "ratio", "centre"), ours, theirs, tolerances, strict=True
    ):
        assert abs(a - b) < tolerance, name


def statistics(draw):
    """Share of images erased; of these mean and deviation of area, mean log ratio, mean place of the left edge."""
    boxes = []
    for _ in range(DRAWS):
        hole = (draw()[0] == 0).nonzero()  # (P, 2)
        if len(hole):
            (top, left), (bottom, right) = hole.min(0).values.tolist(), hole.max(0).values.tolist()
            boxes.append((bottom - top + 1, right - left + 1, left / 112))
    h, w, left = np.array(boxes).T
    area = h * w / 112**2
    return len(boxes) / DRAWS, area.mean(), area.std(), np.log(h / w).mean(), left.mean()


def test_no_probability_leaves_the_image_alone():
    image = torch.rand(1, 3, 112, 112)
    hole = draw_hole(np.random.default_rng(0), 0, 112, 112)
    assert hole == NO_HOLE
    assert torch.equal(erase(image.clone(), torch.tensor([hole])), image)
