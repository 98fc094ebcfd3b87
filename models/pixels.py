"""Conversion between the images of the networks and the pixels of files."""

import torch


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) in [-1, 1], clipped -> pixels (N, H, W, 3) uint8."""
    pixels = ((images.clip(-1, 1) + 1) * 127.5).round().to(torch.uint8)  # (N, 3, H, W)
    return pixels.permute(0, 2, 3, 1).contiguous()  # (N, H, W, 3)


def to_images(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (N, H, W, 3) uint8 -> images (N, 3, H, W) float32 in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1  # (N, 3, H, W)
