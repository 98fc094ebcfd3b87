"""6DRepNet head pose (Hempel et al., 2022) on RepVGG-B1g2 in deploy form (Ding et al., 2021)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.weight_files import freeze_for_inference, load_file, load_weights_strict, skip_init, state_dict_of

STAGES = ((4, 128), (6, 256), (16, 512), (1, 2048))  # blocks and width of each stage
STEM_WIDTH = 64
SMALL = {"stages": ((2, 32), (4, 64), (4, 128), (1, 256)), "stem_width": 24}  # what world/train_pose.py trains


class RepVGGBlock(nn.Module):
    """One biased 3x3 convolution and a ReLU: all that is left of a RepVGG block after training."""

    def __init__(self, in_width, width, stride, groups):
        super().__init__()
        self.rbr_reparam = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, groups=groups)

    def forward(self, x):
        return F.relu(self.rbr_reparam(x))


class SixDRepNet(nn.Module):
    """(N, 3, H, W) RGB in [-1, 1] -> (N, 3) degrees: pitch, yaw, roll."""

    def __init__(self, stages=STAGES, stem_width=STEM_WIDTH):
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

    def forward(self, images):
        return torch.rad2deg(euler_angles(self.rotation(images)))

    def for_inference(self, device="cpu", dtype=torch.float32):
        """Frozen, in eval mode; gradients reach the images, the last layer stays in float32."""
        freeze_for_inference(self, device, dtype).linear_reg.float()
        return self

    def rotation(self, images):
        """(N, 3, H, W) RGB in [-1, 1] -> (N, 3, 3) rotation matrices. The network itself sees BGR in [0, 1]."""
        x = (images.flip(1) + 1) / 2
        x = x.to(next(self.parameters()).dtype)
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.layer0(x)))))  # (N, C, H / 32, W / 32)
        return rotation_from_6d(self.linear_reg(x.float().mean(dim=(2, 3))))  # (N, 6) -> (N, 3, 3), in float32

    def for_training(self):
        """A BatchNorm after each convolution, which learns without one badly; ``fuse`` takes them out."""
        for block in self._blocks():
            conv = block.rbr_reparam
            conv.bias = None
            block.rbr_reparam = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
        return self

    def fuse(self):
        """The network as it is stored: BatchNorms folded into their convolutions; in eval mode."""
        for block in self.eval()._blocks():
            block.rbr_reparam = fuse_conv_bn_eval(*block.rbr_reparam)
        return self

    def _blocks(self):
        return [module for module in self.modules() if isinstance(module, RepVGGBlock)]


def rotation_from_6d(six):
    """(N, 6) = two 3-vectors a, b -> (N, 3, 3) rotation with columns x ~ a, y, z ~ x * b (Zhou et al., 2019)."""
    a, b = six[:, :3], six[:, 3:]
    x = F.normalize(a, dim=1, eps=1e-8)
    z = F.normalize(torch.linalg.cross(x, b), dim=1, eps=1e-8)
    y = torch.linalg.cross(z, x)
    return torch.stack([x, y, z], dim=2)  # (N, 3, 3)


def euler_angles(rotation):
    """(N, 3, 3) -> (N, 3) radians: pitch, yaw, roll."""
    r = rotation
    squared = r[:, 0, 0] ** 2 + r[:, 1, 0] ** 2
    singular = squared < 1e-12
    sy = squared.clamp(min=1e-12).sqrt()  # clamped before the root, whose gradient at 0 is infinite
    yaw = torch.atan2(-r[:, 2, 0], sy)
    pitch = torch.where(singular, torch.atan2(-r[:, 1, 2], r[:, 1, 1]), torch.atan2(r[:, 2, 1], r[:, 2, 2]))
    roll = torch.where(singular, 0.0, torch.atan2(r[:, 1, 0], r[:, 0, 0]))
    return torch.stack([pitch, yaw, roll], dim=1)


def load_pose_estimator(path, device="cpu", dtype=torch.float32):
    """The 6DRepNet in a weight file: images in [-1, 1] RGB -> (N, 3) degrees: pitch, yaw, roll.

    Its size is read off the file. Frozen, in eval mode; gradients reach the images. Raises UserError when the file
    holds no 6DRepNet.
    """
    state = state_dict_of(load_file(path), path)
    with skip_init():
        estimator = SixDRepNet(**architecture_of(state))
    load_weights_strict(estimator, state, path, "a 6DRepNet pose estimator")
    return estimator.for_inference(device, dtype)


def architecture_of(state):
    """The keyword arguments of SixDRepNet that fit a state dict; the released ones when it is not one."""
    try:
        stages = []
        for stage in range(1, 5):
            count = len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
            stages.append((count, state[f"layer{stage}.0.rbr_reparam.weight"].shape[0]))
        return {"stages": tuple(stages), "stem_width": state["layer0.rbr_reparam.weight"].shape[0]}
    except (KeyError, IndexError):
        return {}
