"""Adapters for landmark control of the demo generator, with random weights."""

import torch

from models.pose_control import LandmarkEncoder

WIDTH, BLOCKS = 256, {"encoder": 6, "decoder": 4}  # of the demo generator


def lora_of(rank=8, seed=0):
    """Random LoRA matrices of the demo generator, by name."""
    draw = torch.Generator().manual_seed(seed)
    lora = {}
    for part, depth in BLOCKS.items():
        for number in range(depth):
            for name, width in (("qkv", 3 * WIDTH), ("proj", WIDTH)):
                layer = f"{part}.blocks.{number}.attn.{name}"
                lora[f"{layer}.A"] = torch.randn(rank, WIDTH, generator=draw) / WIDTH**0.5
                lora[f"{layer}.B"] = torch.randn(width, rank, generator=draw) * 0.01
    return lora


def write_adapter(path, rank=8, alpha=32.0, seed=0, model="vec2face_vit_tiny", **more):
    """Write an adapter file with random weights, and return its path."""
    torch.manual_seed(seed)
    encoder = LandmarkEncoder(WIDTH, 4)
    torch.nn.init.normal_(encoder.linear.weight, std=0.05)
    about = {"model": model, "lora": {"rank": rank, "alpha": alpha}}
    content = {"model_vec2face": lora_of(rank, seed), "pose_model": dict(encoder.state_dict())}
    torch.save(content | about | more, path)
    return path
