"""The content of the weight files of generators: their format, averaging, interpolation and checks."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from models.errors import UserError
from models.released_weights import released_key
from models.vec2face import PRESETS, Architecture, Vec2Face, generator_state, preset_of
from models.weight_files import StateDict, check_state_dict, load_file, sha256


def native_checkpoint(
    state: StateDict,
    preset: str,
    architecture: Architecture | None = None,
    trained_on: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a generator file of this project, from a state dict in this project's names.

    ``architecture``: by default that of the preset. ``trained_on``: the result of ``training_vectors``, or None.
    """
    about = {"model": preset, "architecture": asdict(architecture or PRESETS[preset])}
    return {"model_vec2face": state} | about | ({"trained_on": trained_on} if trained_on else {})


def training_vectors(encoder_path: Path | str, norms: tuple[float, float]) -> dict[str, Any]:
    """The description of the training vectors in a generator file: the encoder file's SHA-256, and their norms.

    ``norms``: mean and standard deviation of the norms. Raises OSError if the encoder file cannot be read.
    """
    norm, spread = norms
    return {"encoder_sha256": sha256(encoder_path), "feature_norm": float(norm), "feature_norm_std": float(spread)}


def averaged(content: Any, path: Path | str) -> dict[str, Any]:
    """The content of a checkpoint with the averaged weights instead of the last ones.

    Raises UserError if it has no averaged weights.
    """
    if not isinstance(content, dict) or not content.get("model_ema"):
        raise UserError(f"{path}: has no averaged weights; vec2face.py --ema DECAY saves them.")
    return content | {"model_vec2face": content["model_ema"]}


def interpolated(content: Any, path: Path | str, other_path: Path | str, share: float) -> dict[str, Any]:
    """The content of a generator file with its weights interpolated: (1 - share) * own + share * other.

    Network interpolation (ESRGAN, Wang et al., 2018, section 3.4) is useful between checkpoints of the same run.
    Raises UserError unless both are files of this project with the same names and shapes of weights.
    """
    states = []
    for source, name in ((content, path), (load_file(other_path), other_path)):
        if not isinstance(source, dict) or "model_vec2face" not in source:
            raise UserError(f"{name}: not a generator trained by this project, as --interpolate requires.")
        states.append(source["model_vec2face"])
    own, other = states
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in other.items()}:
        raise UserError(f"{other_path}: its weights have other names or shapes than those in {path}.")
    mixed = {
        key: torch.lerp(value.float(), other[key].float(), share).to(value.dtype)
        for key, value in own.items()
        if value.is_floating_point()
    }
    return content | {"model_vec2face": own | mixed}


def checked_state(content: Any, path: Path | str) -> tuple[str, dict[str, torch.Tensor]]:
    """The name of the preset and the state dict in this project's names in the content of a generator file.

    Raises UserError if it does not contain a generator of any preset.
    """
    state, released = generator_state(content, path)
    preset = preset_of(state, path)
    with torch.device("meta"):
        expected = Vec2Face(PRESETS[preset])
    check_state_dict(expected, state, path, f"a {preset} generator", name_of=released_key if released else str)
    return preset, state
