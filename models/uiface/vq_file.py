"""Reading and writing the weight files of UIFace's autoencoder, whose names diffusers has changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from models.errors import UserError
from models.uiface.autoencoder import Autoencoder, sizes_of
from models.weight_files import first_few, load_file, load_weights_strict, save_file, skip_init, state_dict_of

# (diffusers' name, released name) of parts of a key. The levels of the released decoder are in reverse order.
RENAMED = [
    (".mid_block.resnets.0.", ".mid.block_1."),
    (".mid_block.resnets.1.", ".mid.block_2."),
    (".mid_block.attentions.0.group_norm.", ".mid.attn_1.norm."),
    (".mid_block.attentions.0.to_q.", ".mid.attn_1.q."),
    (".mid_block.attentions.0.to_k.", ".mid.attn_1.k."),
    (".mid_block.attentions.0.to_v.", ".mid.attn_1.v."),
    (".mid_block.attentions.0.to_out.0.", ".mid.attn_1.proj_out."),
    (".resnets.", ".block."),
    (".downsamplers.0.", ".downsample."),
    (".upsamplers.0.", ".upsample."),
    (".conv_shortcut.", ".nin_shortcut."),
    (".conv_norm_out.", ".norm_out."),
    ("encoder.down_blocks.", "encoder.down."),
    ("decoder.up_blocks.", "decoder.up."),
]
DECODER = ("decoder.", "quantize.", "post_quant_conv.")  # the keys of the released decoder file
UNUSED = ("loss.", "model_ema.")  # keys of Latent Diffusion's own checkpoints without effect here
LINKED = "UIFace's README links to the released pair; in Latent Diffusion's own files both are in one."


def load_uiface_vq(
    path: Path | str,
    decoder_path: Path | str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Autoencoder:
    """The frozen autoencoder in weight files: images (N, 3, H, W) in [-1, 1] <-> latents (N, 3, H / 4, W / 4).

    ``path``: a file with both halves, or that of the released encoder; then ``decoder_path`` is that of the decoder.
    The sizes follow from the shapes. Raises UserError if a file is missing or damaged, or half of the autoencoder is,
    and if diffusers is not installed.
    """
    released: dict[str, torch.Tensor] = {}
    for file in (path, *([decoder_path] if decoder_path else [])):
        if not Path(file).is_file():
            raise UserError(f"{file}: no such file of the autoencoder. {LINKED}")
        released |= state_dict_of(load_file(file), file)
    name = f"{path} and {decoder_path}" if decoder_path else path
    state = from_released({key: value for key, value in released.items() if not key.startswith(UNUSED)})
    try:
        sizes = sizes_of(state)
    except ValueError as error:
        raise UserError(f"{name}: not an autoencoder of UIFace: it has {error}.") from error
    except KeyError as error:
        missing = released_key(error.args[0], levels_of(released))
        hint = "it is the encoder without the decoder" if "encoder.conv_in.weight" in state else None
        hint = "it is the decoder without the encoder" if "decoder.conv_in.weight" in state else hint
        hint = hint or f"its first keys are {first_few(list(released))}"
        raise UserError(f"{name}: not a whole autoencoder: missing {missing}; {hint}. {LINKED}") from error
    with skip_init():
        autoencoder = Autoencoder(sizes)
    levels = len(sizes.widths)
    load_weights_strict(
        autoencoder.model, state, name, "a VQ autoencoder", name_of=lambda key: released_key(key, levels)
    )
    return autoencoder.for_inference(device, dtype)


def save_uiface_vq(autoencoder: Autoencoder, path: Path | str, decoder_path: Path | str | None = None) -> None:
    """Write the weights in the released names: both halves into one file, or a released pair of encoder and decoder.

    Raises UserError if a file cannot be written.
    """
    state = {key: value.detach().float().cpu() for key, value in autoencoder.model.state_dict().items()}
    released = to_released(state)
    if decoder_path is not None:
        save_file({key: value for key, value in released.items() if key.startswith(DECODER)}, decoder_path)
        released = {key: value for key, value in released.items() if not key.startswith(DECODER)}
    save_file(released, path)


def from_released(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict in diffusers' names, from one in the released names. Other keys are kept.

    The released attention has 1x1 convolutions, (C, C, 1, 1), in the place of linear layers, (C, C).
    """
    levels, renamed = levels_of(state), {}
    for key, value in state.items():
        linear = ".mid.attn_1." in key and value.ndim == 4
        renamed[_rename(key, 1, 0, levels)] = value.flatten(1) if linear else value  # (C, C, 1, 1) -> (C, C)
    return renamed


def to_released(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict that the released code loads, from one in diffusers' names."""
    levels, renamed = levels_of(state), {}
    for key, value in state.items():
        linear = ".attentions." in key and value.ndim == 2
        renamed[released_key(key, levels)] = value[..., None, None] if linear else value  # (C, C) -> (C, C, 1, 1)
    return renamed


def levels_of(state: Mapping[str, torch.Tensor]) -> int:
    """The number of levels of the decoder in a state dict with either names."""
    numbers = [re.match(r"decoder\.up(?:_blocks)?\.(\d+)\.", key) for key in state]
    return 1 + max((int(number[1]) for number in numbers if number), default=0)


def released_key(key: str, levels: int) -> str:
    """The released name of a key of diffusers' VQModel."""
    return _rename(key, 0, 1, levels)


def _rename(key: str, source: int, target: int, levels: int) -> str:
    """A key translated between two columns of the table, 0 for diffusers and 1 for the released code."""
    own = key
    for names in RENAMED:
        key = key.replace(names[source], names[target])
    if key == own or not key.startswith(("decoder.up.", "decoder.up_blocks.")):
        return key
    part, level, rest = re.match(r"(decoder\.up(?:_blocks)?)\.(\d+)\.(.*)", key).groups()
    return f"{part}.{levels - 1 - int(level)}.{rest}"
