"""Face encoders as other projects keep them: their key names and pixels, turned into those of IResNet.

- The FR-training repository's form is a plain IResNet state dict, ``{"conv1.weight": ...}``. Other training code keeps
  the network under a prefix, with the classifier beside it: the prefix is dropped, and so is what lies outside it.
- MagFace (Meng et al., 2021), ``features.module.*``: an IResNet of BGR images in [0, 1] whose norms add 2e-5, not 1e-5.
- AdaFace (Kim et al., 2022), ``model.input_layer.*``: IR-18, 34, 50 and 101 are IResNets of BGR images in [-1, 1] by
  other names, whose first block leaves out every other pixel of its input where IResNet projects it.
"""

import re

import torch

from models.errors import UserError

IRESNET_KEY, ADAFACE_KEY = "layer1.0.conv1.weight", "input_layer.0.weight"  # in every such network
MAGFACE_PREFIXES = ("features.module.", "features.")
EPS, MAGFACE_EPS = 1e-5, 2e-5  # what norms add to the variance: PyTorch's default, MagFace's
ADAFACE_NAMES = {
    "input_layer.0": "conv1", "input_layer.1": "bn1", "input_layer.2": "prelu",
    "output_layer.0": "bn2", "output_layer.3": "fc", "output_layer.4": "features",
}  # fmt: skip
ADAFACE_BLOCK_NAMES = {
    "res_layer.0": "bn1", "res_layer.1": "conv1", "res_layer.2": "bn2", "res_layer.3": "prelu", "res_layer.4": "conv2",
    "res_layer.5": "bn3", "shortcut_layer.0": "downsample.0", "shortcut_layer.1": "downsample.1",
}  # fmt: skip


def is_face_encoder(state):
    """Whether a state dict, under any prefix, is that of an IResNet or of an AdaFace network."""
    return prefix_of(state, IRESNET_KEY) is not None or prefix_of(state, ADAFACE_KEY) is not None


def to_iresnet(state, path):
    """(state dict of an IResNet for RGB images, whether it wants them in [0, 1]) of a face encoder's state dict.

    One of any other kind comes back as it is. Raises UserError for an AdaFace network that is no IResNet, KeyError
    when parts of one are missing.
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


def prefix_of(state, key):
    """What stands before ``key`` in the names of a state dict, None when it is in none."""
    return next((name.removesuffix(key) for name in state if name.endswith(key)), None)


def below(state, prefix):
    """The part of a state dict with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def for_rgb(state):
    """The network that does with RGB images what this one does with BGR images."""
    return state | {"conv1.weight": state["conv1.weight"].flip(1)}  # (C, 3, 3, 3)


def from_adaface(state, path):
    """An AdaFace state dict under the names of IResNet, still for BGR images. Raises UserError for other blocks."""
    if any("se_block" in key or "res_layer.7" in key for key in state):
        raise UserError(
            f"{path}: an AdaFace network with squeeze-excitation or bottlenecks; of AdaFace's networks only IR-18, "
            "IR-34, IR-50 and IR-101 can be read."
        )
    names = ADAFACE_NAMES | block_names(state)
    renamed = {}
    for key, value in state.items():
        layer, _, parameter = key.rpartition(".")
        renamed[f"{names.get(layer, layer)}.{parameter}"] = value  # unknown ones are reported where it is loaded
    return renamed | unchanged_shortcut(renamed["conv1.weight"].shape[0]) | unit_scale(renamed["fc.bias"].shape[0])


def block_names(state):
    """{AdaFace's name of a layer in a block: IResNet's}: a stage begins with block 0 and wherever the width changes."""
    numbers = {int(found[1]) for key in state if (found := re.match(r"body\.(\d+)\.", key))}
    names, stage, place = {}, 0, 0
    for number in sorted(numbers):
        begins = number == 0 or f"body.{number}.shortcut_layer.0.weight" in state
        stage, place = (stage + 1, 0) if begins else (stage, place + 1)
        names |= {f"body.{number}.{a}": f"layer{stage}.{place}.{b}" for a, b in ADAFACE_BLOCK_NAMES.items()}
    return names


def unchanged_shortcut(width):
    """The projection of the first block, as one that changes no pixel."""
    name, ones, zeros = "layer1.0.downsample", torch.ones(width), torch.zeros(width)
    return {
        f"{name}.0.weight": torch.eye(width)[:, :, None, None],  # (C, C, 1, 1)
        f"{name}.1.weight": ones,
        f"{name}.1.bias": zeros,
        f"{name}.1.running_mean": zeros,
        f"{name}.1.running_var": ones - EPS,
    }


def unit_scale(width):
    """Scale and shift of the last norm, which AdaFace's has not."""
    return {"features.weight": torch.ones(width), "features.bias": torch.zeros(width)}
