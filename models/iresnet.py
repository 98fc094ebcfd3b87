"""The IResNet face encoder (ArcFace, Deng et al., 2019; improved ResNet, Duta et al., 2020).

The network is used as identity model, by its feature, and with MagFace weights as quality model, by the feature's norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.errors import UserError
from models.fused_layers import FrozenPReLU
from models.official_encoders import to_iresnet
from models.weight_files import (
    first_few,
    freeze_for_inference,
    load_file,
    load_weights_strict,
    skip_init,
    state_dict_of,
)

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    152: (3, 8, 36, 3),
    200: (6, 26, 60, 6),
}
MAP_SIDE = 7  # side of the last feature map for a 112x112 image


class SqueezeExcitation(nn.Module):
    """Scales each channel depending on the means of all channels (Hu et al., 2018): (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, width: int, reduction: int = 16):
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(width // reduction, width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()  # scales (N, C, 1, 1)


class Bottleneck(nn.Module):
    """BN, conv, BN, PReLU, conv (stride), BN, added to the input or to its 1x1 projection.

    (N, in_width, H, W) -> (N, width, H / stride, W / stride). ``se``: squeeze-excitation on the shortcut.
    """

    def __init__(self, in_width: int, width: int, stride: int, se: bool = False):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

        self.attn = SqueezeExcitation(width) if se else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.prelu(self.bn2(self.conv1(self.bn1(x))))  # (N, width, H, W)
        h = self.bn3(self.conv2(h))  # (N, width, H / stride, W / stride)
        shortcut = x if self.downsample is None else self.downsample(x)  # (N, width, H / stride, W / stride)
        return h + (shortcut if self.attn is None else self.attn(shortcut))


class IResNet(nn.Module):
    """Face encoder: RGB images (N, 3, 112, 112) in [-1, 1] -> features (N, feature_size), not normalised.

    ``blocks`` and ``widths``: number of blocks and of channels of the four stages; the stem has the channels of the
    first stage. ``se``: squeeze-excitation in the first block of each stage, as in the SE-IResNet of the HSFace recipe.
    With the released weights, features have about unit variance per dimension, i.e. norms of 22 to 23.
    """

    def __init__(
        self,
        blocks: Sequence[int] = DEPTHS[100],
        widths: Sequence[int] = (64, 128, 256, 512),
        feature_size: int = 512,
        se: bool = False,
    ):
        super().__init__()
        # Percentiles "5%", "50%" and "95%" of the feature norms of photos, if the weight file contains them.
        self.feature_norms: dict[str, float] | None = None
        self.unit_range = False  # official MagFace networks take pixels in [0, 1]
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        in_width = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            first = Bottleneck(in_width, width, stride=2, se=se)
            rest = (Bottleneck(width, width, stride=1) for _ in range(count - 1))
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
            in_width = width
        self.bn2 = nn.BatchNorm2d(in_width)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(in_width * MAP_SIDE**2, feature_size)
        self.features = nn.BatchNorm1d(feature_size)
        self.features.weight.requires_grad_(False)

    def maps(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the map after each of the four stages, (N, C, 56, 56) to (N, C, 7, 7), computed only when taken."""
        images = (images + 1) / 2 if self.unit_range else images  # (N, 3, 112, 112)
        x = self.prelu(self.bn1(self.conv1(images.to(self.conv1.weight.dtype))))  # (N, C, 112, 112)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)  # (N, C, H, W) -> (N, C', H / 2, W / 2)
            yield x

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        *_, last = self.maps(images)  # (N, C, 7, 7)
        return self.feature(last)

    def feature(self, last: torch.Tensor) -> torch.Tensor:
        """The map after the last stage (N, C, 7, 7) -> the features (N, feature_size), always in float32."""
        x = self.dropout(self.bn2(last).flatten(1))  # (N, 49 C)
        return self.features(self.fc(x).float())

    def initialise(self) -> IResNet:
        """Initialise the convolutions for training as in ArcFace's code. Returns the model."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)
        return self

    def for_inference(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> IResNet:
        """Freeze, fuse and move the model; gradients still reach the images. Returns the model.

        The last BatchNorm stays in float32.
        """
        return freeze_for_inference(self.eval().fuse(), device, dtype, in_float32=self.features)

    def fuse(self) -> IResNet:
        """Fold BatchNorms into the preceding convolutions, which makes inference faster. Returns the model.

        The bn1 of a block precedes a zero-padded convolution and cannot be folded exactly.
        """
        self.conv1, self.bn1 = fuse_conv_bn_eval(self.conv1, self.bn1), nn.Identity()
        self.prelu = freeze_prelu(self.prelu)
        for block in self.modules():
            if isinstance(block, Bottleneck):
                block.conv1, block.bn2 = fuse_conv_bn_eval(block.conv1, block.bn2), nn.Identity()
                block.conv2, block.bn3 = fuse_conv_bn_eval(block.conv2, block.bn3), nn.Identity()
                block.prelu = freeze_prelu(block.prelu)
                if block.downsample is not None:
                    block.downsample = fuse_conv_bn_eval(*block.downsample)
        return self


def freeze_prelu(layer: nn.PReLU) -> FrozenPReLU:
    """A PReLU with the same slopes, which get no gradient."""
    result = FrozenPReLU(layer.num_parameters)
    result.load_state_dict(layer.state_dict())
    return result


def load_face_encoder(
    path: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> IResNet:
    """The frozen, fused IResNet in a weight file: RGB images (N, 3, 112, 112) in [-1, 1] -> features (N, 512).

    Reads the files of this project, of the FR-training repository, and the official ones of MagFace and AdaFace (see
    ``models.official_encoders``), all for the same images. Depth and widths follow from the weights. Gradients reach
    the images. Raises UserError if the file does not contain an IResNet.
    """
    return trainable_encoder(load_file(path), path).for_inference(device, dtype)


def trainable_encoder(content: Any, path: Path | str) -> IResNet:
    """The IResNet in the content of a weight file, not frozen or fused. Raises UserError if there is none."""
    state = state_dict_of(content, path)
    try:
        state, unit_range = to_iresnet(state, path)
        with skip_init():
            encoder = IResNet(**architecture_of(state))
    except (KeyError, IndexError) as error:
        raise UserError(
            f"{path}: not a face-recognition model (IResNet): missing {error.args[0]}; "
            f"its first keys are {first_few(list(state))}."
        ) from error
    load_weights_strict(encoder, state, path, "an IResNet face encoder")
    encoder.feature_norms, encoder.unit_range = content.get("feature_norms"), unit_range
    return encoder


def architecture_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The keyword arguments of the IResNet with the shapes of a state dict. Raises KeyError if keys are missing."""
    stages = []
    for stage in range(1, 5):
        count = len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        stages.append((count, state[f"layer{stage}.0.conv1.weight"].shape[0]))
    blocks, widths = zip(*stages, strict=True)
    se = "layer1.0.attn.fc1.weight" in state
    return {"blocks": blocks, "widths": widths, "feature_size": state["fc.weight"].shape[0], "se": se}
