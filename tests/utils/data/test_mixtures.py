"""Photos mixed from two identities or two sets, and the loss of a mixture."""

import shutil

import numpy as np
import pytest
import torch
from fr_training import image_of
from paths import PHOTOS

from models.errors import UserError
from models.recogniser import make_recogniser
from utils.data.face_set import FaceSet
from utils.data.fr_data import RecognitionData


def test_identity_mixup_labels_follow_the_names_of_people(tmp_path):
    faces = FaceSet(PHOTOS)
    for row, source in ((0, "person1"), (2, "person4")):
        shutil.copytree(PHOTOS / source, tmp_path / f"{row:06d}")
    rows = np.array([[0, 2, 0.7], [1, 2, 0.5], [2, 1, 0.9]])
    data = RecognitionData(faces, mixed=FaceSet(tmp_path), mixture_labels=rows)
    assert len(data) == 15
    assert data[0, 0][2:5] == (0, 0, 1.0)
    assert data[0, 9][2:5] == (0, 2, 0.7)
    assert data[0, 14][2:5] == (2, 1, 0.9)
    with pytest.raises(UserError, match="row in --mixed_labels"):
        RecognitionData(faces, mixed=FaceSet(tmp_path), mixture_labels=rows[:2])
    with pytest.raises(UserError, match="labels from 0 to 2"):
        RecognitionData(faces, mixed=FaceSet(tmp_path), mixture_labels=rows + 1)


def test_domain_mixup_blends_a_real_photo_in():
    faces, real = FaceSet(PHOTOS), FaceSet(PHOTOS)
    data = RecognitionData(faces, seed=1, real=real, domain_range=(0.6, 0.9))
    assert data.class_count == 6
    item = data[3, 4]
    image, first, second, weight = image_of(item), item.first, item.second, item.weight
    assert item.pose.isnan().all()
    assert first == faces.labels[4]
    assert 3 <= second < 6
    assert 0.6 <= weight <= 0.9
    assert torch.equal(image, image_of(data[3, 4]))

    def candidates(face_set, labels):
        for index in np.flatnonzero(face_set.labels == labels):
            photo = torch.from_numpy(face_set.image(int(index))).permute(2, 0, 1) / 127.5 - 1
            yield from (photo, photo.flip(2))  # either may be mirrored

    one = torch.from_numpy(faces.image(4)).permute(2, 0, 1) / 127.5 - 1
    blends = [weight * a + (1 - weight) * b for a in (one, one.flip(2)) for b in candidates(real, second - 3)]
    assert min(float((image - blend).abs().max()) for blend in blends) < 1e-5


def test_a_mixture_loss_is_the_mixture_of_losses():
    torch.manual_seed(0)
    model = make_recogniser(4, 18, 16, se=False).eval()
    images, a, b = torch.rand(2, 3, 112, 112), torch.tensor([0, 1]), torch.tensor([2, 3])
    one, two = (model(images, x)[0] for x in (a, b))
    mixed, _ = model(images, a, b, torch.tensor([0.75, 1.0]))
    assert torch.allclose(mixed, torch.stack([0.75 * one[0] + 0.25 * two[0], one[1]]), rtol=1e-4)
