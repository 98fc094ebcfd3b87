"""Make a trained model small enough to hand on: 16-bit numbers, and nothing that only training needs.

    python scripts/shrink_weights.py workspace/checkpoint-last.pth weights/mine/vec2face_generator.pth --ema
    python scripts/shrink_weights.py gan.pth weights/mine/vec2face_generator.pth --interpolate before_gan.pth
    python scripts/shrink_weights.py fr/model.pth weights/mine/face_encoder.pth
    python scripts/shrink_weights.py quality.pth weights/mine/quality.pth --norms_of rendered/people

For generators, face encoders and pose estimators of this project's own training. Every script reads the result, and
computes in 32 bit with it unless told otherwise. --norms_of writes down what the feature norms of good photos are, from
which generation takes the quality to ask for (train_fr.py does so by itself). --interpolate takes back some of what the
GAN did, its artefacts sooner than its sharpness (network interpolation; ESRGAN, Wang et al., 2018, section 3.4).
"""

from pathlib import Path

from utils.cli.command import command

import numpy as np
import torch

from models.errors import UserError
from models.generator_file import averaged, interpolated
from models.iresnet import load_face_encoder
from models.weight_files import load_file, save_file, state_dict_of
from utils.cli.flags import fraction, make_parser
from utils.cli.outputs import writing
from utils.data.face_set import FaceSet
from utils.evaluation.verification import norm_percentiles

PHOTOS = 1024  # whose norms are looked at
WEIGHTS = ("model_vec2face", "state_dict")  # of generators; of encoders and pose estimators
KNOWN = ("model", "architecture", "trained_on", "head", "feature_norms")  # about them


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("source", help="checkpoint of vec2face.py, or model.pth of train_fr.py or train_pose.py")
    parser.add_argument("target", help="file to write")
    parser.add_argument("--ema", action="store_true", help="the averaged weights of a checkpoint trained with --ema")
    parser.add_argument("--interpolate", metavar="FILE", help="take a share of the weights of FILE, an earlier state")
    parser.add_argument("--share", type=fraction, default=0.15, help="of --interpolate, 0 to 1")
    parser.add_argument("--finished", action="store_true", help="refuse a checkpoint of a training that was stopped")
    parser.add_argument("--norms_of", help="of a face encoder: photos, a folder or LMDB, whose feature norms to keep")
    args = parser.parse_args(argv)
    content = load_file(args.source)
    if args.finished:
        check_finished(content, args.source)
    if args.ema:
        content = averaged(content, args.source)
    if args.interpolate:
        content = interpolated(content, args.source, args.interpolate, args.share)
    if not isinstance(content, dict) or "model_vec2face" not in content:
        content = (content if isinstance(content, dict) else {}) | {"state_dict": state_dict_of(content, args.source)}
    if args.norms_of:
        content["feature_norms"] = norms_of(args)
    small = {key: value for key, value in content.items() if key in KNOWN}
    kind = next(key for key in WEIGHTS if key in content)
    small[kind] = {key: halved(value) for key, value in content[kind].items()}
    with writing(args.target) as target:
        save_file(small, target)
        print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, was {Path(args.source).stat().st_size / 1e6:.1f}")


def check_finished(content, path):
    """UserError for a checkpoint of a generator with steps left to do; other files are written at the end only."""
    steps = (content.get("step"), content.get("last_step")) if isinstance(content, dict) else (None, None)
    if None not in steps and steps[0] < steps[1]:
        raise UserError(f"{path}: its training was stopped at step {steps[0]} of {steps[1]}; run it again to go on.")


def norms_of(args):
    faces, encoder = FaceSet(args.norms_of), load_face_encoder(args.source)
    chosen = np.linspace(0, len(faces) - 1, min(PHOTOS, len(faces))).astype(int)
    return norm_percentiles(encoder, [faces.image(int(index)) for index in chosen])


def halved(tensor):
    """In 16 bit, unless it holds whole numbers or some that 16 bit cannot."""
    half = tensor.to(torch.float16)
    return half.contiguous() if tensor.is_floating_point() and half.isfinite().all() else tensor.contiguous()


if __name__ == "__main__":
    main()
