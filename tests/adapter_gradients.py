"""Run by two ranks: each backpropagates its own batch through an adapter and writes the gradients that it ends with."""

import sys
from pathlib import Path

import utils.runtime.threads  # noqa: F401  settings to make before torch is loaded

import torch

from models.masking import TokenMask
from models.pose_control import add_adapter
from models.vec2face import load_vec2face
from utils.runtime.distributed import init_distributed
from utils.training.parallel import parallel

if __name__ == "__main__":
    world = init_distributed("gloo")
    torch.manual_seed(0)
    generator = load_vec2face(sys.argv[1])
    add_adapter(generator, 2, 32.0, 4)
    torch.nn.init.normal_(generator.landmark_encoder.linear.weight)
    network = parallel(generator, world, torch.device("cpu"))
    torch.manual_seed(1 + world.rank)
    mask = TokenMask.from_noise(torch.rand(1, 49), 0.6, 0.7)
    network(torch.randn(1, 512), mask, landmarks=torch.rand(1, 3, 112, 112)).images.square().mean().backward()
    gradients = {name: p.grad for name, p in generator.named_parameters() if p.requires_grad}
    torch.save(gradients, Path(sys.argv[2]) / f"{world.rank}.pth")
