"""Conversion of the face encoders of other projects to the key names and input of this project's IResNet.

- The FR-training repository stores a plain IResNet state dict, ``{"conv1.weight": ...}``. Other training code stores
  the network under a prefix, beside the classifier: the prefix and all keys without it are removed.
- MagFace (Meng et al., 2021), ``features.module.*``: an IResNet on BGR images in [0, 1], whose BatchNorms have an eps
  of 2e-5 instead of 1e-5.
- AdaFace (Kim et al., 2022), ``model.input_layer.*``: IR-18, 34, 50 and 101 are IResNets with other key names on BGR
  images in [-1, 1]. The shortcut of the first block subsamples its input by 2 without IResNet's projection.
"""

import re
from pathlib import Path

import torch

from models.errors import UserError
from models.weight_files import StateDict

IRESNET_KEY, ADAFACE_KEY = "layer1.0.conv1.weight", "input_layer.0.weight"  # keys by which the networks are recognised
MAGFACE_PREFIXES = ("features.module.", "features.")
EPS, MAGFACE_EPS = 1e-5, 2e-5  # eps of BatchNorm: PyTorch's default and MagFace's
ADAFACE_NAMES = {
    "input_layer.0": "conv1", "input_layer.1": "bn1", "input_layer.2": "prelu",
    "output_layer.0": "bn2", "output_layer.3": "fc", "output_layer.4": "features",
}  # fmt: skip
ADAFACE_BLOCK_NAMES = {
    "res_layer.0": "bn1", "res_layer.1": "conv1", "res_layer.2": "bn2", "res_layer.3": "prelu", "res_layer.4": "conv2",
    "res_layer.5": "bn3", "shortcut_layer.0": "downsample.0", "shortcut_layer.1": "downsample.1",
}  # fmt: skip


def is_face_encoder(state: StateDict) -> bool:
    """Whether a state dict contains an IResNet or an AdaFace network, under any prefix."""
    return prefix_of(state, IRESNET_KEY) is not None or prefix_of(state, ADAFACE_KEY) is not None


def to_iresnet(state: StateDict, path: Path | str) -> tuple[StateDict, bool]:
    """The state dict of an IResNet for RGB images, and whether it takes them in [0, 1], from that of a face encoder.

    State dicts of other networks are returned unchanged. Raises UserError for an AdaFace network that is not an
    IResNet, and KeyError if keys are missing.
    """
    adaface, iresnet = prefix_of(state, ADAFACE_KEY), prefix_of(state, IRESNET_KEY)
    if adaface is not None:
        return for_rgb(from_adaface(below(state, adaface), path)), False
    if iresnet is None:
        return state, False
    state = below(state, iresnet)
    if iresnet not in MAGFACE_PREFIXES:
        return state, False
    variances = {key: value + MAGFACE_EPS - EPS for key, value in state.items() if key.endswith("running_var")}
    return for_rgb(state | variances), True


def prefix_of(state: StateDict, key: str) -> str | None:
    """The prefix of ``key`` in a state dict, None if no name ends with this key."""
    return next((name.removesuffix(key) for name in state if name.endswith(key)), None)


def below(state: StateDict, prefix: str) -> dict[str, torch.Tensor]:
    """The part of a state dict whose names have a prefix, with the prefix removed."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def for_rgb(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict for RGB images that is equivalent to one for BGR images."""
    return state | {"conv1.weight": state["conv1.weight"].flip(1)}  # (C, 3, 3, 3)


def from_adaface(state: StateDict, path: Path | str) -> dict[str, torch.Tensor]:
    """An AdaFace state dict in the names of IResNet, for BGR images. Raises UserError if its blocks differ."""
    if any("se_block" in key or "res_layer.7" in key for key in state):
        raise UserError(
            f"{path}: an AdaFace network with squeeze-excitation or bottlenecks; only AdaFace's IR-18, IR-34, IR-50 "
            "and IR-101 can be read."
        )
    names = ADAFACE_NAMES | block_names(state)
    renamed = {}
    for key, value in state.items():
        layer, _, parameter = key.rpartition(".")
        renamed[f"{names.get(layer, layer)}.{parameter}"] = value  # unknown layers are reported on loading
    return renamed | unchanged_shortcut(renamed["conv1.weight"].shape[0]) | unit_scale(renamed["fc.bias"].shape[0])


def block_names(state: StateDict) -> dict[str, str]:
    """{AdaFace's name: IResNet's name} of the layers in blocks. Each change of the width begins a new stage."""
    numbers = {int(match[1]) for key in state if (match := re.match(r"body\.(\d+)\.", key))}
    names, stage, index = {}, 0, 0
    for number in sorted(numbers):
        begins = number == 0 or f"body.{number}.shortcut_layer.0.weight" in state
        stage, index = (stage + 1, 0) if begins else (stage, index + 1)
        names |= {f"body.{number}.{a}": f"layer{stage}.{index}.{b}" for a, b in ADAFACE_BLOCK_NAMES.items()}
    return names


def unchanged_shortcut(width: int) -> dict[str, torch.Tensor]:
    """The projection of the first block, set to the identity."""
    name, ones, zeros = "layer1.0.downsample", torch.ones(width), torch.zeros(width)
    return {
        f"{name}.0.weight": torch.eye(width)[:, :, None, None],  # (C, C, 1, 1)
        f"{name}.1.weight": ones,
        f"{name}.1.bias": zeros,
        f"{name}.1.running_mean": zeros,
        f"{name}.1.running_var": ones - EPS,
    }


def unit_scale(width: int) -> dict[str, torch.Tensor]:
    """Unit scale and zero shift of the last BatchNorm, which has neither in AdaFace."""
    return {"features.weight": torch.ones(width), "features.bias": torch.zeros(width)}
