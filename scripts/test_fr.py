"""Test a face recogniser on verification sets: accuracy in ten folds, and true accepts at low false accepts.

    python scripts/test_fr.py --weights weights/demo/face_encoder.pth --pairs tests/photos --pair_count 12
    python scripts/test_fr.py --weights run/model.pth --data_dir test_sets --sets lfw cfp_fp agedb_30 calfw cplfw

A set is NAME.bin (InsightFace), NAME.xz (released), NAME.npy or NAME/NAME.npy with issame.txt beside it, or NAME.npz
(written by --save_pairs).
The threshold of each fold is chosen on the nine others; a feature is the sum of the photo's and its mirror image's.
"""

import json
from pathlib import Path

from utils.cli.command import command

from tqdm import tqdm

from models.errors import UserError
from models.iresnet import load_face_encoder
from utils.cli.flags import make_parser, not_negative, positive
from utils.cli.model_flags import add_device_flags, add_workers_flag, set_up_inference
from utils.cli.outputs import writing
from utils.data.face_set import FaceSet
from utils.data.photo_loader import Unreadable, read_faces
from utils.evaluation.verification import FALSE_ACCEPT_RATES, features_of, pair_similarities, verify
from utils.evaluation.verification_sets import STYLES, PairSet, draw_pairs, find_set, load_pairs, save_pairs

SETS = ["lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"]


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--weights", help="face encoder; not needed to only --save_pairs")
    parser.add_argument("--data_dir", default="test_sets", help="folder of the verification sets")
    parser.add_argument("--sets", nargs="+", default=SETS, help="names in --data_dir, or paths of files")
    parser.add_argument("--pairs", help="instead: random pairs of a folder of person/photo, or of an LMDB")
    parser.add_argument("--pair_count", type=positive, default=6000, help="of --pairs, half of them of one person")
    parser.add_argument(
        "--style", choices=STYLES, default="random", help="of --pairs; all but random need render_faces.py's labels"
    )
    parser.add_argument("--seed", type=not_negative, default=0, help="of --pairs")
    parser.add_argument("--save_pairs", help="keep the pairs of --pairs as a verification set, NAME.npz")
    parser.add_argument("--batch_size", type=positive, default=64, help="photos at a time")
    add_workers_flag(parser)
    parser.add_argument("--output", help="also write the figures, .json")
    add_device_flags(parser)
    args = parser.parse_args(argv)
    if not args.weights and not args.save_pairs:
        raise UserError("--weights: which face recogniser should be tested?")
    if args.save_pairs and not args.pairs:
        raise UserError("--save_pairs needs --pairs.")
    paths = [] if args.pairs else [find_set(name, args.data_dir) for name in args.sets]  # before any work
    sets = iter([pairs_of_faces(args)]) if args.pairs else map(load_pairs, paths)
    results = test(args, sets) if args.weights else list(sets) and {}
    if results:
        print(table(results))
    if args.output:
        with writing(args.output) as target:
            target.write_text(json.dumps(results, indent=2) + "\n")


def test(args, sets):
    """{set: accuracy, std, threshold, tpr, and the precision the encoder computed in}."""
    device, precision = set_up_inference(args)
    encoder = load_face_encoder(args.weights, device, precision.dtype)
    results = {}
    for pairs in sets:
        show = lambda starts, name=pairs.name: tqdm(starts, desc=name, unit="batch", leave=False)  # noqa: E731
        features = features_of(encoder, pairs.photos, args.batch_size, show=show)  # (U, D)
        figures = verify(pair_similarities(features[pairs.numbers]), pairs.same)
        results[pairs.name] = figures | precision.in_report()
    return results


def pairs_of_faces(args):
    """A PairSet of random pairs; written, too, when asked."""
    faces = FaceSet(args.pairs)
    numbers, same = draw_pairs(faces, args.pair_count, args.seed, args.style)
    try:
        if args.save_pairs:
            with writing(args.save_pairs) as target:
                save_pairs(target, [faces.encoded(i) for i in numbers], same)
            print(f"{target}: {len(same)} pairs of {len(faces.people)} people")
    except (ValueError, OSError) as error:
        raise UserError(f"{args.pairs}: a photo cannot be used: {error}") from error
    return PairSet(Path(args.pairs).name, photos_of(faces, numbers, args.workers), same)


def photos_of(faces, numbers, workers):
    """Iterate over photos of a FaceSet, (112, 112, 3) uint8. Raises UserError that names one that is broken."""
    for number, photo in read_faces(faces, numbers, workers):
        if isinstance(photo, Unreadable):
            raise UserError(f"{faces.name(number)}: cannot be used: {photo.reason}")
        yield photo


def table(results):
    """The results as text, a set a line."""
    rates = [f"{rate:g}" for rate in FALSE_ACCEPT_RATES]
    lines = [f"{'set':16} accuracy        threshold  " + "  ".join(f"TPR@{rate:<6}" for rate in rates)]
    for name, result in results.items():
        tpr = "  ".join(f"{'-' if (t := result['tpr'][rate]) is None else format(t, '.2%'):10}" for rate in rates)
        lines.append(f"{name:16} {result['accuracy']:.2%} ± {result['std']:.2%}  {result['threshold']:.3f}      {tpr}")
    if len(results) > 1:
        lines.append(f"{'average':16} {sum(r['accuracy'] for r in results.values()) / len(results):.2%}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
