"""Inspect a training LMDB: its size, identities, features, and whether every record is intact.

    python scripts/inspect_dataset.py lmdb_dataset/faces.lmdb

Prints a summary, lists every broken record, and writes a contact sheet into the folder NAME.report beside the LMDB. The
exit status is 1 when a record is broken.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from utils.cli.command import command

import lmdb
import msgpack
import numpy as np
from tqdm.auto import tqdm

from utils.cli.flags import make_parser, positive
from utils.cli.outputs import output_file, refuse_existing, report_folder
from utils.data.images import CONTACT_SHEET, contact_sheet, encode_jpeg
from utils.data.training_lmdb import decode_record, open_lmdb

SHEET_ROWS, SHEET_COLUMNS = 8, 10


class Inspection(NamedTuple):
    """What the records of a training LMDB hold."""

    records: int
    photos: Counter  # label -> number of intact records
    norms: list[float]  # of the features
    sheet: dict[int, list[np.ndarray]]  # label -> the first images of the first identities, (112, 112, 3) uint8
    broken: list[str]  # "record N: reason"


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("lmdb", help="training LMDB")
    parser.add_argument("--rep_dim", type=positive, default=512, help="number of dimensions of a feature")
    parser.add_argument(
        "--output", "--sheet", help="contact sheet to write (default: NAME.report/contact_sheet.jpg beside NAME.lmdb)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replacement of a contact sheet that --output names")
    args = parser.parse_args(argv)
    if args.output:
        refuse_existing(args.output, overwrite=args.overwrite)
    output = args.output or report_folder(args.lmdb) / CONTACT_SHEET
    inspection = inspect(args.lmdb, args.rep_dim)
    report(args.lmdb, inspection, output)
    if inspection.broken:
        raise SystemExit(1)


def inspect(path: str, dimensions: int) -> Inspection:
    """Decode every record of a training LMDB whose features should have so many ``dimensions``."""
    env = open_lmdb(path)
    with env, env.begin(buffers=True) as transaction:
        count, classes = (number(transaction, key) for key in (b"__len__", b"__classnum__"))
        photos, norms, sheet, broken = Counter(), [], {}, []
        for position in tqdm(range(count), unit="im"):
            try:
                record = bytes(transaction.get(str(position).encode()) or b"")
                image, feature, label = decode_record(record, dimensions)
                if not 0 <= label < classes:
                    raise ValueError(f"label {label}, there are {classes} identities")
            except ValueError as error:
                broken.append(f"record {position}: {error}")
                continue
            photos[label] += 1
            norms.append(float(np.linalg.norm(feature)))
            if (label in sheet or len(sheet) < SHEET_ROWS) and len(sheet.setdefault(label, [])) < SHEET_COLUMNS:
                sheet[label].append(image)
    return Inspection(count, photos, norms, sheet, broken)


def number(transaction: lmdb.Transaction, key: bytes) -> int:
    """The number that a record holds, 0 where there is none."""
    data = transaction.get(key)
    return msgpack.unpackb(data) if data else 0


def report(path: str, inspection: Inspection, output: str | Path) -> None:
    """Print a summary and write the contact sheet."""
    print(f"{path}: {inspection.records} records, {len(inspection.photos)} identities")
    if inspection.norms:
        photos = np.array(list(inspection.photos.values()))
        print(f"photos per identity: {photos.min()} to {photos.max()}, mean {photos.mean():.1f}")
        low, middle, high = np.percentile(inspection.norms, (1, 50, 99))
        print(f"feature norms: 1 % below {low:.1f}, median {middle:.1f}, 1 % above {high:.1f}")
        with output_file(output) as target:
            target.write_bytes(encode_jpeg(contact_sheet(list(inspection.sheet.values())), 90))
        print(f"contact sheet: {output}")
    for line in inspection.broken:
        print(f"broken {line}")
    print(f"{len(inspection.broken)} broken records")


if __name__ == "__main__":
    main()
