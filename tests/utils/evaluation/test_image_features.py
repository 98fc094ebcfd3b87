"""Distances and features against torch-fidelity, which shares no code with this project."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from paths import PHOTOS
from torch_fidelity.datasets import ImagesPathDataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_full
from torch_fidelity.utils import create_feature_extractor

import utils.evaluation.image_features
from models.errors import UserError
from models.weight_files import sha256
from scripts import measure_dataset
from utils.data.face_set import FaceSet
from utils.data.images import encode_jpeg, read_image
from utils.evaluation import metrics as metrics
from utils.evaluation.image_features import load_extractor


def two_sets(seed, count, width, mean=0.4):
    """Features that correlate, of different means and widths."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((width, width))
    one = rng.standard_normal((count, width)) @ mix
    two = (0.7 * rng.standard_normal((count + 9, width)) + mean) @ mix
    return one.astype(np.float32), two.astype(np.float32)


@pytest.mark.parametrize(("count", "width"), [(400, 32), (50, 96)])  # more and fewer images than dimensions
def test_the_frechet_distance_is_that_of_torch_fidelity(count, width):
    one, two = two_sets(0, count, width)
    statistics = [fid_features_to_statistics(torch.from_numpy(x).double()) for x in (one, two)]
    expected = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert metrics.frechet_distance(one, two) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("neighbours", [3, 10])
def test_precision_and_recall_are_those_of_torch_fidelity(neighbours):
    real, fake = two_sets(1, 500, 12, mean=1.0)
    expected = calculate_precision_recall_full(torch.from_numpy(fake), torch.from_numpy(real), neighbours)
    assert 0.05 < min(expected) <= max(expected) < 1  # or nothing is compared
    assert metrics.precision_and_recall(real, fake, neighbours) == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def fid_weights(tmp_path_factory):
    """A file of the FID network's shapes with random weights: the published one cannot be shipped."""
    path = tmp_path_factory.mktemp("fid") / "inception.pth"
    torch.manual_seed(0)
    state = {}
    loaded = FeatureExtractorInceptionV3.load_state_dict
    FeatureExtractorInceptionV3.load_state_dict = lambda module, _: state.update(module.state_dict())
    try:
        torch.save({}, path)
        FeatureExtractorInceptionV3("random", ["2048"], str(path))
    finally:
        FeatureExtractorInceptionV3.load_state_dict = loaded
    for key, value in state.items():
        if key.endswith("conv.weight"):  # so that images still differ after 50 layers
            torch.nn.init.kaiming_normal_(value)
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def dark_photos(tmp_path_factory):
    """The photos, darkened, as person/photo: JPEG, which both sides decode."""
    folder = tmp_path_factory.mktemp("dark")
    for path in PHOTOS.rglob("*.jpg"):
        target = folder / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(encode_jpeg(read_image(path) // 2, 95))
    return folder


def measure(demo, data, output, *words):
    words = [data, "--id_weights", demo.encoder, "--device", "cpu", "--reference", PHOTOS, "--output", output, *words]
    measure_dataset.main([str(word) for word in words])
    return json.loads((output / "report.json").read_text())["fidelity"]


def features_of_torch_fidelity(folder, weights):
    """(N, 2048), read and computed by that package alone."""
    extractor = create_feature_extractor(
        "inception-v3-compat", ["2048"], cuda=False, feature_extractor_weights_path=str(weights)
    )
    files = ImagesPathDataset([str(path) for path in sorted(folder.rglob("*.jpg"))])
    images = torch.stack([files[i] for i in range(len(files))])  # (N, 3, 112, 112) uint8
    with torch.inference_mode():
        return extractor(images)[0]


@pytest.mark.slow
def test_features_precision_recall_and_fid_are_those_of_torch_fidelity(
    demo, dark_photos, fid_weights, tmp_path, monkeypatch, capsys
):
    fake, real = (features_of_torch_fidelity(folder, fid_weights) for folder in (dark_photos, PHOTOS))
    faces = FaceSet(dark_photos)
    images = torch.from_numpy(np.stack([faces.image(i) for i in range(len(faces))])).permute(0, 3, 1, 2)
    extractor = load_extractor("fid", fid_weights, "cpu")
    with torch.inference_mode():
        ours = extractor.network(images.float() / 127.5 - 1)
    assert (ours - fake).norm() / fake.norm() < 1e-3  # JPEG decoders may differ by a grey level

    assert not extractor.is_fid
    assert "other weights than published" in extractor.name

    monkeypatch.setattr(utils.evaluation.image_features, "FID_SHA256", sha256(fid_weights))
    expected = calculate_precision_recall_full(fake, real, 3)
    distance = metrics.frechet_distance(real.numpy(), fake.numpy())  # agrees with torch-fidelity's, see above
    report = measure(demo, dark_photos, tmp_path, "--extractor", "fid", "--extractor_weights", fid_weights)
    assert (report["precision"], report["recall"], report["neighbours"]) == pytest.approx((*expected, 3))
    assert report["fid"] == pytest.approx(distance, rel=1e-3)
    assert report["distance_name"] == "FID"
    assert re.search(r"9 images against 9 of photos: .*\bFID [0-9]", capsys.readouterr().out)
    assert "<td>FID</td>" in (tmp_path / "report.html").read_text()


def test_only_the_fid_network_is_called_so(demo, dark_photos, tmp_path, capsys):
    from torchvision.models import inception_v3

    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), tmp_path / "inception.pth")
    words = ["--extractor", "inception", "--extractor_weights", tmp_path / "inception.pth"]
    for name, flags in (("torchvision's Inception v3", words), ("the FR model face_encoder.pth", [])):
        fidelity = measure(demo, dark_photos, tmp_path / "report", *flags, "--neighbours", 4)
        assert fidelity["distance_name"] == f"Fréchet distance (features of {name})"
        assert fidelity["frechet_distance"] > 0
        assert fidelity["neighbours"] == 4
        assert "fid" not in fidelity
        assert "FID" not in capsys.readouterr().out
    with pytest.raises(UserError, match="not the FID network's weights"):
        load_extractor("fid", tmp_path / "inception.pth", "cpu")
    with pytest.raises(UserError, match=r"no such file. Fetch https://github.com/.*6726825d.pth"):
        load_extractor("fid", tmp_path / "nowhere.pth", "cpu")


def test_a_missing_weight_file_is_told_before_any_work(demo, tmp_path, capsys):
    for words, message in (
        (["--extractor", "fid"], "--extractor fid needs --extractor_weights. Fetch https://github.com/"),
        (["--extractor", "vgg16"], "--extractor vgg16 needs --extractor_weights"),
        (["--lpips_weights", "nowhere.pth"], "nowhere.pth: no such weight file"),
    ):
        with pytest.raises(SystemExit) as error:
            measure(demo, PHOTOS, tmp_path / "report", *words)
        assert error.value.code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "report").exists()


def test_without_torch_fidelity_the_package_is_named(demo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(UserError, match="pip install torch-fidelity"):
        load_extractor("fid", tmp_path / "inception.pth", "cpu")
