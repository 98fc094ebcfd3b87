"""Generator, estimators, losses, AttrOP and decoding on CUDA tensors: one device, channels_last, and no waiting."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn as nn
from fake_cuda import fake_cuda
from filled import filled, manifest

from models import AttrOP, Row, TokenMask, Vec2Face, quality_target, yaw_target
from models.discriminator import Discriminator
from models.iresnet import IResNet
from models.losses import GeneratorLoss
from models.perceptual import LPIPS, EncoderDistance
from models.sixdrepnet import SMALL, SixDRepNet
from models.transfer import Download
from models.vec2face import Architecture
from models.weight_files import freeze_for_inference
from utils.generation.gate import RetryQueue
from utils.generation.image_measures import ImageMeasures
from utils.generation.pipeline import decode, image_jobs
from utils.generation.recipe import Identity, Recipe

HALVES = [torch.float16, torch.bfloat16]


def tiny_generator():
    return Vec2Face(Architecture(64, 1, 2, 64, 1, 2, image_width=32, group_width=4))


def tiny_encoder():
    """To be moved by ``encoder_on_cuda``: its layers cannot be fused once their weights have no values."""
    return IResNet((1, 1, 1, 1), (16, 16, 16, 32), se=True).eval().fuse()


def encoder_on_cuda(encoder, dtype=torch.float32):
    freeze_for_inference(encoder, "cuda", dtype).features.float()
    return encoder


def watch_layout(*modules):
    """Assert at every convolution that the maps it gets are channels_last; returns the list of shapes that came."""
    shapes = []

    def check(module, inputs):
        assert inputs[0].is_contiguous(memory_format=torch.channels_last), (module, inputs[0].shape)
        shapes.append(inputs[0].shape)

    for part in (part for module in modules for part in module.modules()):
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(check)
    return shapes


def some_mask(count):
    return TokenMask.from_noise(torch.rand(count, 49), 0.1, 0.3)


@pytest.mark.parametrize("dtype", HALVES)
def test_images_and_gradients_to_the_vectors_come_without_waiting(dtype):
    generator, encoder = tiny_generator(), tiny_encoder()
    with fake_cuda() as waits:
        generator, encoder = generator.for_inference("cuda", dtype), encoder_on_cuda(encoder, dtype)
        pose = SixDRepNet(**SMALL).for_inference("cuda", dtype)
        shapes = watch_layout(generator, encoder, pose)
        vectors, mask = torch.ones(2, 512, device="cuda", requires_grad=True), some_mask(2).to("cuda")
        waits.counts.clear()
        images = generator(vectors, mask).images.clip(-1, 1)
        (gradient,) = torch.autograd.grad(encoder(images).sum() + pose(images).sum(), vectors)
        assert images.dtype == gradient.dtype == torch.float32
        assert (gradient.shape, gradient.device.type) == ((2, 512), "cuda")
        assert len(shapes) > 40
        assert waits.counts == {}


def test_a_mask_goes_up_in_one_copy_that_does_not_wait():
    with fake_cuda() as waits:
        mask = some_mask(3)
        waits.counts.clear()
        mask = mask.to("cuda")
        assert waits.counts == {"pinned": 1}
        assert (mask.kept.dtype, mask.kept.shape) == (torch.int64, (3, 44))
        assert (mask.masked.dtype, mask.masked.shape) == (torch.bool, (3, 49))


@pytest.mark.parametrize(("perceptual", "dtype"), [("vgg16", torch.float16), ("encoder", torch.bfloat16)])
def test_every_loss_under_autocast_comes_without_waiting(perceptual, dtype):
    encoder = tiny_encoder()
    perceptual = LPIPS(filled(manifest("vgg16_features"))) if perceptual == "vgg16" else EncoderDistance(encoder)
    with fake_cuda() as waits:
        encoder_on_cuda(encoder)
        criterion = GeneratorLoss(encoder, perceptual, weights={"detail": 1}).to("cuda")
        discriminator = Discriminator(8).to("cuda", memory_format=torch.channels_last).requires_grad_(False)
        generator = tiny_generator().to("cuda", memory_format=torch.channels_last)
        shapes = watch_layout(generator, encoder, criterion.perceptual)
        real = torch.ones(2, 3, 112, 112, device="cuda").to(memory_format=torch.channels_last)
        vectors, mask = torch.ones(2, 512, device="cuda"), some_mask(2).to("cuda")
        waits.counts.clear()
        with torch.autocast("cuda", dtype):
            terms = criterion(generator(vectors, mask), real, vectors, discriminator)
        terms["total"].backward()
        assert len(terms) == 8
        assert all(value.dtype == torch.float32 for value in terms.values())
        assert all(parameter.grad is not None for parameter in generator.parameters())
        assert len(shapes) > 30
        assert waits.counts == {}


def one_mask():
    return np.linspace(0, 1, 49), 0.2


def start_rows(count):
    return [Row(number, np.ones(512, np.float32), np.ones(512, np.float32), one_mask) for number in range(count)]


def finite_but_not_accepted(value):
    """The answer to AttrOP's flags of three rows; everything else is 1."""
    return torch.tensor([[1], [0]]) if value.shape == (2, 3) else torch.tensor(1)


@pytest.mark.parametrize("dtype", HALVES)
def test_an_iteration_of_attrop_has_one_upload_and_reads_nothing_but_its_flags(dtype):
    """A row that starts or ends costs one upload more, those that end together one download."""
    counts, generator, encoder = [], tiny_generator(), tiny_encoder()
    with fake_cuda(answer=finite_but_not_accepted) as waits:
        generator, encoder = generator.for_inference("cuda", dtype), encoder_on_cuda(encoder, dtype)
        pose = SixDRepNet(**SMALL).for_inference("cuda", dtype)
        shapes = watch_layout(generator, encoder, pose)

        def on_iteration(results):
            counts.append(Counter(waits.counts))
            waits.counts.clear()

        targets = [quality_target(encoder, 27), yaw_target(pose, 60)]
        attrop = AttrOP(generator, encoder, targets, batch_size=3, max_iters=3, on_iteration=on_iteration)
        waits.counts.clear()
        results = list(attrop.run(start_rows(3)))
    assert [result.iterations for result in results] == [3] * 3
    assert counts == [
        {"pinned": 2, "downloads": 1}, {"pinned": 1, "downloads": 1}, {"pinned": 2, "downloads": 2},
    ]  # fmt: skip
    assert shapes


@pytest.mark.parametrize("dtype", HALVES)
def test_decoding_waits_for_its_event_alone(dtype):
    generator, encoder = tiny_generator(), tiny_encoder()
    with fake_cuda() as waits:
        generator, encoder = generator.for_inference("cuda", dtype), encoder_on_cuda(encoder)
        pose = SixDRepNet(**SMALL).for_inference("cuda")
        shapes = watch_layout(generator, encoder, pose)
        recipe = Recipe(2, (0.3,))
        jobs = image_jobs(
            ((Identity(n, str(n), np.ones(512, np.float32)), np.ones(512), None) for n in range(3)), recipe
        )
        waits.counts.clear()
        images = list(decode(generator, RetryQueue(jobs), recipe.mask_rates, 4, ImageMeasures(encoder, encoder, pose)))
    assert len(images) == 6
    assert all(pixels.shape == (112, 112, 3) for _, pixels, _ in images)
    assert waits.counts.keys() == {"pinned", "downloads"}
    assert shapes


def test_an_event_is_recorded_on_the_device_whose_work_it_waits_for():
    with fake_cuda():
        assert Download(torch.ones(3, device="cuda:1")).event.device == 1
        assert torch.cuda.current_device() == 0
