"""Weight files converted, made smaller and interpolated."""

import pytest
import torch

from models import TokenMask, load_vec2face
from models.weight_files import load_file
from scripts import convert_weights, shrink_weights


def test_weights_survive_conversion_there_and_back(demo, tmp_path, generator):
    own, released, back = (tmp_path / f"{name}.pth" for name in ("own", "released", "back"))
    convert_weights.main([str(demo.generator), str(own), "--to", "own"])
    convert_weights.main([str(own), str(released), "--to", "released"])
    convert_weights.main([str(released), str(back), "--to", "own"])
    before, between, after = (
        torch.load(path, weights_only=True)["model_vec2face"] for path in (demo.generator, released, back)
    )
    assert "latent_prior" in str(list(between))
    assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}
    for key, value in before.items():
        assert torch.equal(value.to(after[key].dtype), after[key]), key
    assert torch.load(own, weights_only=True)["model"] == "vec2face_vit_tiny"

    vectors, mask = torch.randn(2, 512), TokenMask.from_noise(torch.rand(2, 49), 0.1, 0.3)
    for path in (own, released):
        assert torch.equal(load_vec2face(path)(vectors, mask).images, generator(vectors, mask).images)


def test_a_file_without_weights_is_not_made_smaller(demo, tmp_path, capsys):
    shrink_weights.main([str(demo.encoder), str(tmp_path / "small.pth")])
    assert "MB" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        shrink_weights.main([str(demo.vectors), str(tmp_path / "x.pth")])
    assert not (tmp_path / "x.pth").exists()


def test_interpolated_weights_lie_between_the_two_generators(demo, tmp_path, capsys):
    torch.manual_seed(0)
    before = load_file(demo.generator)
    weights = {key: value for key, value in before["model_vec2face"].items() if value.is_floating_point()}
    moved = {key: value + torch.rand_like(value) for key, value in weights.items()}
    after = before | {"model_vec2face": before["model_vec2face"] | moved}
    torch.save(after, tmp_path / "after.pth")
    words = [str(tmp_path / "after.pth"), str(tmp_path / "small.pth"), "--interpolate"]
    shrink_weights.main([*words, str(demo.generator), "--share", "0.25"])
    small = load_file(tmp_path / "small.pth")["model_vec2face"]
    for key, value in weights.items():
        expected = 0.75 * moved[key].float() + 0.25 * value.float()
        assert torch.allclose(small[key].float(), expected, rtol=2e-3, atol=1e-3), key
    assert load_vec2face(tmp_path / "small.pth")
    (tmp_path / "small.pth").unlink()
    torch.save(before | {"model_vec2face": {}}, tmp_path / "other.pth")
    for other, message in ((demo.encoder, "not a generator"), (tmp_path / "other.pth", "other names or shapes")):
        with pytest.raises(SystemExit):
            shrink_weights.main([*words, str(other)])
        assert message in capsys.readouterr().err
        assert not (tmp_path / "small.pth").exists()
