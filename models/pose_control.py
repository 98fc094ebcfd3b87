"""Pose control of the generator by landmark pictures (Vec2Face+, Wu et al., 2025): a landmark encoder and LoRA.

The landmark encoder turns a picture of the five landmarks into a token that takes the place of the image feature at
the masked rows of the decoder, or is added to all rows. LoRA (Hu et al., 2022) adapts the attention layers to it:
W' = W + (alpha / r) B A.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from models.errors import UserError
from models.weight_files import check_state_dict, load_file, skip_init, state_dict_of

PICTURE_SIDE = 112  # pixels of a landmark picture
STEM_WIDTH = 32  # channels after the first convolution, as released; each further one has twice as many
CONVOLUTIONS = 4
RANK, ALPHA = 8, 32.0  # of LoRA, as released
ADAPTED = ("qkv", "proj")  # layers of an attention block that LoRA adapts
CONDITIONS = ("replaced", "added")  # what the token does: as released, or ours, which begins as the generator itself
BASE, A, B = ".base.", ".A", ".B"  # in the names of an adapted layer's weights


class LandmarkEncoder(nn.Module):
    """Landmark pictures (N, 3, 112, 112) in [-1, 1] -> tokens of the decoder (N, 1, ``width``).

    Its last layer begins at zero, so that an adapter begins with a token that says nothing. The others begin so that
    the dots are bright and that black, which is -1, is zero, but for the border: else it would outweigh the dots.
    """

    def __init__(self, width: int, stem_width: int = STEM_WIDTH):
        super().__init__()
        channels = [3, *(stem_width * 2**level for level in range(CONVOLUTIONS))]
        for number, (before, after) in enumerate(pairwise(channels), 1):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)
            setattr(self, f"conv{number}", convolution)
        with torch.no_grad():
            self.conv1.bias.copy_(self.conv1.weight.sum((1, 2, 3)))
        self.linear = nn.Linear(channels[-1] * (PICTURE_SIDE // 2**CONVOLUTIONS) ** 2, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        x = pictures.to(self.linear.weight.dtype)
        for number in range(1, CONVOLUTIONS + 1):
            x = F.relu(getattr(self, f"conv{number}")(x))  # (N, C, 112 / 2^number, 112 / 2^number)
        return self.linear(x.flatten(1))[:, None]  # (N, C, 7, 7) -> (N, 49 C) -> (N, 1, D)


def check_pictures(pictures: torch.Tensor, count: int) -> None:
    """Raise ValueError unless ``pictures`` are ``count`` landmark pictures, (N, 3, 112, 112)."""
    wanted = (count, 3, PICTURE_SIDE, PICTURE_SIDE)
    if tuple(pictures.shape) != wanted:
        raise ValueError(f"landmark pictures must have shape {wanted}, not {tuple(pictures.shape)}")


class LoRALinear(nn.Module):
    """A linear layer in training: ``base`` frozen, ``A`` (r, in) and ``B`` (out, r) trained; B begins at zero."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.A = nn.Parameter(torch.empty(rank, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scale * F.linear(F.linear(x, self.A), self.B)  # (..., in) -> (..., r) -> (..., out)


def add_adapter(
    generator: nn.Module, rank: int, alpha: float, stem_width: int, condition: str = "replaced"
) -> list[nn.Parameter]:
    """Freeze a generator, and give it a new landmark encoder and LoRA; returns the parameters to train.

    ``condition``: one of CONDITIONS.
    """
    generator.requires_grad_(False)
    generator.decoder.adds_landmarks = condition == "added"
    for block in (*generator.encoder.blocks, *generator.decoder.blocks):
        for name in ADAPTED:
            setattr(block.attn, name, LoRALinear(getattr(block.attn, name), rank, alpha))
            getattr(block.attn, name).base.requires_grad_(False)
    generator.landmark_encoder = LandmarkEncoder(generator.architecture.decoder_width, stem_width)
    return [parameter for parameter in generator.parameters() if parameter.requires_grad]


