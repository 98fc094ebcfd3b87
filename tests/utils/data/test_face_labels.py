"""The labels of rendered photos: each belongs to its photo, mirrored ones too."""

import numpy as np
import pytest
import torch
from paths import ROOT

from models.errors import UserError
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet
from utils.data.fr_data import RecognitionData


def test_labels_belong_to_their_photos(rendered, tmp_path):
    faces = FaceSet(rendered)
    labels = load_labels(faces)
    assert [label["identity"] for label in labels] == faces.labels.tolist()
    np.save(tmp_path / "some.npy", [3, 20, 59])
    some = load_labels(FaceSet(rendered, tmp_path / "some.npy"))
    assert some == [labels[3], labels[20], labels[59]]
    with pytest.raises(UserError, match="no labels"):
        load_labels(FaceSet(ROOT / "tests" / "photos"))


def test_a_mirrored_photo_has_the_opposite_yaw(rendered):
    faces = FaceSet(rendered)
    poses = [(label["yaw"], label["pitch"]) for label in load_labels(faces)]
    data = RecognitionData(faces, poses=poses)
    for index in range(8):
        item = data[0, index]
        image, pose = item.pixels[0], item.pose  # (112, 112, 3), (2,)
        photo = torch.from_numpy(faces.image(index))  # (112, 112, 3)
        yaw, pitch = poses[index]
        wanted = (yaw, pitch) if torch.equal(image, photo) else (-yaw, pitch)
        assert torch.equal(pose, torch.tensor(wanted))
        assert torch.equal(image, photo if wanted[0] == yaw else photo.flip(1))
