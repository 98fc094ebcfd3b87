"""Rewrite a weight file: smaller, for inference only; in the form of the released code; or in this project's form.

    python scripts/convert_weights.py workspace/checkpoint-last.pth weights/mine/vec2face_generator.pth --ema
    python scripts/convert_weights.py gan.pth weights/mine/vec2face_generator.pth --interpolate before_gan.pth
    python scripts/convert_weights.py quality.pth weights/mine/quality.pth --data rendered/people
    python scripts/convert_weights.py weights/demo/vec2face_generator.pth released.pth --to released
    python scripts/convert_weights.py fr/model.pth encoder.pth --to released

--to half keeps what inference needs, in 16 bit: for generators, face encoders and pose estimators that were trained
with this project. Every script reads the result, and computes in 32 bit unless told otherwise.

--to released writes what the released code loads strictly: a generator as {"model_vec2face": weights by their released
names}, a face encoder as the FR-training repository stores it, an IResNet's weights by name and nothing else. --to own
is the opposite. Face encoders are read in any form that --id_weights takes, AdaFace's official one included.

--interpolate moves the weights part of the way back to an earlier state, which removes artefacts of the GAN before it
removes its sharpness (network interpolation; ESRGAN, Wang et al., 2018, section 3.4). --data stores percentiles of the
feature norms of good photos, from which generation takes its default target quality; train_fr.py does so by itself.
"""

from pathlib import Path

from utils.cli.command import command

import numpy as np
import torch

from models.errors import UserError
from models.generator_file import averaged, checked_state, interpolated, native_checkpoint
from models.iresnet import DEPTHS, load_face_encoder, trainable_encoder
from models.official_encoders import is_face_encoder
from models.released_weights import to_released
from models.vec2face import architecture_of
from models.weight_files import load_file, save_file, state_dict_of
from utils.cli.flags import fraction, make_parser
from utils.cli.outputs import output_file, refuse_existing
from utils.data.face_set import FaceSet
from utils.evaluation.verification import norm_percentiles

RELEASED_WIDTHS = (64, 128, 256, 512)  # the FR-training repository knows no others
RELEASED_DEPTHS = {DEPTHS[depth]: depth for depth in (18, 34, 50, 100, 152)}  # its "200" is 100 blocks once more
NORM_PHOTOS = 1024  # photos, at most, whose feature norms are taken
WEIGHTS = ("model_vec2face", "state_dict")  # keys of the weights of a generator, and of the other models
DESCRIPTION = ("model", "architecture", "trained_on", "head", "feature_norms")  # keys kept beside the weights


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("source", help="weights of a generator, face encoder or pose estimator, or a checkpoint")
    parser.add_argument("target", help="weight file to write")
    parser.add_argument(
        "--to",
        choices=["half", "released", "own"],
        default="half",
        help="form to write: 16 bit for inference, that of the released code, or this project's",
    )
    parser.add_argument(
        "--ema", action="store_true", help="use of the averaged weights of a checkpoint that was trained with --ema"
    )
    parser.add_argument("--interpolate", metavar="FILE", help="earlier state of the same generator to move back to")
    parser.add_argument(
        "--fraction", "--share", type=fraction, default=0.15, help="fraction of the weights of --interpolate, 0 to 1"
    )
    parser.add_argument(
        "--finished", action="store_true", help="refusal of a checkpoint whose training was stopped before its end"
    )
    parser.add_argument(
        "--data", "--norms_of", help="folder or LMDB of photos whose feature norms a face encoder's file should hold"
    )
    parser.add_argument("--overwrite", action="store_true", help="replacement of a TARGET that exists")
    args = parser.parse_args(argv)
    refuse_existing(args.target, overwrite=args.overwrite)
    content = load_file(args.source)
    if args.finished:
        check_finished(content, args.source)
    if args.ema:
        content = averaged(content, args.source)
    if args.interpolate:
        content = interpolated(content, args.source, args.interpolate, args.fraction)
    norms = feature_norms(args.source, args.data) if args.data else None
    if args.to == "half":
        converted, kind = for_inference(content, args.source, norms), None
    elif holds_encoder(content, args.source):
        converted, kind = convert_encoder(content, args.source, args.to, norms)
    else:
        converted, kind = convert_generator(content, args.source, args.to)
    with output_file(args.target) as target:
        save_file(converted, target)
        if kind:
            print(f"{target}: {kind}, {args.to} form")
        else:
            print(f"{target}: {megabytes(target):.1f} MB, was {megabytes(args.source):.1f}")


