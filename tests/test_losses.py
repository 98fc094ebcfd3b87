"""The loss terms against what the released code computes from the same numbers."""

import numpy as np
import pytest
import torch
from filled import PARITY, filled, manifest

from models.discriminator import Discriminator
from models.losses import LPIPS, EncoderDistance, GeneratorLoss, discriminator_loss, load_lpips
from models.vec2face import Output
from utils.errors import UserError


@pytest.fixture(scope="module")
def discriminator():
    model = Discriminator()
    model.load_state_dict(filled(manifest("discriminator")))
    return model.requires_grad_(False)


def test_narrower_discriminator_judges_the_same_patches():
    logits = Discriminator(8)(torch.zeros(2, 3, 112, 112))
    assert logits.shape == (2, 1, 11, 11)


@pytest.fixture(scope="module")
def perceptual():
    return LPIPS(filled(manifest("vgg16_features")))


@pytest.fixture(scope="module")
def case():
    golden = np.load(PARITY / "golden_loss.npz")
    rng = torch.Generator().manual_seed(int(golden["seed"]))
    real = torch.rand(2, 3, 112, 112, generator=rng) * 2 - 1
    fake = real + 0.3 * torch.randn(real.shape, generator=rng)
    vectors = torch.randn(2, 512, generator=rng)
    target = torch.randn(2, 50, 768, generator=rng)
    predicted = target + 0.1 * torch.randn(target.shape, generator=rng)
    return golden, real, Output(fake, target, predicted), vectors


def test_every_term(base_models, discriminator, perceptual, case):
    golden, real, output, vectors = case
    with torch.no_grad():
        terms = GeneratorLoss(base_models["encoder"], perceptual)(output, real, vectors, discriminator)
    for name in ("pixel", "ssim", "lpips", "token", "identity"):
        assert terms[name].item() == pytest.approx(float(golden[name]), rel=1e-4), name
    assert terms["total"].item() == pytest.approx(float(golden["generator_loss"]), rel=1e-4)


def test_discriminator_loss(discriminator, case):
    golden, real, output, _ = case
    loss = discriminator_loss(discriminator(real), discriminator(output.images))
    assert loss.item() == pytest.approx(float(golden["discriminator_loss"]), rel=1e-4)


def test_discriminator_logits(discriminator, base_models):
    golden = np.load(PARITY / "golden_generate.npz")
    logits = discriminator(torch.from_numpy(golden["images"]))
    assert logits.shape == (2, 1, 11, 11)
    expected = torch.from_numpy(golden["disc_logits"])
    assert (logits - expected).norm() < 1e-4 * expected.norm()


def test_before_the_gan_phase_and_without_lpips(encoder, case):
    _, real, output, vectors = case
    terms = GeneratorLoss(encoder)(output, real, vectors)
    assert list(terms) == ["pixel", "ssim", "token", "identity", "total"]


def test_lpips_gradient_is_finite_where_nothing_answers(perceptual):
    """Black squares: with the package's own normalisation these gradients are NaN."""
    state = filled(manifest("vgg16_features"))
    for key in state:
        if key.endswith("bias"):
            state[key] = torch.full_like(state[key], -100.0)  # no channel answers anywhere
    dead = LPIPS(state)
    a = torch.zeros(1, 3, 64, 64, requires_grad=True)
    distance = dead(a, torch.ones(1, 3, 64, 64))
    (gradient,) = torch.autograd.grad(distance.sum(), a)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["vgg16", "encoder"])
def test_perceptual_distance_is_zero_for_equal_images_and_gets_gradients(name, perceptual, encoder):
    perceptual = perceptual if name == "vgg16" else EncoderDistance(encoder)
    a = torch.rand(2, 3, 64, 64) * 2 - 1
    assert perceptual(a, a).shape == (2,)
    assert perceptual(a, a).abs().max() < 1e-6
    fake = (a + 0.1 * torch.randn_like(a)).requires_grad_()
    perceptual(fake, a).sum().backward()
    assert fake.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in perceptual.parameters())


@pytest.mark.parametrize("prefix", ["", "features."])
def test_load_lpips(prefix, tmp_path, perceptual):
    state = {prefix + key: value for key, value in filled(manifest("vgg16_features")).items()}
    if prefix:
        state["classifier.0.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "vgg16.pth")
    a, b = torch.rand(2, 1, 3, 64, 64)
    assert torch.allclose(load_lpips(tmp_path / "vgg16.pth")(a, b), perceptual(a, b))


def test_load_lpips_from_other_weights(demo):
    with pytest.raises(UserError, match="not the weights of torchvision's VGG16"):
        load_lpips(demo.encoder)
