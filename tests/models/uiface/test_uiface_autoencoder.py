"""UIFace's autoencoder: what it computes, and its weight files."""

import sys

import pytest
import torch
from filled import filled, manifest
from uiface_models import error, golden, small_autoencoder

from models.errors import UserError
from models.uiface import AUTOENCODER_PRESETS, Autoencoder, load_uiface_vq, save_uiface_vq
from models.uiface.vq_file import to_released


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The paths of a pair of released files with filled weights."""
    folder = tmp_path_factory.mktemp("vq")
    for half in ("encoder", "decoder"):
        torch.save(filled(manifest(f"uiface_vq_{half}")), folder / f"{half}.pt")
    return folder / "encoder.pt", folder / "decoder.pt"


@pytest.fixture(scope="module")
def autoencoder(released):
    return load_uiface_vq(*released)


@pytest.fixture(scope="module")
def tiny():
    return Autoencoder(AUTOENCODER_PRESETS["uiface_tiny"]).for_inference()


@torch.inference_mode()
def test_latents_codes_and_images_are_those_of_the_released_code(autoencoder):
    case = golden("vq")
    latents = autoencoder.encode(case["images"])
    assert error(latents, case["latents"]) < 1e-4
    assert error(autoencoder.quantise(case["latents"]), case["quantised"]) < 1e-4
    assert error(autoencoder.decode(latents), case["decoded"]) < 1e-4


def test_the_released_pair_is_written_as_it_was_read(autoencoder, released, tmp_path):
    assert autoencoder.sizes == AUTOENCODER_PRESETS["uiface"]
    save_uiface_vq(autoencoder, tmp_path / "encoder.pt", tmp_path / "decoder.pt")
    for path in released:
        before, after = (torch.load(file, weights_only=True) for file in (path, tmp_path / path.name))
        assert before.keys() == after.keys()
        assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_tiny_autoencoder_has_latents_of_28_by_28_and_fits_into_one_file(tiny, tmp_path):
    images = torch.rand(2, 3, 112, 112) * 2 - 1
    latents = tiny.encode(images)
    assert latents.shape == (2, 3, 28, 28)
    save_uiface_vq(tiny, tmp_path / "vq.pt")
    loaded = load_uiface_vq(tmp_path / "vq.pt")
    assert loaded.sizes.groups == 8
    assert torch.equal(loaded.decode(loaded.encode(images)), tiny.decode(latents))


def test_files_of_latent_diffusion_and_of_diffusers_are_read(tiny, tmp_path):
    latent_diffusion = to_released(tiny.model.state_dict()) | {"loss.logvar": torch.zeros(1)}
    torch.save({"state_dict": latent_diffusion}, tmp_path / "model.ckpt")
    torch.save(tiny.model.state_dict(), tmp_path / "diffusers.bin")
    for name in ("model.ckpt", "diffusers.bin"):
        loaded = load_uiface_vq(tmp_path / name).model.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in tiny.model.state_dict().items())


def test_the_codebook_stays_exact_in_16_bit(tiny):
    half = Autoencoder(tiny.sizes)
    half.load_state_dict(tiny.state_dict())
    half.for_inference(dtype=torch.bfloat16)
    latents = tiny.encode(torch.rand(1, 3, 32, 32) * 2 - 1)
    assert torch.equal(half.quantise(latents), tiny.quantise(latents))
    assert half.decode(latents).dtype == torch.float32


def test_a_missing_autoencoder_or_half_of_one_is_refused_by_name(released, tmp_path, demo):
    encoder, decoder = released
    for paths, message in (
        ((tmp_path / "absent.pt",), r"absent\.pt: no such file of the autoencoder.*README links"),
        ((encoder, tmp_path / "absent.pt"), r"absent\.pt: no such file of the autoencoder"),
        ((encoder,), r"encoder\.pt: not a whole autoencoder: missing .*; it is the encoder without the decoder"),
        ((decoder,), r"decoder\.pt: not a whole autoencoder: missing .*; it is the decoder without the encoder"),
        ((demo.encoder,), "not a whole autoencoder: missing .*; its first keys are"),
    ):
        with pytest.raises(UserError, match=message):
            load_uiface_vq(*paths)


def test_images_and_latents_of_other_shapes_are_refused(tiny):
    with pytest.raises(UserError, match=r"images of shape \(1, 3, 30, 32\): .*multiples of 4"):
        tiny.encode(torch.zeros(1, 3, 30, 32))
    with pytest.raises(UserError, match=r"latents of shape \(1, 4, 8, 8\): the autoencoder takes \(N, 3, h, w\)"):
        tiny.decode(torch.zeros(1, 4, 8, 8))


def test_without_diffusers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install -e \.\[uiface\]"):
        Autoencoder(AUTOENCODER_PRESETS["uiface_tiny"])


def test_standardised_latents_have_unit_variance_and_the_same_codes_and_reconstructions():
    autoencoder, images = small_autoencoder(), torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        autoencoder.model.quant_conv.weight.mul_(5)
        autoencoder.model.quant_conv.bias.add_(torch.tensor([1.0, -2.0, 3.0]))
        autoencoder.begin_codebook(images)
        before = autoencoder(images).images
        autoencoder.standardise(images)
        after, latents = autoencoder(images).images, autoencoder.encode(images)
    assert torch.allclose(after, before, atol=1e-4)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert float(latents.square().mean()) == pytest.approx(1, abs=1e-4)


def test_a_codebook_that_begins_with_latents_is_used():
    autoencoder, images = small_autoencoder(), torch.rand(8, 3, 32, 32) * 2 - 1
    autoencoder.begin_codebook(images)
    used = autoencoder.model.quantize(autoencoder.encode(images))[2][2].unique()
    assert len(used) > 0.9 * autoencoder.sizes.codes


def test_faces_of_112_pixels_are_resized_to_the_images_of_the_autoencoder_and_back():
    autoencoder, faces = small_autoencoder(), torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        latents = autoencoder.encode_faces(faces, 8)
        assert latents.shape == (2, 3, 8, 8)
        assert autoencoder.decode_faces(latents).shape == (2, 3, 112, 112)
        reconstruction = autoencoder(faces)
    assert reconstruction.images.shape == faces.shape
    assert reconstruction.codebook_loss > 0
