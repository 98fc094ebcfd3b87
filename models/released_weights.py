"""The table between the weight names of the released code and of this project, in both directions."""

from collections.abc import Mapping

import torch

from models.image_decoder import WIDTH_MULTIPLIERS

# (name in this project, released name): whole keys, or prefixes that end in a dot.
RENAMED = [
    ("expander.to_feature.", "latent_prior_proj_f."),
    ("expander.to_rows.", "feature_token."),
    ("encoder.positions", "token_emb.position_embeddings.weight"),
    ("encoder.embed_norm.", "token_emb.LayerNorm."),
    ("encoder.blocks.", "blocks."),
    ("encoder.norm.", "norm."),
    ("decoder.embed.", "decoder_embed."),
    ("decoder.positions", "decoder_pos_embed_learned"),
    ("decoder.blocks.", "decoder_blocks."),
    ("decoder.norm.", "decoder_norm."),
    ("to_map.", "im_decoder_proj."),
    ("image_decoder.conv_in.", "im_decoder.conv_in."),
    ("image_decoder.middle.0.", "im_decoder.mid.block_1."),
    ("image_decoder.middle.1.", "im_decoder.mid.block_2."),
    ("image_decoder.norm_out.", "im_decoder.norm_out."),
    ("image_decoder.conv_out.", "im_decoder.conv_out."),
]
for _level in range(len(WIDTH_MULTIPLIERS)):
    _native = f"image_decoder.levels.{_level}."
    _released = f"im_decoder.up.{len(WIDTH_MULTIPLIERS) - 1 - _level}."  # the released levels are in reverse order
    RENAMED.append((_native + "blocks.", _released + "block."))
    RENAMED.append((_native + "upsample.", _released + "upsample.conv."))
SHORTCUT = (".shortcut.", ".nin_shortcut.")  # inside a residual block

# Keys in all released files that have no effect on the forward pass.
UNUSED = ("patch_embed.", "center_token.", "token_emb.position_ids")


def from_released(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of the generator in this project's names, from one in the released names. Other keys are kept."""
    return {_rename(key, 1, 0): value for key, value in state.items() if not key.startswith(UNUSED)}


def to_released(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of the generator that the released code loads strictly, from one in this project's names.

    Weights without effect are zero, except the position indices, which must be right.
    """
    released = {released_key(key): value for key, value in state.items()}
    positions, width = state["encoder.positions"].shape
    rows = positions - 1
    released["token_emb.position_ids"] = torch.arange(positions)[None]  # (1, 50)
    released["patch_embed.proj.weight"] = torch.zeros(width, 3, 16, 16)
    released["patch_embed.proj.bias"] = torch.zeros(width)
    released["center_token.weight"] = torch.zeros(rows, width)
    released["center_token.bias"] = torch.zeros(rows)
    return released


def released_key(key: str) -> str:
    """The released name of a key of this project."""
    return _rename(key, 0, 1)


def _rename(key: str, source: int, target: int) -> str:
    """A key translated between two columns of the table, 0 for this project and 1 for the released code."""
    for names in RENAMED:
        if key == names[source] or (names[source].endswith(".") and key.startswith(names[source])):
            key = names[target] + key[len(names[source]) :]
            return key.replace(SHORTCUT[source], SHORTCUT[target])
    return key
