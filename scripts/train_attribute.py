"""Train an estimator of attributes, any columns of a table of photos, on the maps of a face encoder.

    python scripts/train_attribute.py --data rendered/people --test rendered/unseen --id_weights face_encoder.pth \\
        --labels light_azimuth smile=mouthSmileLeft glasses age --units light_azimuth=degrees age=years \\
        --output attributes.pth

The table is the labels.jsonl of rendered photos, or a CSV or JSONL file (--table) with the photo (IDENTITY/PHOTO) in
its column `file`. The estimator is an MLP with one hidden layer; the face encoder stays as it is. OUTPUT is for the
flag --attribute_weights of the generation scripts, together with this --id_weights. Prints the error on held-out
photos, of other people, beside that of always saying the mean, and stores it in the file.
"""

import argparse
from collections.abc import Iterable
from typing import NamedTuple

from utils.cli.command import command

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

from models.attribute_estimator import (
    Attribute,
    EncoderMaps,
    load_attribute_estimator,
    save_attribute_estimator,
)
from models.errors import UserError
from models.iresnet import load_face_encoder
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import Parser, make_parser, not_negative, positive
from utils.cli.model_flags import add_device_flags, set_up_inference
from utils.cli.outputs import output_file, refuse_existing
from utils.data.attribute_table import labelled_photos
from utils.data.face_set import ChosenPhotos, FaceSet
from utils.dataset.image_record import GATE_MEASURES, MEASURES, RECORD_FIELDS, VERDICT_FIELDS
from utils.evaluation.verification import features_of

HELD_OUT = 10  # without --test every tenth person is held out
FEWEST = 20  # photos to train on
BATCH, DROPOUT = 64, 0.3
SMALLEST_DEVIATION = 1e-3  # so that an input that never changes stays small
TAKEN = (*MEASURES, *GATE_MEASURES, *RECORD_FIELDS, *VERDICT_FIELDS)  # names that mean something else in a manifest


class Examples(NamedTuple):
    """Inputs of the head (N, D), and the labels (N, A), both float32."""

    inputs: np.ndarray
    labels: np.ndarray


def parse_flags(argv: list[str] | None) -> argparse.Namespace:
    parser: Parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, help="training photos: folder of identity/photo, LMDB or .rec")
    parser.add_argument("--table", help="table of labels (default: labels.jsonl in --data, or NAME.jsonl beside it)")
    parser.add_argument(
        "--labels", nargs="+", required=True, type=name_and_column, metavar="NAME[=COLUMN]",
        help="attributes to train, each a column of the table, or a name with the column that it is taken from",
    )  # fmt: skip
    parser.add_argument("--units", nargs="+", default=[], type=pair, metavar="NAME=UNIT", help="units of attributes")
    parser.add_argument("--test", help="held-out photos of other people (default: every tenth person of --data)")
    parser.add_argument("--test_table", help="table of labels of --test (default: as that of --data)")
    parser.add_argument("--count", type=positive, default=9000, help="largest number of photos to train on")
    parser.add_argument("--id_weights", default="weights/arcface-r100-glint360k.pth", help="weights of the encoder")
    parser.add_argument("--hidden", type=positive, default=96, help="width of the hidden layer")
    parser.add_argument("--epochs", type=positive, default=12, help="number of passes over the photos")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="highest learning rate of AdamW, of one cycle")
    parser.add_argument("--weight_decay", type=float, default=0.05, help="AdamW weight decay")
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the choice of photos and of the training")
    parser.add_argument("--output", default="attributes.pth", help="weight file to write")
    parser.add_argument("--overwrite", action="store_true", help="replacement of an existing file")
    add_device_flags(parser)
    return parser.parse_args(argv)


USEFUL = 0.9  # an error above this share of the mean's is no better than guessing


@command
def main(argv=None):
    args = parse_flags(argv)
    names, columns = [name for name, _ in args.labels], [column for _, column in args.labels]
    check_names(names, dict(args.units))
    refuse_existing(args.output, overwrite=args.overwrite)
    use_demo_weights(args)
    device, precision = set_up_inference(args)
    encoder = load_face_encoder(args.id_weights, device, precision.dtype)
    train, test = split(args, columns)
    maps = EncoderMaps(encoder)
    train, test = (examples_of(maps, faces, chosen, desc) for desc, (faces, chosen) in zip(
        ("photos", "held-out photos"), (train, test), strict=True
    ))  # fmt: skip
    flat = [name for name, spread in zip(names, np.ptp(train.labels, 0), strict=True) if spread == 0]
    if flat:
        raise UserError(f"{', '.join(flat)}: has the same value in all photos, so there is nothing to learn.")
    head = fit(train, args)
    predictions = head(torch.from_numpy(test.inputs)).detach().numpy()  # (M, A)
    attributes = list(described(names, dict(args.units), train.labels, test.labels, predictions))
    with output_file(args.output) as target:
        save_attribute_estimator(target, head, attributes, args.id_weights)
    load_attribute_estimator(args.output, encoder, args.id_weights)
    usual = np.abs(test.labels - train.labels.mean(0)).mean(0)  # (A,)
    for attribute, mean_error in zip(attributes, usual, strict=True):
        print(
            f"{attribute.name}: {attribute.lowest:g} to {attribute.in_unit(attribute.highest)}; held-out error "
            f"{attribute.in_unit(attribute.error)} (the mean: {mean_error:.3g}), correlation "
            f"{attribute.correlation:.2f}"
        )
        if attribute.error > USEFUL * mean_error:
            print(f"warning: {attribute.name}: hardly better than the mean, so nothing can be aimed at with it.")
    print(f"{args.output}: trained on {len(train.labels)} photos, tested on {len(test.labels)}")


