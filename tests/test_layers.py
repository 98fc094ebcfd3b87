"""The layers we compute in another way give what PyTorch's own give."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from models.fused_layers import FrozenPReLU, GroupNormSiLU
from models.image_decoder import ImageDecoder, ResidualBlock, Upsample
from models.iresnet import IResNet


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [(2, 64, 7, 7), (1, 32, 5, 3)])
def test_group_norm_silu(layout, shape):
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


def test_frozen_prelu():
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


def test_shortcut_is_applied_to_the_result():
    block, x = ResidualBlock(64, 32).double(), torch.randn(1, 64, 4, 4, dtype=torch.float64)
    h = block.conv2(F.silu(F.group_norm(block.conv1(F.silu(F.group_norm(x, 32, eps=1e-6))), 32, eps=1e-6)))
    assert torch.allclose(block(x), h + F.conv2d(h, block.shortcut.weight))


def test_image_decoder_size():
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
