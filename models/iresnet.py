"""IResNet face encoder (ArcFace, Deng et al., 2019; improved ResNet, Duta et al., 2020).

The same network serves as identity model (its feature) and as MagFace quality model (its norm).
"""

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
    """Scales every channel by what all channels are on average (Hu et al., 2018): (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, width, reduction=16):
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(width // reduction, width, 1, bias=False)

    def forward(self, x):
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()  # scales (N, C, 1, 1)


class Bottleneck(nn.Module):
    """bn, conv, bn, PReLU, conv (stride), bn, added to the input or to its 1x1 projection.

    ``se``: squeeze-excitation on that shortcut.
    """

    def __init__(self, in_width, width, stride, se=False):
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

    def forward(self, x):
        h = self.prelu(self.bn2(self.conv1(self.bn1(x))))  # (N, width, H, W)
        h = self.bn3(self.conv2(h))  # (N, width, H / stride, W / stride)
        shortcut = x if self.downsample is None else self.downsample(x)  # (N, width, H / stride, W / stride)
        return h + (shortcut if self.attn is None else self.attn(shortcut))


class IResNet(nn.Module):
    """(N, 3, 112, 112) RGB in [-1, 1] -> (N, feature_size) unnormalised feature.

    ``blocks``: how many blocks in each of the four stages; ``widths``: their channels, the stem has
    the first one's. ``se``: squeeze-excitation in the first block of each stage (the HSFace recipe's SE-IResNet).
    With released weights a feature has about unit variance per dimension (norm 22-23).
    """

    def __init__(self, blocks=DEPTHS[100], widths=(64, 128, 256, 512), feature_size=512, se=False):
        super().__init__()
        self.feature_norms = (
            None  # {"5%", "50%", "95%"} of photos, where the weight file says so: what quality to expect
        )
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

    def maps(self, images):
        """The map after each of the four stages, computed as it is asked for: (N, C, 56, 56) ... (N, C, 7, 7)."""
        images = (images + 1) / 2 if self.unit_range else images  # (N, 3, 112, 112)
        x = self.prelu(self.bn1(self.conv1(images.to(self.conv1.weight.dtype))))  # (N, C, 112, 112)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)  # half the side
            yield x

    def forward(self, images):
        *_, x = self.maps(images)  # (N, C, 7, 7)
        x = self.dropout(self.bn2(x).flatten(1))  # (N, 49 C)
        return self.features(self.fc(x).float())  # (N, feature_size), always in float32

    def initialise(self):
        """Start values for training, those of ArcFace's code; returns the model."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)
        return self

    def for_inference(self, device="cpu", dtype=torch.float32):
        """Frozen, in eval mode, fused; gradients reach the images, the last norm stays in float32."""
        freeze_for_inference(self.eval().fuse(), device, dtype).features.float()
        return self

    def fuse(self):
        """The same function, faster, for inference only: BatchNorms folded into the convolutions before them.

        bn1 of a block stands before a padded convolution and cannot be folded exactly.
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


def freeze_prelu(layer):
    frozen = FrozenPReLU(layer.num_parameters)
    frozen.load_state_dict(layer.state_dict())
    return frozen


def load_face_encoder(path, device="cpu", dtype=torch.float32):
    """The IResNet in a weight file: (N, 3, 112, 112) RGB in [-1, 1] -> (N, 512).

    Reads released and own files and the official ones of MagFace and AdaFace (``models.official_encoders``), all for
    the same images. Depth and widths are read off the file. Frozen, in eval mode, BatchNorms folded into the
    convolutions; gradients reach the images. Raises UserError when the file holds no IResNet.
    """
    return trainable_encoder(load_file(path), path).for_inference(device, dtype)


def trainable_encoder(content, path):
    """The IResNet in the content of a weight file as it is trained, not fused. Raises UserError when it holds none."""
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


def architecture_of(state):
    """The keyword arguments of IResNet that fit a released state dict. Raises KeyError when it is not one."""
    stages = []
    for stage in range(1, 5):
        count = len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        stages.append((count, state[f"layer{stage}.0.conv1.weight"].shape[0]))
    blocks, widths = zip(*stages, strict=True)
    se = "layer1.0.attn.fc1.weight" in state
    return {"blocks": blocks, "widths": widths, "feature_size": state["fc.weight"].shape[0], "se": se}
