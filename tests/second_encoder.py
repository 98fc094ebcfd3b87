"""A face encoder that agrees with the demo encoder only roughly: its weights, a little changed."""

import torch
from paths import Demo


def write_second_encoder(path, change=0.02, seed=0):
    """Write its weights; ``change``: standard deviation of the change, relative to that of each weight."""
    content = torch.load(Demo.encoder, weights_only=True)
    generator = torch.Generator().manual_seed(seed)
    content["state_dict"] = {
        name: weight + change * weight.std() * torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1 and weight.is_floating_point() else weight
        for name, weight in content["state_dict"].items()
    }  # fmt: skip
    torch.save(content, path)
    return path
