"""Measure how the feature norm of a quality model falls as photos get worse.

    python world/quality_curve.py --quality_weights encoder/model.pth --data rendered/unseen --output quality

Blurs the same photos more and more, and lowers their resolution. Writes OUTPUT.json and the curves, OUTPUT.png.
"""

import io
import json
from collections.abc import Callable

from utils.cli.command import command

import cv2
import matplotlib
import numpy as np
from tqdm.auto import tqdm

from models.iresnet import IResNet, load_face_encoder
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import make_parser, not_negative, positive
from utils.cli.model_flags import add_device_flags, set_up_inference
from utils.cli.outputs import output_file, refuse_existing
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet
from utils.data.images import SIDE
from utils.evaluation.verification import features_of

matplotlib.use("agg")
import matplotlib.pyplot as plt

BLURS = (0, 0.5, 1, 1.5, 2, 3, 4)  # standard deviations in pixels
RESOLUTIONS = (112, 80, 56, 40, 28, 20, 14)  # pixels along an edge
GOOD = 0.8  # lowest quality, according to their labels, of the photos that are made worse


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument(
        "--quality_weights", default="weights/magface-r100-glint360k.pth", help="weights of the quality model"
    )
    parser.add_argument(
        "--data", "--photos", required=True, help="labelled photos: folder or LMDB that world/render_faces.py wrote"
    )
    parser.add_argument("--count", type=positive, default=200, help="number of good photos to use")
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the choice of photos")
    parser.add_argument(
        "--output", default="quality", help="common part of the names of the output files, OUTPUT.json and OUTPUT.png"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replacement of OUTPUT.json and OUTPUT.png where they exist"
    )
    add_device_flags(parser)
    args = parser.parse_args(argv)
    refuse_existing(f"{args.output}.json", f"{args.output}.png", overwrite=args.overwrite)
    use_demo_weights(args)
    device, precision = set_up_inference(args)
    encoder = load_face_encoder(args.quality_weights, device, precision.dtype)
    photos = good_photos(FaceSet(args.data), args.count, args.seed)
    with tqdm(total=len(BLURS) + len(RESOLUTIONS), unit="point", delay=2) as bar:

        def curve(worsen: Callable, amounts: tuple) -> dict:
            points = {}
            for amount in amounts:
                points[amount] = norms(encoder, [worsen(photo, amount) for photo in photos])
                bar.update()
            return points

        curves = {"blur": curve(blurred, BLURS), "resolution": curve(coarse, RESOLUTIONS)}
    with output_file(f"{args.output}.json") as target:
        target.write_text(json.dumps({"photos": len(photos)} | precision.in_report() | curves, indent=2) + "\n")
    with output_file(f"{args.output}.png") as target:
        target.write_bytes(plot(curves))
    for name, curve in curves.items():
        print(f"{name}: " + ", ".join(f"{x} -> {median:.1f}" for x, (_, median, _) in curve.items()))
    print(f"curves: {target}")


def good_photos(faces: FaceSet, count: int, seed: int) -> list[np.ndarray]:
    """``count`` random photos (112, 112, 3) uint8 of a quality of at least GOOD."""
    good = np.flatnonzero([label["quality"] >= GOOD for label in load_labels(faces)])
    chosen = np.random.default_rng(seed).permutation(good)[:count]
    return [faces.image(int(index)) for index in chosen]


def blurred(photo: np.ndarray, sigma: float) -> np.ndarray:
    """A photo with a Gaussian blur of ``sigma`` pixels."""
    return cv2.GaussianBlur(photo, (0, 0), sigma) if sigma else photo


def coarse(photo: np.ndarray, side: int) -> np.ndarray:
    """A photo reduced to ``side`` pixels along an edge and enlarged again."""
    small = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def norms(encoder: IResNet, photos: list[np.ndarray]) -> list[float]:
    """Lower quartile, median and upper quartile of the feature norms."""
    values = np.linalg.norm(features_of(encoder, photos, flip=False), axis=1)  # (N,)
    return [round(float(value), 3) for value in np.percentile(values, (25, 50, 75))]


def plot(curves: dict[str, dict]) -> bytes:
    """A PNG with one panel per curve: the median, and a band between the quartiles."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    labels = ("blur, standard deviation in pixels", "resolution, pixels along an edge")
    for panel, curve, label in zip(panels, curves.values(), labels, strict=True):
        low, middle, high = np.array(list(curve.values())).T
        panel.fill_between(list(curve), low, high, alpha=0.25)
        panel.plot(list(curve), middle, marker="o")
        panel.set_xlabel(label)
    panels[0].set_ylabel("norm of the feature")
    panels[1].invert_xaxis()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    plt.close(figure)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
