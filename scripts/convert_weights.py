"""Rewrite a generator's weights in the released form (the released code loads it strictly) or in ours.

python scripts/convert_weights.py weights/demo/vec2face_generator.pth released.pth --to released
python scripts/convert_weights.py released.pth own.pth --to own
"""

import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from models.released_weights import released_key, to_released
from models.vec2face import PRESETS, Vec2Face, architecture_of, generator_state, preset_of
from utils.checkpoint import check_fit, load_file, save_file
from utils.cli import command, make_parser
from utils.errors import UserError


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("source", help="generator weights, released or own form")
    parser.add_argument("target", help="file to write")
    parser.add_argument("--to", choices=["released", "own"], required=True, help="form to write")
    parser.add_argument("--ema", action="store_true", help="the averaged weights of a checkpoint trained with --ema")
    args = parser.parse_args(argv)
    content = load_file(args.source)
    if args.ema:
        content = averaged(content, args.source)
    preset, state = checked_state(content, args.source)
    about = {"architecture": asdict(architecture_of(content, preset))}
    about |= {"trained_on": content["trained_on"]} if content.get("trained_on") else {}
    form = released_form(state) if args.to == "released" else own_form(preset, state)
    save_file(form | about, args.target)
    print(f"{args.target}: {preset}, {args.to} form")


def averaged(content, path):
    """The content of a checkpoint with the averaged weights in place of the last ones."""
    if not isinstance(content, dict) or not content.get("model_ema"):
        raise UserError(f"{path}: has no averaged weights; they come from vec2face.py --ema DECAY.")
    return content | {"model_vec2face": content["model_ema"]}


def checked_state(content, path):
    """(preset name, state dict in our names) of a loaded generator file. Raises UserError when it is none."""
    state, released = generator_state(content, path)
    preset = preset_of(state, path)
    with torch.device("meta"):
        expected = Vec2Face(PRESETS[preset])
    check_fit(expected, state, path, f"a {preset} generator", name_of=released_key if released else str)
    return preset, state


def released_form(state):
    return {"model_vec2face": to_released(state)}


def own_form(preset, state):
    return {"model_vec2face": state, "model": preset}


if __name__ == "__main__":
    main()
