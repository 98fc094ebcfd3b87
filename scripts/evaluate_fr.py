"""Evaluate an FR model on verification sets: 10-fold accuracy, and true accept rates at low false accept rates.

    python scripts/evaluate_fr.py --id_weights weights/demo/face_encoder.pth --data tests/photos --pair_count 12
    python scripts/evaluate_fr.py --id_weights run/model.pth --data_dir test_sets --sets lfw cfp_fp agedb_30 calfw cplfw
    python scripts/evaluate_fr.py --data rendered/unseen --style frontal_profile --save_pairs profile.npz

A set is NAME.bin (InsightFace), NAME.xz (released code), NAME.npy or NAME/NAME.npy with issame.txt beside it, or
NAME.npz (written by --save_pairs). The threshold of each fold is chosen on the nine other folds. The feature of a photo
is the sum of those of the photo and of its mirror image.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.cli.command import command

import numpy as np
from tqdm.auto import tqdm

from models.errors import UserError
from models.iresnet import IResNet, load_face_encoder
from utils.cli.flags import make_parser, not_negative, positive
from utils.cli.model_flags import add_device_flags, add_workers_flag, set_up_inference
from utils.cli.outputs import output_file
from utils.data.face_set import FaceSet
from utils.data.photo_loader import Unreadable, read_faces
from utils.evaluation.verification import FALSE_ACCEPT_RATES, features_of, pair_similarities, verify
from utils.evaluation.verification_sets import STYLES, PairSet, draw_pairs, find_set, load_pairs, save_pairs
from utils.runtime.precision import Precision

SETS = ["lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"]


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument(
        "--id_weights", "--weights", help="weights of the FR model; not needed for --save_pairs without an evaluation"
    )
    parser.add_argument("--data_dir", default="test_sets", help="folder of the verification sets")
    parser.add_argument("--sets", nargs="+", default=SETS, help="names of sets in --data_dir, or paths of their files")
    parser.add_argument(
        "--data", "--pairs", help="folder of identity/photo, LMDB or .rec, to draw random pairs from in place of --sets"
    )
    parser.add_argument(
        "--pair_count", type=positive, default=6000, help="number of pairs from --data, half of them of one identity"
    )
    parser.add_argument(
        "--style",
        choices=STYLES,
        default="random",
        help="kind of pairs from --data; all kinds but random need the labels of world/render_faces.py",
    )
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the choice of pairs from --data")
    parser.add_argument("--save_pairs", help="verification set, NAME.npz, to keep the pairs from --data in")
    parser.add_argument("--batch_size", type=positive, default=64, help="number of photos in a batch")
    add_workers_flag(parser)
    parser.add_argument("--output", help="JSON file for the results (default: they are only printed)")
    add_device_flags(parser)
    args = parser.parse_args(argv)
    if not args.id_weights and not args.save_pairs:
        raise UserError("--id_weights: name the FR model to evaluate.")
    if args.save_pairs and not args.data:
        raise UserError("--save_pairs needs --data.")
    paths = [] if args.data else [find_set(name, args.data_dir) for name in args.sets]  # before any work
    if args.data:
        faces = FaceSet(args.data)
        indices, same = draw_pairs(faces, args.pair_count, args.seed, args.style)
        if args.save_pairs:
            write_pairs(args.save_pairs, faces, indices, same)
        sets = iter([PairSet(Path(args.data).name, photos_of(faces, indices, args.workers), same)])
    else:
        sets = map(load_pairs, paths)
    results = {}
    if args.id_weights:
        device, precision = set_up_inference(args)
        encoder = load_face_encoder(args.id_weights, device, precision.dtype)
        results = evaluate(encoder, sets, args.batch_size, precision)
        print(table(results))
    if args.output:
        write_results(args.output, results)


def evaluate(encoder: IResNet, sets: Iterable[PairSet], batch_size: int, precision: Precision) -> dict[str, dict]:
    """{name of the set: accuracy, std, threshold, tpr, and the precision that the encoder computed in}."""
    results = {}
    for pairs in sets:
        show = lambda starts, name=pairs.name: tqdm(starts, desc=name, unit="batch", leave=False)  # noqa: E731
        features = features_of(encoder, pairs.photos, batch_size, show=show)  # (U, D)
        results[pairs.name] = verify(pair_similarities(features[pairs.numbers]), pairs.same) | precision.in_report()
    return results


def write_results(path: Path | str, results: dict[str, dict]) -> None:
    """Write results as JSON, which scripts/compare.py and evaluate_generator.py --threshold read."""
    with output_file(path) as target:
        target.write_text(json.dumps(results, indent=2) + "\n")


def write_pairs(path: Path | str, faces: FaceSet, indices: np.ndarray, same: np.ndarray) -> None:
    """Write pairs of photos as a verification set. Raises UserError when a photo cannot be read."""
    try:
        with output_file(path) as target:
            save_pairs(target, [faces.encoded(i) for i in indices], same)
        print(f"{target}: {len(same)} pairs of {len(faces.identities)} identities")
    except (ValueError, OSError) as error:
        raise UserError(f"{faces.path}: a photo cannot be used: {error}") from error


def photos_of(faces: FaceSet, indices: Iterable[int], workers: int | None) -> Iterator[np.ndarray]:
    """Iterate over photos of a FaceSet, (112, 112, 3) uint8. Raises UserError that names one that is broken."""
    for index, photo in read_faces(faces, indices, workers):
        if isinstance(photo, Unreadable):
            raise UserError(f"{faces.name(index)}: cannot be used: {photo.reason}")
        yield photo


def table(results: dict[str, dict]) -> str:
    """The results as text, one set per line."""
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
