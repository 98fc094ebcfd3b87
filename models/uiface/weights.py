"""Reading and writing the weight files of UIFace's UNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from models.errors import UserError
from models.uiface.architecture import PRESETS, Architecture, architecture_of, preset_name
from models.uiface.unet import UNet
from models.weight_files import first_few, load_file, load_weights_strict, save_file, skip_init, state_dict_of

# Constants of the noise schedule, which the released checkpoints contain beside the UNet.
SCHEDULE = (
    "betas", "alphas", "sigmas", "sqrt_alphas_inv", "alpha_bars", "sqrt_alpha_bars", "sqrt_one_minus_alpha_bars",
    "one_minus_alphas_over_sqrt_one_minus_alpha_bars",
)  # fmt: skip

MODEL_KEY = "model_uiface"  # of the weights in a file of this project


def load_uiface_unet(
    path: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    model: str | None = None,
) -> UNet:
    """The frozen UNet in a weight file of this project or of the released code, whose names of weights are the same.

    The sizes follow from the shapes. ``model``: name of the preset that the file must contain. Raises UserError if the
    file is missing or damaged, contains no UNet, or not that of ``model``.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such UNet file. The page of UIFace's released code links to its weights.")
    return unet_of(load_file(path), path, model).for_inference(device, dtype)


def unet_of(content: Any, path: Path | str, model: str | None = None) -> UNet:
    """The UNet in the content of a weight file, not frozen. For ``model`` and the errors see ``load_uiface_unet``."""
    state = unet_state(content, path)
    try:
        architecture = stored_architecture(content) or architecture_of(state)
    except KeyError as error:
        raise UserError(
            f"{path}: not a UNet of UIFace: missing {error.args[0]}; its first keys are {first_few(list(state))}."
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: not a UNet of UIFace: it has {error}.") from error
    if model is not None and architecture != PRESETS[model]:
        found = preset_name(architecture) or f"no preset; its width is {architecture.width}"
        raise UserError(f"{path}: not a {model}, whose width is {PRESETS[model].width}, but {found}.")
    with skip_init():
        net = UNet(architecture)
    if isinstance(content, dict) and MODEL_KEY in content:
        net.trained_on, net.autoencoder_sha256 = content.get("trained_on"), content.get("autoencoder_sha256")
    load_weights_strict(net, state, path, f"a UIFace UNet of width {architecture.width}")
    return net


def unet_state(content: Any, path: Path | str) -> dict[str, torch.Tensor]:
    """The state dict of the UNet in the content of a weight file, without prefixes and constants of the schedule.

    Of a training checkpoint of this project these are the averaged weights, where there are any.
    """
    if isinstance(content, dict) and isinstance(content.get(MODEL_KEY), dict):
        content = content.get("model_ema") or content[MODEL_KEY]
    state = {key.split("eps_model.")[-1]: value for key, value in state_dict_of(content, path).items()}
    return {key.removeprefix("module."): value for key, value in state.items() if key.split(".")[-1] not in SCHEDULE}


def about_unet(
    architecture: Architecture, trained_on: Mapping[str, Any] | None = None, autoencoder_sha256: str | None = None
) -> dict[str, Any]:
    """What a UNet's file of this project has beside the weights, ``MODEL_KEY``: it does not follow from their shapes.

    ``trained_on``: the face encoder of the training vectors, as ``training_vectors`` describes it, if it is known;
    ``autoencoder_sha256``: of the file of the autoencoder whose latents the UNet was trained on.
    """
    about = {"architecture": asdict(architecture), "autoencoder_sha256": autoencoder_sha256}
    return about | {"trained_on": dict(trained_on) if trained_on else None}


def stored_architecture(content: Any) -> Architecture | None:
    """The architecture in the content of a file of this project, else None."""
    ours = isinstance(content, dict) and MODEL_KEY in content
    return Architecture(**content["architecture"]) if ours and "architecture" in content else None


def save_uiface_unet(net: UNet, path: Path | str) -> None:
    """Write the weights as the released code reads them, atomically. Raises UserError if it fails."""
    save_file({key: value.detach().float().cpu().contiguous() for key, value in net.state_dict().items()}, path)
