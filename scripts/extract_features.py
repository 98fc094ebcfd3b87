"""Extract the FR features of photos.

    python scripts/extract_features.py --data tests/photos --id_weights weights/demo/face_encoder.pth --output features

Writes OUTPUT/identity/photo.npy for every photo, or with --one_file OUTPUT/features.npy, an array (photos, 512), and
OUTPUT/features.txt, the path of the photo of each row.
"""

from collections.abc import Iterable
from pathlib import Path

from utils.cli.command import command

import numpy as np
from tqdm.auto import tqdm

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
        "--data", "--images", required=True, help="folder of photos (searched recursively), .txt of paths, or one photo"
    )
    parser.add_argument(
        "--id_weights", "--encoder", default="weights/arcface-r100-glint360k.pth", help="weights of the face encoder"
    )
    parser.add_argument(
        "--align", action="store_true", help="detection and alignment of the face, for photos that are no aligned crops"
    )
    parser.add_argument(
        "--one_file", action="store_true", help="one array and a list of paths in place of one file per photo"
    )
    parser.add_argument("--batch_size", type=positive, default=64, help="number of photos in a batch")
    add_workers_flag(parser)
    parser.add_argument("--output", "--dest", "-d", required=True, help="folder to write into")
    parser.add_argument("--overwrite", action="store_true", help="replacement of features that the folder holds")
    add_device_flags(parser)
    args = parser.parse_args(argv)
    if not args.overwrite and next(Path(args.output).rglob("*.npy"), None) is not None:
        raise UserError(
            f"{args.output}: holds features already, perhaps of other photos or another encoder; give --overwrite to "
            "replace them, or another --output."
        )
    use_demo_weights(args)
    device, precision = set_up_inference(args)
    encoder = load_face_encoder(args.id_weights, device, precision.dtype)
    source = PhotoSource(args.data, encoder, None, args.batch_size, args.align, args.workers)
    count = extract(source, Path(args.output), args.one_file)
    print(f"{args.output}: features of {count} photos, computed in {precision.name}")


def extract(source: PhotoSource, output: Path, one_file: bool = False) -> int:
    """Write the feature of each photo of ``source`` into a folder; the number of photos.

    Prints warnings and the photos that were skipped. Raises UserError when the folder cannot be written or none of the
    photos can be used.
    """
    for warning in source.warnings:
        print(f"warning: {warning}")
    save = save_array if one_file else save_each
    try:
        with tqdm(source.identities(source.slice), total=len(source.photos), unit="im") as identities:
            count = save(output, ((source.photos[identity.number], identity.vector) for identity in identities))
    except OSError as error:
        raise UserError(f"{output}: cannot write: {error.strerror}.") from error
    for line in source.skipped:
        print(f"skipped {line}")
    if not count:
        raise UserError(f"{source.source}: none of the images could be used.")
    return count


def save_each(folder: Path, features: Iterable[tuple[Path, np.ndarray]]) -> int:
    """Write one file per (path of a photo, feature), in the folder of its identity; the number of files."""
    count = 0
    for path, feature in features:
        target = folder / path.parent.name / f"{path.stem}.npy"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, feature)
        count += 1
    return count


def save_array(folder: Path, features: Iterable[tuple[Path, np.ndarray]]) -> int:
    """Write one array (photos, 512) and the list of the photos; the number of rows."""
    paths, rows = zip(*features, strict=True) if (features := list(features)) else ([], [])
    folder.mkdir(parents=True, exist_ok=True)
    if rows:
        np.save(folder / "features.npy", np.stack(rows))
        (folder / "features.txt").write_text("".join(f"{path}\n" for path in paths))
    return len(rows)


if __name__ == "__main__":
    main()
