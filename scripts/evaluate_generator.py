"""Evaluate how well a generator reconstructs photos that it was not trained on.

    python scripts/evaluate_generator.py --model_weights weights/demo/vec2face_generator.pth \\
        --id_weights weights/demo/face_encoder.pth --data lmdb_dataset/unseen.lmdb

The scores are PSNR and SSIM of image against photo, sharpness, and the similarity of the image's FR feature to the
photo's: by the FR model of --id_weights, whose features the generator reads, and, more strictly, by the held-out one of
--evaluator_weights, which no loss has used. With the --threshold of the latter they include the fraction of images from
noisy vectors that it verifies. residual_peak is the largest mean residual at a fixed place, in levels of 255: an
artefact that all images share. Writes the scores, and pictures of photos over their reconstructions and of residuals.
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


def threshold(text: str) -> float:
    """argparse type: a number, or a file that evaluate_fr.py --output wrote, for the threshold of its first set."""
    if not text.endswith(".json"):
        return finite(text)
    try:
        return finite(next(iter(json.loads(Path(text).read_text()).values()))["threshold"])
    except (OSError, ValueError, StopIteration, KeyError, TypeError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"{text} holds no results of evaluate_fr.py") from error


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, help="training LMDB of photos that the generator was not trained on")
    parser.add_argument("--model_weights", required=True, help="weights of the generator")
    parser.add_argument("--id_weights", required=True, help="face encoder whose features the generator reads")
    parser.add_argument(
        "--evaluator_weights", "--judge_weights", help="weights of a held-out FR model, for further similarities"
    )
    parser.add_argument(
        "--threshold",
        type=threshold,
        help="cosine similarity above which the held-out FR model takes two photos for one identity, or the .json that "
        "evaluate_fr.py --output wrote about that model",
    )
    parser.add_argument("--count", type=positive, help="number of photos to use, spread over the data (default: all)")
    parser.add_argument("--batch_size", type=positive, default=32, help="number of photos in a batch")
    parser.add_argument("--seed", type=int, default=0, help="seed of the masks and of the noise")
    parser.add_argument(
        "--output",
        default="evaluation",
        help="common part of the names of the output files, OUTPUT.json, OUTPUT.jpg and OUTPUT-residual.jpg",
    )
    parser.add_argument("--overwrite", action="store_true", help="replacement of the output files where they exist")
    add_device_flags(parser)
    args = parser.parse_args(argv)
    if args.threshold is not None and not args.evaluator_weights:
        raise UserError("--threshold is that of --evaluator_weights: give both.")
    residual_picture = f"{args.output}-residual.jpg"
    refuse_existing(f"{args.output}.json", f"{args.output}.jpg", residual_picture, overwrite=args.overwrite)
    device, precision = set_up_inference(args)
    generator = load_vec2face(args.model_weights, device, precision.dtype)
    encoder = load_face_encoder(args.id_weights, device, precision.dtype)
    evaluator = load_face_encoder(args.evaluator_weights, device, precision.dtype) if args.evaluator_weights else None
    with closing(TrainingData(args.data)) as data:
        positions = np.linspace(0, len(data) - 1, min(args.count or len(data), len(data))).astype(int)
        scores, pairs, residuals = reconstruct(
            generator, encoder, data, positions, args.batch_size, args.seed, evaluator, args.threshold
        )
    with output_file(f"{args.output}.json") as target:
        target.write_text(json.dumps(scores | precision.in_report(), indent=2) + "\n")
    with output_file(f"{args.output}.jpg") as target:
        target.write_bytes(encode_jpeg(contact_sheet(pairs), 90))
    with output_file(residual_picture) as target:
        target.write_bytes(encode_jpeg(residuals.picture(), 90))
    for name, value in scores.items():
        print(f"{name}: {value}")
    print(f"precision: {precision.name}")
    print(
        f"photos over reconstructions: {args.output}.jpg; residuals, absolute and at a fixed place: {residual_picture}"
    )


if __name__ == "__main__":
    main()
