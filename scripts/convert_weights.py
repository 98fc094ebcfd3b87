"""Rewrite a generator's weights in the released form (the released code loads it strictly) or in ours.

python scripts/convert_weights.py weights/demo/vec2face_generator.pth released.pth --to released
python scripts/convert_weights.py released.pth own.pth --to own
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.released_weights import to_released
from models.vec2face import architecture_of
from utils.checkpoint import load_file, save_file
from utils.cli import command, make_parser
from utils.generator_file import averaged, checked_state, own_form


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
    form = own_form(state, preset, architecture_of(content, preset, args.source), content.get("trained_on"))
    if args.to == "released":
        form["model_vec2face"] = to_released(state)
    save_file(form, args.target)
    print(f"{args.target}: {preset}, {args.to} form")


if __name__ == "__main__":
    main()
