"""The Vec2Face generator, which decodes an identity vector into a face image (paper section 3).

    vector --expander--> image feature and 49 rows --fMAE--> predicted map --image decoder--> image

The feature-masked autoencoder (fMAE) is an MAE (He et al., 2022) on the rows of a feature map instead of image patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from einops import rearrange

from models.errors import UserError
from models.image_decoder import MAP_CHANNELS, ImageDecoder
from models.masking import MAP_SIDE, ROWS, TokenMask
from models.pose_control import (
    LoRA,
    adapter_content,
    adds_landmarks,
    alpha_of,
    check_pictures,
    fold_lora,
    landmark_encoder_of,
    lora_matrices,
)
from models.released_weights import from_released, released_key
from models.weight_files import (
    check_state_dict,
    first_few,
    freeze_for_inference,
    load_file,
    skip_init,
    state_dict_of,
)

VECTOR_SIZE = 512
DROPOUT = 0.1


@dataclass(frozen=True)
class Architecture:
    """The sizes of a generator. All but the numbers of heads and ``group_width`` follow from the shapes of the weights.

    ``width``, ``depth`` and ``heads``: of the fMAE's encoder; ``decoder_*``: of its decoder. ``image_width``: channels
    of the last level of the image decoder. ``group_width``: smallest number of channels of a GroupNorm's group in the
    image decoder; 1 in files that do not contain it.
    """

    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    image_width: int
    group_width: int = 1


PRESETS = {
    "vec2face_vit_tiny": Architecture(256, 6, 4, 256, 4, 4, image_width=32, group_width=4),
    "vec2face_vit_base_patch16": Architecture(768, 12, 12, 768, 8, 16, image_width=128),
    "vec2face_vit_large_patch16": Architecture(1024, 24, 16, 1024, 8, 16, image_width=128),
    "vec2face_vit_huge_patch16": Architecture(1280, 32, 16, 1280, 8, 16, image_width=128),
}


layer_norm = partial(nn.LayerNorm, eps=1e-6)


def transformer(width: int, depth: int, heads: int, dropout: float) -> nn.Sequential:
    """``depth`` pre-norm blocks (Dosovitskiy et al., 2021): (N, T, width) -> (N, T, width)."""
    from timm.models.vision_transformer import Block  # slow to import, and most scripts need no generator

    return nn.Sequential(
        *(
            Block(width, heads, qkv_bias=True, proj_drop=dropout, attn_drop=dropout, norm_layer=layer_norm)
            for _ in range(depth)
        )
    )


class Expander(nn.Module):
    """Vectors (N, 512) -> image features (N, D) and the rows of the feature map (N, 49, D) (paper section 3.1).

    Row i is ``w_i * e + c_i``, where e is the image feature and w_i, c_i are scalars shared by all channels.
    """

    def __init__(self, width: int):
        super().__init__()
        self.to_feature = nn.Linear(VECTOR_SIZE, width)
        self.to_rows = nn.Linear(1, ROWS)

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature = self.to_feature(vectors)  # (N, D)
        rows = self.to_rows(feature[..., None])  # (N, D, 49)
        return feature, rows.mT  # (N, D), (N, 49, D)


class Encoder(nn.Module):
    """Encodes the image feature and the kept rows: (N, 1 + 49, D) -> (N, 1 + K, D)."""

    def __init__(self, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        self.positions = nn.Parameter(torch.empty(1 + ROWS, width))
        self.embed_norm = layer_norm(width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = transformer(width, depth, heads, dropout)
        self.norm = layer_norm(width)

    def forward(self, feature: torch.Tensor, rows: torch.Tensor, mask: TokenMask) -> torch.Tensor:
        rows = torch.where(mask.masked[..., None], feature[:, None], rows)  # (N, 49, D)
        tokens = torch.cat([feature[:, None], rows], dim=1) + self.positions  # (N, 50, D)
        tokens = torch.cat([tokens[:, :1], take_rows(tokens, mask.kept + 1)], dim=1)  # (N, 1 + K, D)
        tokens = self.dropout(self.embed_norm(tokens))
        return self.norm(run_blocks(self.blocks, tokens))  # (N, 1 + K, D)


class Decoder(nn.Module):
    """Predicts the whole map from the encoded image feature and kept rows: (N, 1 + K, D) -> (N, 50, D').

    The token of each masked row is the encoded image feature (row 0). With landmarks it is their token, (N, 1, D'), and
    the layer ``embed`` is left out, as in the released code, so that D = D'; with ``adds_landmarks`` their token is
    added to all rows instead, and nothing else changes.
    """

    adds_landmarks = False

    def __init__(self, encoder_width: int, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.positions = nn.Parameter(torch.empty(1, 1 + ROWS, width))
        self.blocks = transformer(width, depth, heads, dropout)
        self.norm = layer_norm(width)

    def forward(
        self, encoded: torch.Tensor, mask: TokenMask, landmark_token: torch.Tensor | None = None
    ) -> torch.Tensor:
        tokens = self.restore_masked_tokens(encoded, mask, landmark_token)  # (N, 50, D')
        return self.norm(run_blocks(self.blocks, tokens))  # (N, 50, D')

    def restore_masked_tokens(
        self, encoded: torch.Tensor, mask: TokenMask, landmark_token: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The input (N, 50, D') of the first block: the tokens of all rows in their order, with positions."""
        if landmark_token is None or self.adds_landmarks:
            encoded = self.embed(encoded)  # (N, 1 + K, D')
            if landmark_token is not None:
                encoded = encoded + landmark_token
            filling = encoded[:, :1]  # (N, 1, D')
        else:
            filling = landmark_token.to(encoded.dtype)  # (N, 1, D')
        slot = torch.zeros_like(mask.masked, dtype=torch.long)  # (N, 49): index of each row in `encoded`
        slot.scatter_(1, mask.kept, torch.arange(1, 1 + mask.kept.shape[1], device=slot.device).expand_as(mask.kept))
        rows = torch.where(mask.masked[..., None], filling, take_rows(encoded, slot))  # (N, 49, D')
        return torch.cat([encoded[:, :1], rows], dim=1) + self.positions  # (N, 50, D')


def blocks_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the transformer blocks in a network of ``dtype``: float32 for float16, which overflows in them."""
    return torch.float32 if dtype == torch.float16 else dtype


def run_blocks(blocks: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Apply transformer blocks, (N, T, D) -> (N, T, D); in float32 under float16 autocast, as in the released code."""
    kind = tokens.device.type
    autocast = kind != "meta" and torch.is_autocast_enabled(kind)  # is_autocast_available() breaks torch 2.6's graph
    if autocast and torch.get_autocast_dtype(kind) == torch.float16:
        with torch.autocast(kind, enabled=False):
            return blocks(tokens.float())
    return blocks(tokens)


def take_rows(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The tokens at ``index``: tokens (N, T, D), index (N, K) -> (N, K, D)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))  # (N, K, D)


class Output(NamedTuple):
    """``images`` (N, 3, 112, 112), roughly in [-1, 1] and not clipped, and two maps whose row 0 is the image feature.

    ``target_map`` (N, 50, D): the expander's map, detached. ``predicted_map`` (N, 50, D'): that of the fMAE.
    """

    images: torch.Tensor
    target_map: torch.Tensor
    predicted_map: torch.Tensor


class Vec2Face(nn.Module):
    """The generator: vectors (N, 512), a TokenMask of N samples and perhaps landmark pictures -> Output.

    ``landmark_encoder``: None, or the part that landmark pictures need (models/pose_control.py). ``lora``: rank and
    alpha of what was folded into the weights, if anything. ``adapts``: SHA-256 of the generator's file that the adapter
    was trained on, if known.
    """

    def __init__(self, architecture: Architecture, dropout: float = DROPOUT):
        super().__init__()
        a = self.architecture = architecture
        self.trained_on: dict[str, Any] | None = None  # generator_file.training_vectors, if the file contains it
        self.expander = Expander(a.width)
        self.encoder = Encoder(a.width, a.depth, a.heads, dropout)
        self.decoder = Decoder(a.width, a.decoder_width, a.decoder_depth, a.decoder_heads, dropout)
        self.to_map = nn.Linear(a.decoder_width, MAP_CHANNELS)
        self.image_decoder = ImageDecoder(a.image_width, a.group_width)
        self.landmark_encoder: nn.Module | None = None
        self.lora: LoRA | None = None
        self.adapts: str | None = None
        self.apply(initialise)
        nn.init.normal_(self.encoder.positions, std=0.02)
        nn.init.normal_(self.decoder.positions, std=0.02)

    def forward(self, vectors: torch.Tensor, mask: TokenMask, landmarks: torch.Tensor | None = None) -> Output:
        """``landmarks`` (N, 3, 112, 112): landmark pictures in [-1, 1] that the faces shall have, or None.

        Raises ValueError for pictures of another shape, or if the generator has no landmark encoder.
        """
        token = None if landmarks is None else self.landmark_token(landmarks, len(vectors))  # (N, 1, D')
        feature, rows = self.expander(vectors.to(self.to_map.weight.dtype))  # (N, D), (N, 49, D)
        target_map = torch.cat([feature[:, None], rows], dim=1).detach()  # (N, 50, D)
        predicted_map = self.decoder(self.encoder(feature, rows, mask), mask, token)  # (N, 50, D')
        feature_map = self.to_map(predicted_map[:, 1:].to(self.to_map.weight.dtype))  # (N, 49, 256)
        feature_map = rearrange(feature_map, "n (h w) c -> n c h w", h=MAP_SIDE)  # (N, 49, 256) -> (N, 256, 7, 7)
        return Output(self.image_decoder(feature_map).float(), target_map, predicted_map)

    def landmark_token(self, landmarks: torch.Tensor, count: int) -> torch.Tensor:
        """The token (N, 1, D') of ``count`` landmark pictures. Raises ValueError as ``forward``."""
        if self.landmark_encoder is None:
            raise ValueError("this generator has no landmark encoder, so landmarks do not control it")
        check_pictures(landmarks, count)
        return self.landmark_encoder(landmarks)

    def for_inference(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Vec2Face:
        """Freeze, fuse and move the generator; gradients still reach the vectors. Returns the generator.

        With ``dtype`` float16 the weights and arithmetic of the fMAE stay in float32: see ``blocks_dtype``.
        """
        self.image_decoder.fuse()
        for block in [*self.encoder.blocks, *self.decoder.blocks]:
            # The backward pass of the fused CPU kernel is slow in 16 bit.
            block.attn.fused_attn = torch.device(device).type != "cpu" or blocks_dtype(dtype) == torch.float32
        freeze_for_inference(self, device, blocks_dtype(dtype))
        for part in filter(None, (self.expander, self.to_map, self.image_decoder, self.landmark_encoder)):
            part.to(dtype)
        return self


def initialise(module: nn.Module) -> None:
    """Initialise a linear layer (Xavier-uniform, zero bias) or a layer norm (identity) as in the released code."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def load_vec2face(
    path: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    model: str | None = None,
    adapter: Path | str | None = None,
) -> Vec2Face:
    """The frozen generator in a weight file of this project or of the released code; gradients reach the vectors.

    The shapes in the file determine the preset, which gives the numbers of heads. ``model``: name of the expected
    preset. LoRA in the file is folded into the weights, and a landmark encoder is loaded beside them; both may also be
    in a second file, ``adapter``. Raises UserError if the file does not contain a generator, matches no preset, not
    that of ``model``, or not that of the adapter.
    """
    content = load_file(path)
    state, released = generator_state(content, path)
    state, lora = fold_lora(state, alpha_of(content), path)
    name = preset_of(state, path)
    if model is not None and model != name:
        raise UserError(f"{path} holds a {name}, not a {model}: give --model {name} or leave --model out.")
    with skip_init():
        generator = Vec2Face(architecture_of(content, name, path))
    name_of = released_key if released else str
    check_state_dict(generator, state, path, f"a {name} generator", name_of=name_of)
    control, control_path = content, path
    if adapter is not None:
        control, control_path = adapter_content(adapter, name), adapter
        state, lora = fold_lora(state | lora_matrices(control, adapter), alpha_of(control), adapter)
    generator.load_state_dict(state)
    generator.trained_on, generator.lora = content.get("trained_on"), lora
    generator.decoder.adds_landmarks = adds_landmarks(control)
    decoder_width = generator.architecture.decoder_width
    generator.landmark_encoder = landmark_encoder_of(control, decoder_width, control_path)
    generator.adapts = control.get("generator_sha256")
    return generator.for_inference(device, dtype)


def architecture_of(content: Any, preset: str, path: Path | str) -> Architecture:
    """The sizes of a preset, with the group width in the content of a weight file, or 1 (released) if it has none.

    Raises UserError if the preset does not exist with this group width.
    """
    stored = content.get("architecture") if isinstance(content, dict) else None
    width = stored.get("group_width", 1) if isinstance(stored, dict) else 1
    if width not in (1, PRESETS[preset].group_width):
        raise UserError(f"{path}: this generator has groups of {width!r} channels, which {preset} does not support.")
    return replace(PRESETS[preset], group_width=width)


def generator_state(content: Any, path: Path | str) -> tuple[dict[str, torch.Tensor], bool]:
    """The state dict of the generator in this project's names, and whether the file has the released names.

    Raises UserError if the content of the file does not contain a generator.
    """
    if isinstance(content, dict) and "model_vec2face" in content:
        content = content["model_vec2face"]
    state = state_dict_of(content, path)
    if "expander.to_feature.weight" in state:
        return state, False
    if "latent_prior_proj_f.weight" in state:
        return from_released(state), True
    raise UserError(
        f"{path}: not a Vec2Face generator: missing latent_prior_proj_f.weight (released name) or "
        f"expander.to_feature.weight (this project's name); its first keys are {first_few(list(state))}."
    )


def preset_of(state: Mapping[str, torch.Tensor], path: Path | str) -> str:
    """The name of the preset with the sizes of a state dict in this project's names.

    Raises UserError if weights are missing or no preset has these sizes.
    """

    def depth(blocks: str) -> int:
        return len({key.split(".")[2] for key in state if key.startswith(blocks)})

    try:
        sizes = (
            state["expander.to_feature.weight"].shape[0],
            depth("encoder.blocks."),
            state["decoder.embed.weight"].shape[0],
            depth("decoder.blocks."),
            state["image_decoder.norm_out.weight"].shape[0],
        )
    except KeyError as error:
        key = error.args[0]
        raise UserError(f"{path}: an incomplete generator: missing {released_key(key)} (here: {key}).") from error
    for name, a in PRESETS.items():
        if sizes == (a.width, a.depth, a.decoder_width, a.decoder_depth, a.image_width):
            return name
    raise UserError(
        f"{path}: no preset has its sizes (width {sizes[0]}, depth {sizes[1]}, decoder width {sizes[2]}, decoder depth "
        f"{sizes[3]}, image width {sizes[4]}), and the number of attention heads cannot be inferred. "
        f"Presets: {', '.join(PRESETS)}."
    )
