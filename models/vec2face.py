"""The generator: an identity vector becomes a face (paper section 3).

    vector --expander--> image feature + 49 rows --fMAE--> predicted map --image decoder--> image

The feature-masked autoencoder (fMAE) follows MAE (He et al., 2022), with the rows of the feature
map in the place of image patches.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn as nn
from einops import rearrange

from models.errors import UserError
from models.image_decoder import MAP_CHANNELS, ImageDecoder
from models.masking import MAP_SIDE, ROWS
from models.released_weights import from_released, released_key
from models.weight_files import (
    first_few,
    freeze_for_inference,
    load_file,
    load_weights_strict,
    skip_init,
    state_dict_of,
)

VECTOR_SIZE = 512
DROPOUT = 0.1


@dataclass(frozen=True)
class Architecture:
    """Sizes of one generator. Everything but the head counts and ``group_width`` can be read off the weights."""

    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    image_width: int
    group_width: int = 1  # of the image decoder; own weight files say it, for others it is 1


PRESETS = {
    "vec2face_vit_tiny": Architecture(256, 6, 4, 256, 4, 4, image_width=32, group_width=4),
    "vec2face_vit_base_patch16": Architecture(768, 12, 12, 768, 8, 16, image_width=128),
    "vec2face_vit_large_patch16": Architecture(1024, 24, 16, 1024, 8, 16, image_width=128),
    "vec2face_vit_huge_patch16": Architecture(1280, 32, 16, 1280, 8, 16, image_width=128),
}


layer_norm = partial(nn.LayerNorm, eps=1e-6)


def transformer(width, depth, heads, dropout):
    """Pre-norm blocks (Dosovitskiy et al., 2021): (N, T, width) -> (N, T, width)."""
    from timm.models.vision_transformer import Block  # takes as long as torch to import; most scripts need no generator

    return nn.Sequential(
        *(
            Block(width, heads, qkv_bias=True, proj_drop=dropout, attn_drop=dropout, norm_layer=layer_norm)
            for _ in range(depth)
        )
    )


class Expander(nn.Module):
    """(N, 512) vector -> image feature (N, D) and feature map (N, 49, D) (paper section 3.1).

    Row i is ``w_i * e + c_i``: one scalar pair a row, shared by all channels.
    """

    def __init__(self, width):
        super().__init__()
        self.to_feature = nn.Linear(VECTOR_SIZE, width)
        self.to_rows = nn.Linear(1, ROWS)

    def forward(self, vectors):
        feature = self.to_feature(vectors)  # (N, D)
        rows = self.to_rows(feature[..., None])  # (N, D, 49)
        return feature, rows.mT  # (N, D), (N, 49, D)


class Encoder(nn.Module):
    """Encodes the image feature and the kept rows: (N, 1 + 49, D) -> (N, 1 + K, D)."""

    def __init__(self, width, depth, heads, dropout):
        super().__init__()
        self.positions = nn.Parameter(torch.empty(1 + ROWS, width))
        self.embed_norm = layer_norm(width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = transformer(width, depth, heads, dropout)
        self.norm = layer_norm(width)

    def forward(self, feature, rows, mask):
        rows = torch.where(mask.masked[..., None], feature[:, None], rows)  # (N, 49, D)
        tokens = torch.cat([feature[:, None], rows], dim=1) + self.positions  # (N, 50, D)
        tokens = torch.cat([tokens[:, :1], take_rows(tokens, mask.kept + 1)], dim=1)  # (N, 1 + K, D)
        tokens = self.dropout(self.embed_norm(tokens))
        return self.norm(run_blocks(self.blocks, tokens))  # (N, 1 + K, D)


class Decoder(nn.Module):
    """Predicts the whole map from the encoded rows: (N, 1 + K, D) -> (N, 50, D').

    Every masked row starts from the encoded image feature (row 0).
    """

    def __init__(self, encoder_width, width, depth, heads, dropout):
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.positions = nn.Parameter(torch.empty(1, 1 + ROWS, width))
        self.blocks = transformer(width, depth, heads, dropout)
        self.norm = layer_norm(width)

    def forward(self, encoded, mask):
        return self.norm(run_blocks(self.blocks, self.restore_masked_tokens(encoded, mask)))  # (N, 50, D')

    def restore_masked_tokens(self, encoded, mask):
        """The tokens of all rows, (N, 50, D'), that the first block takes."""
        encoded = self.embed(encoded)  # (N, 1 + K, D')
        slot = torch.zeros_like(mask.masked, dtype=torch.long)  # (N, 49): where each row stands in `encoded`
        slot.scatter_(1, mask.kept, torch.arange(1, 1 + mask.kept.shape[1], device=slot.device).expand_as(mask.kept))
        rows = torch.where(mask.masked[..., None], encoded[:, :1], take_rows(encoded, slot))  # (N, 49, D')
        return torch.cat([encoded[:, :1], rows], dim=1) + self.positions  # (N, 50, D')


def blocks_dtype(dtype):
    """The dtype of the transformer blocks beside layers in ``dtype``: float32 for float16, which overflows in them."""
    return torch.float32 if dtype == torch.float16 else dtype


def run_blocks(blocks, tokens):
    """The transformer blocks, (N, T, D) -> (N, T, D); in float32 where float16 autocast is on, as released."""
    kind = tokens.device.type
    autocast = kind != "meta" and torch.is_autocast_enabled(kind)  # asking what is available breaks the graph of 2.6
    if autocast and torch.get_autocast_dtype(kind) == torch.float16:
        with torch.autocast(kind, enabled=False):
            return blocks(tokens.float())
    return blocks(tokens)


def take_rows(tokens, index):
    """tokens (N, T, D), index (N, K) -> (N, K, D)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class Output(NamedTuple):
    """``images`` (N, 3, 112, 112), about [-1, 1], not clipped; the maps are (N, 50, D), row 0 the image feature."""

    images: torch.Tensor
    target_map: torch.Tensor
    predicted_map: torch.Tensor


class Vec2Face(nn.Module):
    """The generator. ``forward(vectors (N, 512), mask)`` -> Output; ``mask`` is a TokenMask of N samples."""

    def __init__(self, architecture, dropout=DROPOUT):
        super().__init__()
        a = self.architecture = architecture
        self.trained_on = None  # {encoder_sha256, feature_norm, feature_norm_std}, where the weight file says so
        self.expander = Expander(a.width)
        self.encoder = Encoder(a.width, a.depth, a.heads, dropout)
        self.decoder = Decoder(a.width, a.decoder_width, a.decoder_depth, a.decoder_heads, dropout)
        self.to_map = nn.Linear(a.decoder_width, MAP_CHANNELS)
        self.image_decoder = ImageDecoder(a.image_width, a.group_width)
        self.apply(initialise)
        nn.init.normal_(self.encoder.positions, std=0.02)
        nn.init.normal_(self.decoder.positions, std=0.02)

    def forward(self, vectors, mask):
        feature, rows = self.expander(vectors.to(self.to_map.weight.dtype))  # (N, D), (N, 49, D)
        target_map = torch.cat([feature[:, None], rows], dim=1).detach()  # (N, 50, D)
        predicted_map = self.decoder(self.encoder(feature, rows, mask), mask)  # (N, 50, D')
        feature_map = self.to_map(predicted_map[:, 1:].to(self.to_map.weight.dtype))  # (N, 49, 256)
        feature_map = rearrange(feature_map, "n (h w) c -> n c h w", h=MAP_SIDE)  # (N, 256, 7, 7)
        return Output(self.image_decoder(feature_map).float(), target_map, predicted_map)

    def for_inference(self, device="cpu", dtype=torch.float32):
        """Frozen, in eval mode, and as fast as it gets; gradients reach the vectors.

        With ``dtype`` float16 the masked autoencoder stays in float32, weights and arithmetic: see blocks_dtype.
        """
        self.image_decoder.fuse()
        for block in [*self.encoder.blocks, *self.decoder.blocks]:
            # On a CPU, the fused kernel's backward pass is slow in 16 bit.
            block.attn.fused_attn = torch.device(device).type != "cpu" or blocks_dtype(dtype) == torch.float32
        freeze_for_inference(self, device, blocks_dtype(dtype))
        for part in (self.expander, self.to_map, self.image_decoder):
            part.to(dtype)
        return self


def initialise(module):
    """Xavier-uniform linear layers with zero bias, unit norms; convolutions keep PyTorch's default."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def load_vec2face(path, device="cpu", dtype=torch.float32, model=None):
    """The generator in a released or own weight file: frozen, in eval mode, gradients reach the vectors.

    The sizes are read off the file, the head counts come from the preset with these sizes. ``model``:
    the preset's name the caller expects. Raises UserError when the file is not a generator's, fits no
    preset, or is another one than ``model``.
    """
    content = load_file(path)
    state, released = generator_state(content, path)
    name = preset_of(state, path)
    if model is not None and model != name:
        raise UserError(f"{path} holds a {name}, not a {model}: give --model {name} or leave --model out.")
    with skip_init():
        generator = Vec2Face(architecture_of(content, name, path))
    load_weights_strict(generator, state, path, f"a {name} generator", name_of=released_key if released else str)
    generator.trained_on = content.get("trained_on")
    return generator.for_inference(device, dtype)


def architecture_of(content, preset, path):
    """The sizes of a preset, with the group width that a loaded weight file says; 1, as released, if it says none.

    Raises UserError when the preset has no such groups.
    """
    said = content.get("architecture") if isinstance(content, dict) else None
    width = said.get("group_width", 1) if isinstance(said, dict) else 1
    if width not in (1, PRESETS[preset].group_width):
        raise UserError(f"{path}: a generator with groups of {width!r} channels: no {preset} has them.")
    return replace(PRESETS[preset], group_width=width)


def generator_state(content, path):
    """The generator's state dict in our names, and whether the file used the released ones."""
    if isinstance(content, dict) and "model_vec2face" in content:
        content = content["model_vec2face"]
    state = state_dict_of(content, path)
    if "expander.to_feature.weight" in state:
        return state, False
    if "latent_prior_proj_f.weight" in state:
        return from_released(state), True
    raise UserError(
        f"{path}: not a Vec2Face generator: missing latent_prior_proj_f.weight (released name) or "
        f"expander.to_feature.weight (ours); its first keys are {first_few(list(state))}."
    )


def preset_of(state, path):
    """The name of the preset whose sizes a state dict (our names) has. Raises UserError when there is none."""

    def depth(blocks):
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
        raise UserError(f"{path}: an incomplete generator: missing {released_key(key)} (ours: {key}).") from error
    for name, a in PRESETS.items():
        if sizes == (a.width, a.depth, a.decoder_width, a.decoder_depth, a.image_width):
            return name
    raise UserError(
        f"{path}: no preset has its sizes (width {sizes[0]}, depth {sizes[1]}, decoder width {sizes[2]}, decoder depth "
        f"{sizes[3]}, image width {sizes[4]}), and the number of attention heads cannot be read off a file. "
        f"Presets: {', '.join(PRESETS)}."
    )
