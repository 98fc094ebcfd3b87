"""A generator made to read the vectors of another face encoder."""

import pytest
import torch
from paths import ROOT

from models import TokenMask, load_face_encoder, load_vec2face
from models.weight_files import load_file, sha256, state_dict_of
from scripts import change_encoder
from utils.data.face_set import FaceSet
from utils.evaluation.verification import features_of


def test_a_generator_reads_the_vectors_of_another_encoder(demo, rendered, tmp_path, capsys):
    """The other encoder has the features of the demo one, but in another order."""
    order = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    state = state_dict_of(load_file(demo.encoder), demo.encoder)
    state |= {key: state[key][order] for key in state if key.startswith(("fc.", "features.")) and state[key].ndim}
    torch.save(state, tmp_path / "other.pth")
    words = [
        demo.generator,
        tmp_path / "mine.pth",
        "--old_encoder",
        demo.encoder,
        "--new_encoder",
        tmp_path / "other.pth",
    ]
    words += ["--photos", rendered, "--ridge", 1e-3]
    change_encoder.main(list(map(str, words)))
    assert "on held-out photos" in capsys.readouterr().out

    faces = FaceSet(rendered)
    photos = [faces.image(index) for index in (1, 2)]  # every tenth is left out
    vectors = torch.from_numpy(features_of(load_face_encoder(demo.encoder), photos, flip=False))  # (2, 512)
    mask = TokenMask.from_noise(torch.rand(2, 49), 0.1, 0.7)
    with torch.inference_mode():
        wanted = load_vec2face(demo.generator)(vectors, mask).images
        got = load_vec2face(tmp_path / "mine.pth")(vectors[:, order], mask).images
    assert (wanted - got).abs().max() < 0.01
    assert load_vec2face(tmp_path / "mine.pth").trained_on["encoder_sha256"] == sha256(tmp_path / "other.pth")


def test_too_few_photos_are_refused(demo, tmp_path, capsys):
    words = [demo.generator, tmp_path / "mine.pth", "--old_encoder", demo.encoder, "--new_encoder", demo.encoder]
    with pytest.raises(SystemExit):
        change_encoder.main([*map(str, words), "--photos", str(ROOT / "tests" / "photos")])
    assert "9 photos; a fit of 512 numbers needs thousands" in capsys.readouterr().err
    assert not (tmp_path / "mine.pth").exists()
