"""How well a generator redraws photos it never saw.

    python scripts/evaluate_generator.py --model_weights weights/demo/vec2face_generator.pth \\
        --id_weights weights/demo/face_encoder.pth --data lmdb_dataset/unseen.lmdb

PSNR and SSIM of image against photo, sharpness, and the similarity of the image's FR feature to the photo's: by the FR
model of --id_weights, whose features the generator reads, and by the stricter one of --judge_weights, which no loss
has seen; with its --threshold (of test_fr.py) also the share of noisy images it recognises. Writes photos over
reconstructions.
"""

import argparse
import json
from contextlib import closing
from pathlib import Path

from utils.cli.command import command

import numpy as np

from models.errors import UserError
from models.iresnet import load_face_encoder
from models.vec2face import load_vec2face
from utils.cli.flags import finite, make_parser, positive
from utils.cli.model_flags import add_device_flags, set_up_inference
from utils.cli.outputs import output_file, refuse_existing
from utils.data.images import contact_sheet, encode_jpeg
from utils.data.training_data import TrainingData
from utils.evaluation.reconstruction import reconstruct


def threshold(text):
    """argparse type: a number, or the figures that test_fr.py --output wrote, of which the first set's counts."""
    if not text.endswith(".json"):
        return finite(text)
    try:
        return finite(next(iter(json.loads(Path(text).read_text()).values()))["threshold"])
    except (OSError, ValueError, StopIteration, KeyError, TypeError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"{text} holds no figures of test_fr.py") from error


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, help="training LMDB of photos the generator did not see")
    parser.add_argument("--model_weights", required=True, help="generator")
    parser.add_argument("--id_weights", required=True, help="face encoder whose features the generator reads")
    parser.add_argument("--judge_weights", help="another face encoder, to judge")
    parser.add_argument(
        "--threshold",
        type=threshold,
        help="similarity from which on the judge says: the same person; or test_fr's .json",
    )
    parser.add_argument("--count", type=positive, help="photos to use, spread over the data (default: all)")
    parser.add_argument("--batch_size", type=positive, default=32, help="photos at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument(
        "--output", default="evaluation", help="start of the names of the files to write, OUTPUT.json and OUTPUT.jpg"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT.json and OUTPUT.jpg where they exist")
    add_device_flags(parser)
    args = parser.parse_args(argv)
    if args.threshold is not None and not args.judge_weights:
        raise UserError("--threshold is that of --judge_weights: give both.")
    refuse_existing(f"{args.output}.json", f"{args.output}.jpg", overwrite=args.overwrite)
    device, precision = set_up_inference(args)
    generator = load_vec2face(args.model_weights, device, precision.dtype)
    encoder = load_face_encoder(args.id_weights, device, precision.dtype)
    judge = load_face_encoder(args.judge_weights, device, precision.dtype) if args.judge_weights else None
    with closing(TrainingData(args.data)) as data:
        positions = np.linspace(0, len(data) - 1, min(args.count or len(data), len(data))).astype(int)
        scores, pairs = reconstruct(
            generator, encoder, data, positions, args.batch_size, args.seed, judge, args.threshold
        )
    with output_file(f"{args.output}.json") as target:
        target.write_text(json.dumps(scores | precision.in_report(), indent=2) + "\n")
    with output_file(f"{args.output}.jpg") as target:
        target.write_bytes(encode_jpeg(contact_sheet(pairs), 90))
    for name, value in scores.items():
        print(f"{name}: {value}")
    print(f"precision: {precision.name}")
    print(f"photos over reconstructions: {args.output}.jpg")


if __name__ == "__main__":
    main()
