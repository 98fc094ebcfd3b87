"""Look into a training LMDB: how many, whose, how long the features are, and whether every record is whole.

    python scripts/inspect_dataset.py lmdb_dataset/faces.lmdb

Prints a summary, lists every broken record, and writes a contact sheet beside the LMDB. Exit code 1 when a
record is broken.
"""

from collections import Counter

from utils.cli.command import command

import msgpack
import numpy as np
from tqdm import tqdm

from utils.cli.flags import make_parser, positive
from utils.cli.outputs import output_file, refuse_existing, report_folder
from utils.data.images import CONTACT_SHEET, contact_sheet, encode_jpeg
from utils.data.training_lmdb import decode_record, open_lmdb

SHEET_ROWS, SHEET_COLUMNS = 8, 10


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("lmdb", help="training LMDB")
    parser.add_argument("--rep_dim", type=positive, default=512, help="length of a feature")
    parser.add_argument("--sheet", help="picture to write (default: NAME.report/contact_sheet.jpg beside NAME.lmdb)")
    parser.add_argument("--overwrite", action="store_true", help="replace a picture that --sheet names")
    args = parser.parse_args(argv)
    if args.sheet:
        refuse_existing(args.sheet, overwrite=args.overwrite)
    else:
        args.sheet = report_folder(args.lmdb) / CONTACT_SHEET
    env = open_lmdb(args.lmdb)
    with env, env.begin(buffers=True) as transaction:
        count, classes = (number(transaction, key) for key in (b"__len__", b"__classnum__"))
        photos, norms, sheet, broken = Counter(), [], {}, []
        for position in tqdm(range(count), unit="im"):
            try:
                image, feature, label = decode_record(
                    bytes(transaction.get(str(position).encode()) or b""), args.rep_dim
                )
                if not 0 <= label < classes:
                    raise ValueError(f"label {label}, there are {classes} people")
            except ValueError as error:
                broken.append(f"record {position}: {error}")
                continue
            photos[label] += 1
            norms.append(float(np.linalg.norm(feature)))
            if (label in sheet or len(sheet) < SHEET_ROWS) and len(sheet.setdefault(label, [])) < SHEET_COLUMNS:
                sheet[label].append(image)
    report(args, count, photos, norms, sheet, broken)
    if broken:
        raise SystemExit(1)


def number(transaction, key):
    data = transaction.get(key)
    return msgpack.unpackb(data) if data else 0


def report(args, count, photos, norms, sheet, broken):
    print(f"{args.lmdb}: {count} records, {len(photos)} people")
    if norms:
        per_person = np.array(list(photos.values()))
        print(f"photos a person: {per_person.min()} to {per_person.max()}, mean {per_person.mean():.1f}")
        low, middle, high = np.percentile(norms, (1, 50, 99))
        print(f"feature norms: 1 % below {low:.1f}, median {middle:.1f}, 1 % above {high:.1f}")
        with output_file(args.sheet) as target:
            target.write_bytes(encode_jpeg(contact_sheet(list(sheet.values())), 90))
        print(f"contact sheet: {args.sheet}")
    for line in broken:
        print(f"broken {line}")
    print(f"{len(broken)} broken records")


if __name__ == "__main__":
    main()