def pair(text: str) -> tuple[str, str]:
    """argparse type: NAME=TEXT."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"must be NAME=..., not {text!r}")
    return name, value


def name_and_column(text: str) -> tuple[str, str]:
    """argparse type: NAME or NAME=COLUMN."""
    return pair(text) if "=" in text else (text, text)


def check_names(names: list[str], units: dict[str, str]) -> None:
    """Raise UserError for names of attributes that cannot be told apart or are those of something else."""
    if taken := sorted(set(names) & set(TAKEN)):
        raise UserError(f"--labels {taken[0]}: a manifest has it already; call it otherwise: NAME={taken[0]}.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--labels {twice[0]}: given twice.")
    if unknown := sorted(set(units) - set(names)):
        raise UserError(f"--units {unknown[0]}: no such attribute among --labels.")


def split(args: argparse.Namespace, columns: list[str]) -> list[tuple[FaceSet, tuple[np.ndarray, np.ndarray]]]:
    """The photos to train on and those to test on, of other people: (FaceSet, (indices (N,), labels (N, A))) each."""
    faces, rng = FaceSet(args.data), np.random.default_rng(args.seed)
    indices, values = labelled_photos(faces, columns, args.table)
    if args.test:
        others = FaceSet(args.test)
        held_out = others, tuple(labelled_photos(others, columns, args.test_table))
        kept = np.ones(len(indices), bool)
    else:
        kept = faces.labels[indices] % HELD_OUT != 0
        held_out = faces, (indices[~kept], values[~kept])
    indices, values = indices[kept], values[kept]
    if len(indices) < FEWEST or len(held_out[1][0]) < 2:
        raise UserError(
            f"{args.data}: {len(indices)} labelled photos to train on and {len(held_out[1][0])} of other people to "
            f"test on; at least {FEWEST} and 2 are needed."
        )
    chosen = np.sort(rng.permutation(len(indices))[: args.count])
    return [(faces, (indices[chosen], values[chosen])), held_out]


def examples_of(maps: EncoderMaps, faces: FaceSet, chosen: tuple[np.ndarray, np.ndarray], name: str) -> Examples:
    """The Examples of some photos, under a progress bar with a name."""
    indices, labels = chosen
    inputs = features_of(maps, ChosenPhotos(faces, indices), flip=False, show=lambda starts: tqdm(starts, desc=name))
    return Examples(inputs, labels)


def fit(examples: Examples, args: argparse.Namespace) -> nn.Sequential:
    """An MLP from inputs to labels, trained with dropout; it takes and gives the numbers as they are."""
    inputs, mean, std = standardised(examples.inputs)
    labels, centre, spread = standardised(examples.labels)
    torch.manual_seed(args.seed)
    first, last = nn.Linear(inputs.shape[1], args.hidden), nn.Linear(args.hidden, labels.shape[1])
    network = nn.Sequential(nn.Dropout(DROPOUT), first, nn.ReLU(), nn.Dropout(DROPOUT), last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=args.weight_decay)
    batches = DataLoader(TensorDataset(inputs, labels), min(BATCH, len(inputs)), shuffle=True, drop_last=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * len(batches))
    for _ in tqdm(range(args.epochs), desc="epochs"):
        for batch, wanted in batches:
            loss = F.mse_loss(network(batch), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    first.weight.data /= std  # (H, D): standardises the inputs
    first.bias.data -= first.weight.data @ mean  # (H,)
    last.weight.data *= spread[:, None]  # (A, H): gives labels in their units
    last.bias.data = last.bias.data * spread + centre  # (A,)
    return nn.Sequential(first, nn.ReLU(), last).requires_grad_(False)


def standardised(values: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values (N, D) -> (the values with mean 0 and standard deviation 1 in each column, mean (D,), deviation (D,))."""
    table = torch.from_numpy(values)
    mean, deviation = table.mean(0), table.std(0) + SMALLEST_DEVIATION  # (D,)
    return (table - mean) / deviation, mean, deviation


def described(
    names: Iterable[str], units: dict[str, str], labels: np.ndarray, held_out: np.ndarray, predictions: np.ndarray
) -> Iterable[Attribute]:
    """Yield the attributes, from training labels (N, A), held-out labels and predictions (M, A)."""
    for column, name in enumerate(names):
        wanted, found = held_out[:, column], predictions[:, column]
        correlation = float(np.corrcoef(wanted, found)[0, 1]) if np.ptp(wanted) and np.ptp(found) else 0.0
        lowest, highest = (float(f"{end:.3g}") for end in (labels[:, column].min(), labels[:, column].max()))
        error = float(np.abs(found - wanted).mean())
        yield Attribute(name, units.get(name, ""), lowest, highest, error, correlation)


if __name__ == "__main__":
    main()
