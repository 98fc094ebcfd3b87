"""What a weight file of a generator holds beside its weights, for all that write one."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from models.errors import UserError
from models.released_weights import released_key
from models.vec2face import PRESETS, Architecture, Vec2Face, generator_state, preset_of
from models.weight_files import check_state_dict, load_file, sha256


def native_checkpoint(
    state: dict[str, torch.Tensor],
    preset: str,
    architecture: Architecture | None = None,
    trained_on: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a generator file in this project's format, from a state dict in this project's names.

    ``architecture``: that of the preset by default. ``trained_on``: the result of ``training_vectors``, or None.
    """
    about = {"model": preset, "architecture": asdict(architecture or PRESETS[preset])}
    return {"model_vec2face": state} | about | ({"trained_on": trained_on} if trained_on else {})


def training_vectors(encoder_path: Path | str, norms: tuple[float, float]) -> dict[str, Any]:
    """What a generator file says of the training vectors: the encoder file's SHA-256, mean and deviation of the norms.

    ``norms``: mean and standard deviation. Raises OSError when the encoder file cannot be read.
    """
    norm, spread = norms
    return {"encoder_sha256": sha256(encoder_path), "feature_norm": float(norm), "feature_norm_std": float(spread)}


def averaged(content, path):
    """The content of a checkpoint with the averaged weights in place of the last ones. Raises UserError without any."""
    if not isinstance(content, dict) or not content.get("model_ema"):
        raise UserError(f"{path}: has no averaged weights; they come from vec2face.py --ema DECAY.")
    return content | {"model_vec2face": content["model_ema"]}


def interpolated(content, path, other_path, share):
    """The content with ``share`` of another generator's weights and 1 - share of its own, number by number.

    Network interpolation (ESRGAN, Wang et al., 2018, section 3.4): it makes sense between states of one training.
    Raises UserError unless both are files of this project with the same weights.
    """
    states = []
    for source, name in ((content, path), (load_file(other_path), other_path)):
        if not isinstance(source, dict) or "model_vec2face" not in source:
            raise UserError(f"{name}: not a generator of this project's training; --interpolate takes two.")
        states.append(source["model_vec2face"])
    own, other = states
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in other.items()}:
        raise UserError(f"{other_path}: its weights have other names or shapes than those of {path}.")
    mixed = {
        key: torch.lerp(value.float(), other[key].float(), share).to(value.dtype)
        for key, value in own.items()
        if value.is_floating_point()
    }
    return content | {"model_vec2face": own | mixed}


def checked_state(content, path):
    """(preset name, state dict in our names) of a loaded generator file. Raises UserError when it is none."""
    state, released = generator_state(content, path)
    preset = preset_of(state, path)
    with torch.device("meta"):
        expected = Vec2Face(PRESETS[preset])
    check_state_dict(expected, state, path, f"a {preset} generator", name_of=released_key if released else str)
    return preset, state
