"""How a quality model's norm falls as photos get worse.

    python world/quality_curve.py --quality_weights encoder/model.pth --photos rendered/unseen --output quality

Blurs the same photos more and more, and lowers their resolution; writes OUTPUT.json and the curves, OUTPUT.png.
"""

import io
import json

from utils.cli.command import command

import cv2
import matplotlib
import numpy as np

from models.iresnet import load_face_encoder
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

BLURS = (0, 0.5, 1, 1.5, 2, 3, 4)  # standard deviation in pixels
RESOLUTIONS = (112, 80, 56, 40, 28, 20, 14)  # pixels along an edge
GOOD = 0.8  # quality of the photos that are made worse, by their labels


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--quality_weights", default="weights/magface-r100-glint360k.pth", help="quality model")
    parser.add_argument("--photos", required=True, help="labelled photos: folder or LMDB of render_faces.py")
    parser.add_argument("--count", type=positive, default=200, help="good photos to use")
    parser.add_argument("--seed", type=not_negative, default=0, help="of their choice")
    parser.add_argument(
        "--output", default="quality", help="start of the names of the files to write, OUTPUT.json and OUTPUT.png"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT.json and OUTPUT.png where they exist")
    add_device_flags(parser)
    args = parser.parse_args(argv)
    refuse_existing(f"{args.output}.json", f"{args.output}.png", overwrite=args.overwrite)
    use_demo_weights(args)
    device, precision = set_up_inference(args)
    encoder = load_face_encoder(args.quality_weights, device, precision.dtype)
    photos = good_photos(FaceSet(args.photos), args.count, args.seed)
    curves = {
        "blur": {blur: norms(encoder, [blurred(photo, blur) for photo in photos]) for blur in BLURS},
        "resolution": {side: norms(encoder, [coarse(photo, side) for photo in photos]) for side in RESOLUTIONS},
    }
    with output_file(f"{args.output}.json") as target:
        target.write_text(json.dumps({"photos": len(photos)} | precision.in_report() | curves, indent=2) + "\n")
    with output_file(f"{args.output}.png") as target:
        target.write_bytes(plot(curves))
    for name, curve in curves.items():
        print(f"{name}: " + ", ".join(f"{x} -> {median:.1f}" for x, (_, median, _) in curve.items()))
    print(f"curves: {target}")


def good_photos(faces, count, seed):
    """``count`` photos (112, 112, 3) that little spoils, of many people."""
    good = np.flatnonzero([label["quality"] >= GOOD for label in load_labels(faces)])
    chosen = np.random.default_rng(seed).permutation(good)[:count]
    return [faces.image(int(index)) for index in chosen]


def blurred(photo, sigma):
    return cv2.GaussianBlur(photo, (0, 0), sigma) if sigma else photo


def coarse(photo, side):
    small = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def norms(encoder, photos):
    """Lower quartile, median and upper quartile of the feature norms."""
    found = np.linalg.norm(features_of(encoder, photos, flip=False), axis=1)
    return [round(float(value), 3) for value in np.percentile(found, (25, 50, 75))]


def plot(curves):
    """PNG bytes: a panel a curve, the band between the quartiles."""
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
