"""The face recognition network."""

import pytest
import torch

from models.iresnet import IResNet


def test_the_se_shortcut_is_fused_without_change():
    torch.manual_seed(0)
    model = IResNet((1, 1, 1, 1), (16, 16, 32, 32), se=True).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    images = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        before = model(images)
        assert torch.allclose(model.for_inference()(images), before, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_last_batch_norm_keeps_its_float32_weights_in_16_bit(dtype):
    torch.manual_seed(0)
    model = IResNet((1, 1, 1, 1), (16, 16, 32, 32))
    model.features.running_mean.normal_()
    exact = {name: value.clone() for name, value in model.features.state_dict().items()}
    model.for_inference(dtype=dtype)
    assert model.conv1.weight.dtype == dtype
    assert all(torch.equal(value, exact[name]) for name, value in model.features.state_dict().items())