def check_finished(content: dict, path: str) -> None:
    """Raise UserError for a checkpoint of a generator with steps left; other models are written at the end only."""
    steps = (content.get("step"), content.get("last_step")) if isinstance(content, dict) else (None, None)
    if None not in steps and steps[0] < steps[1]:
        raise UserError(f"{path}: its training was stopped at step {steps[0]} of {steps[1]}; run it again to go on.")


def feature_norms(encoder_path: str, data: str) -> dict[str, float]:
    """Percentiles of an encoder's feature norms of photos spread over a dataset."""
    faces, encoder = FaceSet(data, mixtures="first"), load_face_encoder(encoder_path)
    indices = np.linspace(0, len(faces) - 1, min(NORM_PHOTOS, len(faces))).astype(int)
    return norm_percentiles(encoder, [faces.image(int(index)) for index in indices])


def for_inference(content: dict, path: str, norms: dict[str, float] | None) -> dict:
    """The weights in 16 bit and what describes them, without what only training needs."""
    if not isinstance(content, dict) or "model_vec2face" not in content:
        content = (content if isinstance(content, dict) else {}) | {"state_dict": state_dict_of(content, path)}
    if norms:
        content["feature_norms"] = norms
    kept = {key: value for key, value in content.items() if key in DESCRIPTION}
    weights = next(key for key in WEIGHTS if key in content)
    return kept | {weights: {key: halved(value) for key, value in content[weights].items()}}


def halved(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in 16 bit, unless it holds integers or numbers beyond the range of float16."""
    half = tensor.to(torch.float16)
    return half.contiguous() if tensor.is_floating_point() and half.isfinite().all() else tensor.contiguous()


def holds_encoder(content: dict, path: str) -> bool:
    """Whether a file holds a face encoder rather than a generator."""
    is_generator = isinstance(content, dict) and "model_vec2face" in content
    return not is_generator and is_face_encoder(state_dict_of(content, path))


def convert_generator(content: dict, path: str, form: str) -> tuple[dict, str]:
    """(content of the file to write, name of the preset). Raises UserError for the weights of another model."""
    preset, state = checked_state(content, path)
    converted = native_checkpoint(state, preset, architecture_of(content, preset, path), content.get("trained_on"))
    if form == "released":
        converted["model_vec2face"] = to_released(state)
    return converted, preset


def convert_encoder(content: dict, path: str, form: str, norms: dict[str, float] | None = None) -> tuple[dict, str]:
    """(content of the file to write, description of the network).

    Raises UserError when the form cannot represent this encoder or the ``norms``.
    """
    encoder = trainable_encoder(content, path)
    if encoder.unit_range:
        raise UserError(
            f"{path}: official MagFace weights, for pixels of 0 to 1; neither form has those. Use the file as it is."
        )
    stages = [getattr(encoder, f"layer{number}") for number in range(1, 5)]
    blocks, widths = tuple(map(len, stages)), tuple(stage[0].conv1.out_channels for stage in stages)
    state, se = encoder.state_dict(), stages[0][0].attn is not None
    network = f"IResNet of {'-'.join(map(str, blocks))} blocks{' with squeeze-excitation' if se else ''}"
    if form == "own":
        return {"state_dict": state, "feature_norms": norms or encoder.feature_norms}, network
    if norms:
        raise UserError("--data: the released form of a face encoder has no place for feature norms.")
    if widths != RELEASED_WIDTHS or blocks not in RELEASED_DEPTHS:
        raise UserError(
            f"{path}: an {network}, widths {'-'.join(map(str, widths))}; the FR-training repository has depths "
            f"{', '.join(map(str, RELEASED_DEPTHS.values()))} and widths {'-'.join(map(str, RELEASED_WIDTHS))} only."
        )
    flags = f"--depth {RELEASED_DEPTHS[blocks]} --mode {'se' if se else 'normal'}"
    return state, f"{network} (test.py {flags} of the FR-training repository)"


def megabytes(path: Path | str) -> float:
    """Size of a file in units of 10^6 bytes."""
    return Path(path).stat().st_size / 1e6


if __name__ == "__main__":
    main()
