"""The project's own implementations of layers give the values and gradients of PyTorch's."""

from functools import partial

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from fake_cuda import backward, fake_cuda

from models import fused_layers
from models.fused_layers import FrozenPReLU, GroupNormSiLU, group_norm_silu
from models.image_decoder import ImageDecoder, Level, ResidualBlock, Upsample
from models.iresnet import IResNet


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [(2, 64, 7, 7), (1, 32, 5, 3)])
def test_group_norm_silu_has_the_values_and_gradients_of_the_two_layers(layout, shape):
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    ours, theirs = GroupNormSiLU(32, shape[1], eps=1e-6).double(), nn.GroupNorm(32, shape[1], eps=1e-6).double()
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    gradient = torch.randn(shape, dtype=torch.float64)
    a, b = ours(x), F.silu(theirs(x))
    assert torch.allclose(a, b)
    wanted = torch.autograd.grad(b, [x, *theirs.parameters()], gradient)
    for got, want in zip(torch.autograd.grad(a, [x, *ours.parameters()], gradient), wanted, strict=True):
        assert torch.allclose(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("mean", "std"), [(0, 300), (300, 30), (1000, 1)])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_norm_of_a_gpu_computes_in_float32_where_squares_overflow_and_variances_cancel(dtype, mean, std, autocast):
    """Against float64. The gradients' products with the map overflow float16, too."""
    torch.manual_seed(0)
    x = (torch.randn(2, 64, 14, 14) * std + mean).to(dtype).to(memory_format=torch.channels_last)
    gradient = (100 * torch.randn(x.shape)).to(dtype).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 64)
    ours = [value.clone().requires_grad_() for value in (x, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = group_norm_silu(*ours, 32, 1e-6, exact=True)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    theirs = [value.double().requires_grad_() for value in (x, weight, bias)]
    expected = F.silu(F.group_norm(theirs[0], 32, *theirs[1:], 1e-6))
    pairs = [(result, expected)]
    pairs += zip(
        torch.autograd.grad(result, ours, gradient), torch.autograd.grad(expected, theirs, gradient.double()),
        strict=True,
    )  # fmt: skip
    for got, want in pairs:
        assert (got - want).norm() < max(torch.finfo(dtype).eps, 2e-4) * want.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_norm_stays_channels_last_on_cuda_without_waiting(dtype):
    with fake_cuda() as waits:
        layer = GroupNormSiLU(32, 64).to("cuda")
        x = torch.zeros(2, 64, 14, 14, dtype=dtype, device="cuda").to(memory_format=torch.channels_last)
        x.requires_grad_()
        waits.counts.clear()
        with torch.autocast("cuda", dtype):
            result = layer(x)
        backward(result.sum())
        for value in (result, x.grad):
            assert value.dtype == dtype
            assert value.is_contiguous(memory_format=torch.channels_last)
        assert layer.weight.grad.dtype == torch.float32
        assert waits.counts == {}


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("exact", [False, True])
def test_a_compiled_level_of_the_decoder_is_one_graph_and_has_the_same_values(backend, exact, monkeypatch):
    """As on a CPU, and, ``exact``, as on a GPU."""
    if exact:
        monkeypatch.setattr(fused_layers, "group_norm_silu", partial(as_on_a_gpu, group_norm_silu))
    torch.manual_seed(0)
    level = Level(64, 32, 4, upsample=True).to(memory_format=torch.channels_last)
    x = torch.randn(1, 64, 28, 28).to(memory_format=torch.channels_last).requires_grad_()
    torch._dynamo.reset()
    for got, want in zip(
        results_of(torch.compile(level, fullgraph=True, backend=backend, dynamic=False), level, x),
        results_of(level, level, x), strict=True,
    ):  # fmt: skip
        assert (got - want).norm() < 1e-4 * want.norm()


def as_on_a_gpu(norm, *args, exact):
    return norm(*args, exact=True)


def results_of(function, module, x):
    """What it returns of x, and the gradients to x and the module's parameters."""
    result = function(x)
    return [result, *torch.autograd.grad(result.square().sum(), [x, *module.parameters()])]


def test_a_frozen_prelu_has_the_values_and_the_input_gradient_of_a_prelu():
    x = torch.randn(2, 8, 5, 5, requires_grad=True)
    ours, theirs = FrozenPReLU(8), nn.PReLU(8)
    theirs.weight.data = torch.randn(8)  # negative slopes too
    ours.load_state_dict(theirs.state_dict())
    gradient = torch.randn(2, 8, 5, 5)
    assert torch.equal(ours(x), theirs(x))
    got, want = (torch.autograd.grad(layer(x), x, gradient)[0] for layer in (ours, theirs))
    assert torch.allclose(got, want)


@pytest.mark.parametrize("width", [16, 128])
def test_upsample_is_nearest_then_convolution(width):
    layer, x = Upsample(width).double(), torch.randn(2, width, 5, 6, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=1)
    assert torch.allclose(layer(x), expected)
    layer.fuse()
    assert torch.allclose(layer(x), expected)


def test_the_shortcut_of_a_residual_block_is_applied_to_its_result():
    block, x = ResidualBlock(64, 32).double(), torch.randn(1, 64, 4, 4, dtype=torch.float64)
    h = block.conv2(F.silu(F.group_norm(block.conv1(F.silu(F.group_norm(x, 32, eps=1e-6))), 32, eps=1e-6)))
    assert torch.allclose(block(x), h + F.conv2d(h, block.shortcut.weight))


def test_the_image_decoder_gives_images_of_112_by_112():
    assert ImageDecoder(32)(torch.randn(1, 256, 7, 7)).shape == (1, 3, 112, 112)


def test_fusing_a_face_encoder_changes_nothing():
    torch.manual_seed(0)
    encoder = IResNet((1, 2, 1, 1), (8, 16, 16, 32)).eval()
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    images = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        expected = encoder(images)
        assert torch.allclose(encoder.for_inference()(images), expected, rtol=1e-3, atol=1e-3)
