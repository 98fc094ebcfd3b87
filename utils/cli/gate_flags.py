"""The flags of what images have to pass to be written, and which of them are kept."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import UserError
from models.weight_files import sha256
from utils.cli.flags import cosine, finite, positive
from utils.generation.gate import Gate, Gating
from utils.generation.selection import Selection
from utils.generation.vector_source import load_vectors

EXAMPLE = 50  # images of an identity by default
AVOID_SIMILARITY = 0.3


def add_gate_flags(parser: ArgumentParser, quality_weights: str | None = None) -> None:
    """The gate and the selection of the best.

    ``quality_weights``: default of --quality_weights, for a script that has no such flag yet.
    """
    gate = parser.add_argument_group("gate: images that fail are drawn again")
    gate.add_argument("--min_id_similarity", type=cosine, help="lowest cosine similarity to the identity vector")
    gate.add_argument("--min_quality", type=finite, help="lowest quality")
    gate.add_argument(
        "--min_gate_similarity", type=cosine,
        help="lowest cosine similarity by the face encoder of --gate_weights to the image of the vector without noise",
    )  # fmt: skip
    gate.add_argument("--gate_weights", help="weights of a second face encoder, which the vectors need not be made for")
    gate.add_argument(
        "--avoid", nargs="+", metavar="NPY",
        help=".npy files of features by --id_weights, (M, 512), of people or photos that no image may resemble",
    )  # fmt: skip
    gate.add_argument(
        "--max_avoid_similarity", type=cosine,
        help=f"highest cosine similarity of an image to a row of --avoid (default: {AVOID_SIMILARITY})",
    )  # fmt: skip
    gate.add_argument(
        "--max_landmark_error", type=finite, metavar="PIXELS",
        help="largest mean distance of the five landmarks of the one face that a detector has to find to those of the "
        "alignment template",
    )  # fmt: skip
    gate.add_argument(
        "--max_tries", type=positive, default=5, help="number of attempts at an image before it is left out"
    )
    if quality_weights is not None:
        gate.add_argument(
            "--quality_weights", default=quality_weights,
            help="weights of the quality model, for --min_quality and --measure",
        )  # fmt: skip
    best = parser.add_argument_group("selection: the images of an identity that are kept")
    best.add_argument(
        "--best", type=positive, metavar="K",
        help="number of images that are kept of those drawn (--of), in the place of --example: those of the highest "
        "similarity by --gate_weights, or without it to the identity vector",
    )  # fmt: skip
    best.add_argument("--of", type=positive, metavar="N", help="number of images that are drawn for --best")


def add_reserve_flag(group: Any) -> None:
    """Identities that replace those that the gate leaves incomplete."""
    group.add_argument(
        "--reserve", metavar="NPY",
        help=".npy of further identity vectors, (R, 512); the next of them replaces an identity of which too few "
        "images pass the gate",
    )  # fmt: skip


def gating_of(args: Namespace) -> Gating:
    """What the flags ask for; sets ``args.example`` to the number of images to draw. Raises UserError for misfits."""
    check_flags(args)
    settings = {}
    minimums = {
        "id_similarity": args.min_id_similarity, "quality": args.min_quality,
        "gate_similarity": args.min_gate_similarity,
    }  # fmt: skip
    minimums = {name: lowest for name, lowest in minimums.items() if lowest is not None}
    maximums, avoid = {}, None
    if args.min_gate_similarity is not None:
        settings["min_gate_similarity"] = args.min_gate_similarity
    if args.avoid:
        highest = AVOID_SIMILARITY if args.max_avoid_similarity is None else args.max_avoid_similarity
        avoid = np.concatenate([load_vectors(path, 512) for path in args.avoid], dtype=np.float32, casting="same_kind")
        maximums["avoid_similarity"] = settings["max_avoid_similarity"] = highest
        settings["avoid"] = [sha256(path) for path in args.avoid]
    if args.max_landmark_error is not None:
        minimums["faces"] = maximums["faces"] = 1
        maximums["landmark_error"] = settings["max_landmark_error"] = args.max_landmark_error
    gate = Gate(minimums, args.max_tries, maximums) if minimums or maximums else None
    selection = selection_of(args, gate, settings)
    return Gating(gate, selection, avoid, settings)


def check_flags(args: Namespace) -> None:
    """Raise UserError for flags that do not fit together."""
    if args.min_gate_similarity is not None and args.gate_weights is None:
        raise UserError("--min_gate_similarity: needs --gate_weights, a second face encoder.")
    if args.gate_weights is not None and args.min_gate_similarity is None and args.best is None:
        raise UserError("--gate_weights: nothing uses it; give --min_gate_similarity or --best.")
    if args.max_avoid_similarity is not None and not args.avoid:
        raise UserError("--max_avoid_similarity: needs --avoid, the features that no image may resemble.")
    if args.max_landmark_error is not None and args.max_landmark_error <= 0:
        raise UserError(f"--max_landmark_error {args.max_landmark_error:g}: a number of pixels above 0.")
    if (args.best is None) != (args.of is None):
        raise UserError("--best and --of: give both, for example --best 50 --of 90.")
    if args.best is not None and args.best > args.of:
        raise UserError(f"--best {args.best} --of {args.of}: there are no {args.best} images among {args.of}.")
    if args.best is not None and args.example not in (EXAMPLE, args.best):
        raise UserError(f"--example {args.example}: --best takes its place, and says {args.best}.")


def selection_of(args: Namespace, gate: Gate | None, settings: dict[str, Any]) -> Selection | None:
    """The Selection that the flags ask for, if any; its entries are added to ``settings``."""
    reserve = getattr(args, "reserve", None)
    if reserve and args.center_feature is None:
        raise UserError("--reserve: belongs to --center_feature; photos have no reserve.")
    if reserve and gate is None:
        raise UserError("--reserve: without a gate no identity fails; give for example --min_id_similarity.")
    if args.best is None and not reserve:
        return None
    keep = args.example if args.best is None else args.best
    score = None
    if args.best is not None:
        score = "gate_similarity" if args.gate_weights else "id_similarity"
        args.example = args.of
        settings |= {"best": args.best, "of": args.of}
    if reserve:
        if not Path(reserve).is_file():
            raise UserError(f"{reserve}: no such file of identity vectors.")
        settings |= {"reserve": sha256(reserve), "complete": keep}
    return Selection(keep, score, complete=bool(reserve))
