"""Head pose estimation by 6DRepNet (Hempel et al., 2022) on RepVGG-B1g2 in deploy form (Ding et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.weight_files import freeze_for_inference, load_file, load_weights_strict, skip_init, state_dict_of

STAGES = ((4, 128), (6, 256), (16, 512), (1, 2048))  # blocks and width of each stage
STEM_WIDTH = 64
SMALL = {"stages": ((2, 32), (4, 64), (4, 128), (1, 256)), "stem_width": 24}  # of world/train_pose.py


class RepVGGBlock(nn.Module):
    """A 3x3 convolution with bias and a ReLU, to which a RepVGG block is reduced after training.

    (N, in_width, H, W) -> (N, width, H / stride, W / stride).
    """

    def __init__(self, in_width: int, width: int, stride: int, groups: int):
        super().__init__()
        self.rbr_reparam = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.rbr_reparam(x))


class SixDRepNet(nn.Module):
    """Pose estimator: RGB images (N, 3, H, W) in [-1, 1] -> pitch, yaw and roll (N, 3) in degrees.

    ``stages``: number of blocks and of channels of each of the four stages. ``stem_width``: channels of the stem.
    """

    def __init__(self, stages: tuple[tuple[int, int], ...] = STAGES, stem_width: int = STEM_WIDTH):
        super().__init__()
        self.layer0 = RepVGGBlock(3, stem_width, stride=2, groups=1)
        in_width, number = stem_width, 0
        for stage, (count, width) in enumerate(stages, start=1):
            blocks = []
            for index in range(count):
                number += 1  # counted over all stages: every even block has two groups
                blocks.append(RepVGGBlock(in_width, width, 2 if index == 0 else 1, 2 if number % 2 == 0 else 1))
                in_width = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.linear_reg = nn.Linear(in_width, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.rad2deg(euler_angles(self.rotation(images)))

    def for_inference(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> SixDRepNet:
        """Freeze and move the model; gradients still reach the images. Returns the model.

        The last layer stays in float32.
        """
        return freeze_for_inference(self, device, dtype, in_float32=self.linear_reg)

    def rotation(self, images: torch.Tensor) -> torch.Tensor:
        """RGB images (N, 3, H, W) in [-1, 1] -> rotation matrices (N, 3, 3), in float32."""
        x = (images.flip(1) + 1) / 2  # (N, 3, H, W): the network takes BGR images in [0, 1]
        x = x.to(next(self.parameters()).dtype)
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.layer0(x)))))  # (N, C, H / 32, W / 32)
        return rotation_from_6d(self.linear_reg(x.float().mean(dim=(2, 3))))  # (N, 6) -> (N, 3, 3)

    def for_training(self) -> SixDRepNet:
        """Add a BatchNorm after each convolution, which training needs; ``fuse`` removes them. Returns the model."""
        for block in self._blocks():
            conv = block.rbr_reparam
            conv.bias = None
            block.rbr_reparam = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
        return self

    def fuse(self) -> SixDRepNet:
        """Fold the BatchNorms into their convolutions, as in weight files, in eval mode. Returns the model."""
        for block in self.eval()._blocks():
            block.rbr_reparam = fuse_conv_bn_eval(*block.rbr_reparam)
        return self

    def _blocks(self) -> list[RepVGGBlock]:
        return [module for module in self.modules() if isinstance(module, RepVGGBlock)]


def rotation_from_6d(six: torch.Tensor) -> torch.Tensor:
    """Two 3-vectors a and b, together (N, 6) -> rotation matrices (N, 3, 3) by Gram-Schmidt (Zhou et al., 2019).

    The columns are x = a / |a|, y = z x x, and z = (x x b) / |x x b|.
    """
    a, b = six[:, :3], six[:, 3:]  # (N, 3) each
    x = F.normalize(a, dim=1, eps=1e-8)
    z = F.normalize(torch.linalg.cross(x, b), dim=1, eps=1e-8)
    y = torch.linalg.cross(z, x)
    return torch.stack([x, y, z], dim=2)  # (N, 3, 3)


def euler_angles(rotation: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (N, 3, 3) -> pitch, yaw and roll (N, 3) in radians."""
    r = rotation
    squared = r[:, 0, 0] ** 2 + r[:, 1, 0] ** 2
    singular = squared < 1e-12
    sy = squared.clamp(min=1e-12).sqrt()  # clamped before the root, whose gradient at 0 is infinite
    yaw = torch.atan2(-r[:, 2, 0], sy)
    pitch = torch.where(singular, torch.atan2(-r[:, 1, 2], r[:, 1, 1]), torch.atan2(r[:, 2, 1], r[:, 2, 2]))
    roll = torch.where(singular, 0.0, torch.atan2(r[:, 1, 0], r[:, 0, 0]))
    return torch.stack([pitch, yaw, roll], dim=1)  # (N, 3)


def load_pose_estimator(
    path: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SixDRepNet:
    """The frozen 6DRepNet in a weight file: RGB images in [-1, 1] -> pitch, yaw and roll (N, 3) in degrees.

    Its sizes follow from the weights. Gradients reach the images. Raises UserError if the file does not contain a
    6DRepNet.
    """
    state = state_dict_of(load_file(path), path)
    with skip_init():
        estimator = SixDRepNet(**architecture_of(state))
    load_weights_strict(estimator, state, path, "a 6DRepNet pose estimator")
    return estimator.for_inference(device, dtype)


def architecture_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The keyword arguments of the SixDRepNet with the shapes of a state dict; none if keys are missing."""
    try:
        stages = []
        for stage in range(1, 5):
            count = len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
            stages.append((count, state[f"layer{stage}.0.rbr_reparam.weight"].shape[0]))
        return {"stages": tuple(stages), "stem_width": state["layer0.rbr_reparam.weight"].shape[0]}
    except (KeyError, IndexError):
        return {}
