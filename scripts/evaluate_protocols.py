"""Evaluate an FR model by the protocols of TinyFace, IJB-B, IJB-C and RFW, on their published files.

    python scripts/evaluate_protocols.py --id_weights fr/model.pth --tinyface tinyface --rfw RFW/test --ijb IJBB IJBC

TinyFace: rank-1, 5 and 20 of identification among all gallery photos and distractors. IJB: true accept rates of pairs
of templates at false accept rates, and identification. RFW: ten-fold accuracy in four groups of people, and its spread.
Photos of TinyFace and RFW should be aligned crops; those of IJB are aligned by the landmarks in its lists. Features are
those of a photo and its mirror image, summed.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from utils.cli.command import command

from models.errors import UserError
from models.iresnet import load_face_encoder
from utils.cli.flags import make_parser, positive
from utils.cli.model_flags import add_device_flags, add_workers_flag, set_up_inference
from utils.cli.outputs import output_file
from utils.evaluation.ijb import evaluate_ijb
from utils.evaluation.rfw import GROUPS, evaluate_rfw
from utils.evaluation.tinyface import evaluate_tinyface


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--id_weights", required=True, help="weights of the FR model")
    parser.add_argument("--tinyface", help="folder of TinyFace, with Testing_Set in it")
    parser.add_argument(
        "--tinyface_crops",
        help="folder with Probe, Gallery_Match and Gallery_Distractor of aligned crops (default: Testing_Set)",
    )
    parser.add_argument(
        "--ijb", nargs="*", default=[], help="folders of IJB-B or IJB-C, with meta and loose_crop in it"
    )
    parser.add_argument("--rfw", help="folder of RFW's test set, with data and txts in it")
    parser.add_argument("--batch_size", type=positive, default=64, help="number of photos in a batch")
    add_workers_flag(parser)
    parser.add_argument("--output", help="JSON file for the results (default: they are only printed)")
    add_device_flags(parser)
    args = parser.parse_args(argv)
    if not (args.tinyface or args.ijb or args.rfw):
        raise UserError("name a test: --tinyface, --ijb or --rfw.")
    device, precision = set_up_inference(args)
    encoder = load_face_encoder(args.id_weights, device, precision.dtype)
    work, results = {"batch_size": args.batch_size, "workers": args.workers}, {}
    if args.tinyface:
        crops = Path(args.tinyface_crops) if args.tinyface_crops else None
        results["tinyface"] = evaluate_tinyface(encoder, Path(args.tinyface), crops, **work)
        print(line("TinyFace, rank", results["tinyface"]["rank"]))
    for root in map(Path, args.ijb):
        results[root.name] = evaluate_ijb(encoder, root, **work)
        for title, key in (("TPR at FPR", "tpr"), ("rank", "rank"), ("TPIR at FPIR", "tpir")):
            if key in results[root.name]:
                print(line(f"{root.name}, {title}", results[root.name][key]))
    if args.rfw:
        results["rfw"] = rfw = evaluate_rfw(encoder, Path(args.rfw), **work)
        print(line("RFW, accuracy", {group: rfw[group]["accuracy"] for group in GROUPS} | {"average": rfw["average"]}))
        ratio = "-" if rfw["error_ratio"] is None else f"{rfw['error_ratio']:.2f}"
        print(f"RFW, between groups: standard deviation {rfw['spread']:.2%}, highest error / lowest error {ratio}")
    if args.output:
        with output_file(args.output) as target:
            results = {name: result | precision.in_report() for name, result in results.items()}
            target.write_text(json.dumps(results, indent=2) + "\n")


def line(title: str, rates: dict[str, float | None]) -> str:
    """A line of rates; a dash where the number of pairs cannot resolve one."""
    return f"{title}: " + ", ".join(f"{name} {'-' if rate is None else f'{rate:.2%}'}" for name, rate in rates.items())


if __name__ == "__main__":
    main()
