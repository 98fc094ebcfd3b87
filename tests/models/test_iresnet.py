"""The face recognition network."""

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
