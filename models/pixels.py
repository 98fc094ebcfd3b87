"""Images as the networks have them, and as files have them."""

import torch


def to_pixels(images):
    """(N, 3, 112, 112) in [-1, 1] -> (N, 112, 112, 3) uint8."""
    return ((images.clip(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_images(pixels):
    """(N, 112, 112, 3) uint8 -> (N, 3, 112, 112) float32 in [-1, 1]: what a reader makes of the pixels."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
