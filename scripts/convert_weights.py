"""Rewrite weights in the form of the released code, which loads them strictly, or in ours.

    python scripts/convert_weights.py weights/demo/vec2face_generator.pth released.pth --to released
    python scripts/convert_weights.py released.pth own.pth --to own
    python scripts/convert_weights.py fr/model.pth encoder.pth --to released

Of a generator, the released form is {"model_vec2face": its weights by their released names}. Of a face encoder it is
that of the FR-training repository: the IResNet's weights by name and nothing else. Face encoders are read in any form
that --id_weights takes, AdaFace's official one too.
"""

from utils.cli.command import command

from models.errors import UserError
from models.generator_file import averaged, checked_state, native_checkpoint
from models.iresnet import DEPTHS, trainable_encoder
from models.official_encoders import is_face_encoder
from models.released_weights import to_released
from models.vec2face import architecture_of
from models.weight_files import load_file, save_file, state_dict_of
from utils.cli.flags import make_parser
from utils.cli.outputs import refuse_existing, writing

RELEASED_WIDTHS = (64, 128, 256, 512)  # the FR-training repository knows no others
RELEASED_DEPTHS = {DEPTHS[depth]: depth for depth in (18, 34, 50, 100, 152)}  # its "200" is 100 blocks once more


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("source", help="weights of a generator or of a face encoder, in any form")
    parser.add_argument("target", help="weight file to write")
    parser.add_argument("--to", choices=["released", "own"], required=True, help="form to write")
    parser.add_argument("--ema", action="store_true", help="the averaged weights of a checkpoint trained with --ema")
    parser.add_argument("--overwrite", action="store_true", help="replace a TARGET that exists")
    args = parser.parse_args(argv)
    refuse_existing(args.target, overwrite=args.overwrite)
    content = load_file(args.source)
    if args.ema:
        content = averaged(content, args.source)
    convert = convert_encoder if holds_encoder(content, args.source) else convert_generator
    form, what = convert(content, args.source, args.to)
    with writing(args.target) as target:
        save_file(form, target)
    print(f"{args.target}: {what}, {args.to} form")


def holds_encoder(content, path):
    generator = isinstance(content, dict) and "model_vec2face" in content
    return not generator and is_face_encoder(state_dict_of(content, path))


def convert_generator(content, path, form):
    """(content of the file to write, what it is)."""
    preset, state = checked_state(content, path)
    converted = native_checkpoint(state, preset, architecture_of(content, preset, path), content.get("trained_on"))
    if form == "released":
        converted["model_vec2face"] = to_released(state)
    return converted, preset


def convert_encoder(content, path, form):
    """(content of the file to write, what it is). Raises UserError when the form has no place for this encoder."""
    encoder = trainable_encoder(content, path)
    if encoder.unit_range:
        raise UserError(
            f"{path}: official MagFace weights, for pixels of 0 to 1; neither form has those. Use the file as it is."
        )
    stages = [getattr(encoder, f"layer{number}") for number in range(1, 5)]
    blocks, widths = tuple(map(len, stages)), tuple(stage[0].conv1.out_channels for stage in stages)
    state, se = encoder.state_dict(), stages[0][0].attn is not None
    what = f"IResNet of {'-'.join(map(str, blocks))} blocks{' with squeeze-excitation' if se else ''}"
    if form == "own":
        return {"state_dict": state, "feature_norms": encoder.feature_norms}, what
    if widths != RELEASED_WIDTHS or blocks not in RELEASED_DEPTHS:
        raise UserError(
            f"{path}: an {what}, widths {'-'.join(map(str, widths))}; the FR-training repository has depths "
            f"{', '.join(map(str, RELEASED_DEPTHS.values()))} and widths {'-'.join(map(str, RELEASED_WIDTHS))} only."
        )
    flags = f"--depth {RELEASED_DEPTHS[blocks]} --mode {'se' if se else 'normal'}"
    return state, f"{what} (test.py {flags} of the FR-training repository)"


if __name__ == "__main__":
    main()
