"""Photos mixed from two identities or two sets, and the loss of a mixture."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fr_training import image_of
from paths import PHOTOS
from torch.utils.data import default_collate

from models.errors import UserError
from models.heads import HEADS, SCALE, make_head
from models.recogniser import make_recogniser
from utils.data.face_set import FaceSet
from utils.data.fr_data import RecognitionData, to_device
from utils.data.fr_sources import choose_photos
from utils.data.lmdb_files import write_fr_lmdb
from utils.data.mixup import Shares


def test_identity_mixup_labels_follow_the_names_of_people(tmp_path):
    faces = FaceSet(PHOTOS)
    for row, source in ((0, "person1"), (2, "person4")):
        shutil.copytree(PHOTOS / source, tmp_path / f"{row:06d}")
    rows = np.array([[0, 2, 0.7], [1, 2, 0.5], [2, 1, 0.9]])
    data = RecognitionData(faces, mixed=FaceSet(tmp_path), mixture_labels=rows)
    assert len(data) == 15
    for index, label in ((0, (0, 0, 1.0)), (9, (0, 2, 0.7)), (14, (2, 1, 0.9))):
        assert (*data[0, index].labels[:2].tolist(), data[0, index].phi) == label
    with pytest.raises(UserError, match="row in --mixed_labels"):
        RecognitionData(faces, mixed=FaceSet(tmp_path), mixture_labels=rows[:2])
    with pytest.raises(UserError, match="labels from 0 to 2"):
        RecognitionData(faces, mixed=FaceSet(tmp_path), mixture_labels=rows + 1)


def test_domain_mixup_blends_a_real_photo_in():
    faces, real = FaceSet(PHOTOS), FaceSet(PHOTOS)
    data = RecognitionData(faces, seed=1, real=real, psi=Shares(0.6, 0.9, 0))
    assert data.class_count == 6
    item = data[3, 4]
    image, (first, _, second), weight = image_of(item), item.labels.tolist(), item.psi
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


def soft_set(path, labels):
    """An LMDB of one photo with the soft labels (a, b, phi)."""
    image = (PHOTOS / "person1" / "0.jpg").read_bytes()
    write_fr_lmdb(path, ((label, image) for label in labels), 3)
    return path


def test_a_mixture_of_two_with_a_real_photo_has_three_labels(tmp_path):
    labels = [(0, 1, 0.75), (2, 0, 0.5), (1, 2, 1.0)]
    data = RecognitionData(
        FaceSet(soft_set(tmp_path / "soft.lmdb", labels), mixtures="read"), real=FaceSet(PHOTOS), psi=Shares(0.8, 0.8)
    )
    assert data.class_count == 6
    items = [data[0, index] for index in range(3)]
    assert [(*item.labels[:2].tolist(), item.phi) for item in items] == labels
    assert all(3 <= item.labels[2] < 6 for item in items)
    batch = to_device(default_collate(items), torch.device("cpu"))
    expected = torch.tensor([[0.6, 0.2, 0.2], [0.4, 0.4, 0.2], [0.8, 0, 0.2]])
    assert torch.allclose(batch.shares, expected)
    assert batch.labels.shape == (3, 3)
    assert torch.allclose(batch.images, torch.stack([image_of(item) for item in items]))


def test_labels_without_a_share_in_the_batch_are_left_out(tmp_path):
    faces = FaceSet(soft_set(tmp_path / "soft.lmdb", [(0, 1, 0.75), (2, 0, 1.0)]), mixtures="read")
    mixed, hard = RecognitionData(faces), RecognitionData(faces, real=FaceSet(PHOTOS), psi=Shares(1, 1))
    cpu = torch.device("cpu")
    batch = to_device(default_collate([mixed[0, 0], mixed[0, 1]]), cpu)
    assert batch.labels.tolist() == [[0, 1], [2, 0]]
    assert batch.shares.tolist() == [[0.75, 0.25], [1, 0]]
    batch = to_device(default_collate([hard[0, 1], hard[0, 1]]), cpu)
    assert batch.labels.tolist() == [2, 2]
    assert batch.shares is None
    blended = RecognitionData(FaceSet(PHOTOS), real=FaceSet(PHOTOS), psi=Shares(0.5, 0.5))
    assert to_device(default_collate([blended[0, 0]]), cpu).shares.tolist() == [[0.5, 0.5]]


def test_a_part_of_the_real_photos_is_chosen_by_the_seed():
    chosen = [choose_photos(FaceSet(PHOTOS), 2, 2, seed) for seed in (0, 0, *range(1, 9))]
    assert all(len(part) == 4 and part.labels.tolist() == [0, 0, 1, 1] for part in chosen)
    assert all(set(part.identities) < {"person1", "person3", "person4"} for part in chosen)
    assert chosen[0].positions.tolist() == chosen[1].positions.tolist()
    assert len({tuple(part.positions) for part in chosen}) > 3
    assert len(choose_photos(FaceSet(PHOTOS), None, 2, 0)) == 6
    assert len(choose_photos(FaceSet(PHOTOS), 1, None, 0)) == 3


def test_a_batch_may_have_one_share_in_common():
    data = RecognitionData(FaceSet(PHOTOS), real=FaceSet(PHOTOS), psi=Shares(0, 1, 21))
    drawn = [data.psi_of_batch(0, step) for step in range(300)]
    assert drawn == [data.psi_of_batch(0, step) for step in range(300)]
    assert drawn != [data.psi_of_batch(1, step) for step in range(300)]
    assert sorted(set(drawn)) == [round(0.05 * value, 6) for value in range(21)]


@pytest.mark.parametrize("name", HEADS)
def test_mixed_logits_are_those_of_the_formula(name):
    """o = sum of share_k M(x, k), L = sum of share_k CE(o, k); MagFace's regulariser is added once."""
    torch.manual_seed(0)
    head, features = make_head(name, 6, 16).eval(), 20 * torch.randn(4, 16)
    labels = torch.tensor([[0, 1, 2], [3, 0, 5], [1, 4, 5], [2, 5, 3]])
    shares = torch.tensor([[0.6, 0.2, 0.2], [1, 0, 0], [0.25, 0.5, 0.25], [0, 0, 1.0]])
    cosines = F.normalize(features) @ F.normalize(head.directions).T  # (4, 6)
    logits = torch.zeros(4, 6)
    for own, share in zip(labels.T, shares.T, strict=True):
        with_margin = SCALE * cosines
        with_margin[range(4), own] = SCALE * head.with_margin(cosines[range(4), own], features)
        logits = logits + share[:, None] * with_margin
    losses = [
        share * F.cross_entropy(logits, own, reduction="none") for own, share in zip(labels.T, shares.T, strict=True)
    ]
    expected = sum(losses) + (head.regulariser(features) if name == "magface" else 0)
    assert torch.allclose(head.of_mixtures(features, labels, shares), expected, rtol=1e-4)
    assert torch.allclose(head.of_mixtures(features, labels, shares)[1], head(features, labels[:, 0])[1], rtol=1e-4)


def test_a_mixture_loss_is_the_mixture_of_losses():
    torch.manual_seed(0)
    model = make_recogniser(4, 18, 16, se=False).eval()
    images, a, b = torch.rand(2, 3, 112, 112), torch.tensor([0, 1]), torch.tensor([2, 3])
    one, two = (model(images, x)[0] for x in (a, b))
    mixed, _ = model(images, torch.stack([a, b], 1), torch.tensor([[0.75, 0.25], [1.0, 0.0]]))
    assert torch.allclose(mixed, torch.stack([0.75 * one[0] + 0.25 * two[0], one[1]]), rtol=1e-4)