def adapter_state(generator: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The state dicts of the adapter of a generator in training: its LoRA matrices, and its landmark encoder."""
    lora = {key: value for key, value in generator.state_dict().items() if key.endswith((A, B))}
    return lora, dict(generator.landmark_encoder.state_dict())


class LoRA(NamedTuple):
    """Rank and alpha of the LoRA that was folded into the weights of a generator."""

    rank: int
    alpha: float


def alpha_of(content: Any) -> float:
    """The alpha in the content of a weight file: its own entry, that of the released training's flags, or 32."""
    about = content.get("lora") if isinstance(content, dict) else None
    if isinstance(about, Mapping) and "alpha" in about:
        return float(about["alpha"])
    flags = content.get("args") if isinstance(content, dict) else None
    flags = flags if isinstance(flags, Mapping) else getattr(flags, "__dict__", {})
    return float(flags.get("lora_alpha") or ALPHA)


def adds_landmarks(content: Any) -> bool:
    """Whether the landmark token of a weight file with this content is added to all rows."""
    return isinstance(content, dict) and content.get("condition") == "added"


def fold_lora(
    state: Mapping[str, torch.Tensor], alpha: float, path: Path | str
) -> tuple[dict[str, torch.Tensor], LoRA | None]:
    """(state dict whose adapted layers are plain ones with W' = W + (alpha / r) B A, the LoRA or None if it has none).

    Raises UserError if the matrices do not fit each other or the layer.
    """
    layers = sorted({key.rpartition(".")[0] for key in state if key.endswith((A, B))})
    folded = {key.replace(BASE, "."): value for key, value in state.items() if not key.endswith((A, B))}
    rank = None
    for layer in layers:
        weight, a, b = folded.get(f"{layer}.weight"), state.get(layer + A), state.get(layer + B)
        if weight is None or a is None or b is None:
            raise UserError(
                f"{path}: its LoRA is incomplete at {layer}: each layer needs A, B and the weight it adapts."
            )
        rank = len(a) if rank is None else rank
        if (b.shape[0], a.shape[1]) != tuple(weight.shape) or b.shape[1] != len(a):
            raise UserError(
                f"{path}: its LoRA does not fit this generator: at {layer} A is {tuple(a.shape)} and B "
                f"{tuple(b.shape)}, the weight {tuple(weight.shape)}. Give the generator that it was trained with."
            )
        if len(a) != rank:
            raise UserError(
                f"{path}: its LoRA has rank {rank} in one layer and {len(a)} in {layer}; all must be equal."
            )
        exact = weight.double() + alpha / rank * (b.double() @ a.double())  # (out, in)
        folded[f"{layer}.weight"] = exact.to(weight.dtype)
    return folded, None if rank is None else LoRA(rank, alpha)


def landmark_encoder_of(content: Any, width: int, path: Path | str) -> LandmarkEncoder | None:
    """The landmark encoder in the content of a weight file, for a decoder of ``width``; None if it has none.

    Raises UserError if it does not fit the decoder.
    """
    if not isinstance(content, dict) or "pose_model" not in content:
        return None
    state = state_dict_of(content["pose_model"], path)
    stem = state["conv1.weight"].shape[0] if "conv1.weight" in state else STEM_WIDTH
    with skip_init():
        encoder = LandmarkEncoder(width, stem)
    check_state_dict(encoder, state, path, f"a landmark encoder for a decoder of width {width}")
    encoder.load_state_dict(state)
    return encoder


def adapter_content(path: Path | str, preset: str) -> dict[str, Any]:
    """The content of an adapter file, which scripts/train_pose_control.py writes.

    Raises UserError if it is another file, or was trained on a generator of another preset than ``preset``.
    """
    content = load_file(path)
    if not isinstance(content, dict) or not {"model_vec2face", "pose_model", "model", "lora"} <= content.keys():
        raise UserError(f"{path}: not an adapter for landmark control; scripts/train_pose_control.py trains one.")
    if content["model"] != preset:
        raise UserError(f"{path}: adapts a {content['model']}, not a {preset}: give --model_weights of its preset.")
    return content


def lora_matrices(content: dict[str, Any], path: Path | str) -> dict[str, torch.Tensor]:
    """The matrices A and B in the content of an adapter file, by name."""
    state = state_dict_of(content["model_vec2face"], path)
    return {key: value for key, value in state.items() if key.endswith((A, B))}


class AtLandmarks(nn.Module):
    """A generator whose images all have the same landmarks: vectors (N, 512) and a TokenMask -> Output.

    ``picture`` (3, 112, 112): the landmark picture, in [-1, 1].
    """

    def __init__(self, generator: nn.Module, picture: torch.Tensor):
        super().__init__()
        self.generator = generator
        self.register_buffer("picture", picture, persistent=False)

    def forward(self, vectors: torch.Tensor, mask: Any) -> Any:
        pictures = self.picture.expand(len(vectors), -1, -1, -1)  # (3, 112, 112) -> (N, 3, 112, 112)
        return self.generator(vectors, mask, landmarks=pictures)
