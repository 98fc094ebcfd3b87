"""Extract the FR features of photos.

    python scripts/extract_features.py --images tests/photos --encoder weights/demo/face_encoder.pth -d features

Writes DEST/person/photo.npy for every photo, or with --one_file DEST/features.npy, an array (photos, 512), and
DEST/features.txt, the photo of each row.
"""

from pathlib import Path

from utils.cli.command import command

import numpy as np
from tqdm import tqdm

from models.errors import UserError
from models.iresnet import load_face_encoder
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import make_parser, positive
from utils.cli.model_flags import add_device_flags, add_workers_flag, set_up_inference
from utils.generation.photo_source import PhotoSource


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument(
        "--images", required=True, help="a folder (searched recursively), a .txt of paths, or one photo"
    )
    parser.add_argument("--encoder", default="weights/arcface-r100-glint360k.pth", help="face encoder")
    parser.add_argument("--align", action="store_true", help="raw photos: find the face and warp it first")
    parser.add_argument("--one_file", action="store_true", help="one array and its index instead of a file a photo")
    parser.add_argument("--batch_size", type=positive, default=64, help="photos at a time")
    add_workers_flag(parser)
    parser.add_argument("--dest", "-d", required=True, help="folder to write into")
    add_device_flags(parser)
    args = parser.parse_args(argv)
    use_demo_weights(args)
    device, precision = set_up_inference(args)
    encoder = load_face_encoder(args.encoder, device, precision.dtype)
    source = PhotoSource(args.images, encoder, None, args.batch_size, args.align, args.workers)
    for warning in source.warnings:
        print(f"warning: {warning}")
    save = save_array if args.one_file else save_each
    try:
        with tqdm(source.identities(source.slice), total=len(source.photos), unit="im") as found:
            count = save(Path(args.dest), ((source.photos[identity.number], identity.vector) for identity in found))
    except OSError as error:
        raise UserError(f"{args.dest}: cannot write: {error.strerror}.") from error
    for line in source.skipped:
        print(f"skipped {line}")
    if not count:
        raise UserError(f"{args.images}: none of the images could be used.")
    print(f"{args.dest}: features of {count} photos, computed in {precision.name}")


def save_each(folder, features):
    """One file a photo, in the folder of its person; how many."""
    count = 0
    for path, feature in features:
        target = folder / path.parent.name / f"{path.stem}.npy"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, feature)
        count += 1
    return count


def save_array(folder, features):
    """One array (photos, 512) and a list of the photos; how many."""
    paths, rows = zip(*features, strict=True) if (features := list(features)) else ([], [])
    folder.mkdir(parents=True, exist_ok=True)
    if rows:
        np.save(folder / "features.npy", np.stack(rows))
        (folder / "features.txt").write_text("".join(f"{path}\n" for path in paths))
    return len(rows)


if __name__ == "__main__":
    main()
