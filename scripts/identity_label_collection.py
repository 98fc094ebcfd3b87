"""Number the identities of a list of photos: one label per line, in the sorted order of the photos.

    python scripts/identity_label_collection.py -im tests/photos -d . -n demo

An identity is a folder; numbers follow the sorted order. Writes DEST/NAME_labels.txt, which prepare_training_set.py
reads.
"""

from pathlib import Path

from utils.cli.command import command

from utils.cli.flags import folder_name, make_parser
from utils.cli.outputs import output_file
from utils.data.images import list_images


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--image_path", "-im", required=True, help="folder of identity/photo, or .txt of paths")
    parser.add_argument("--destination", "-d", default=".", help="folder to write into")
    parser.add_argument(
        "--name", "-n", type=folder_name, required=True, help="first part of the name of the output file"
    )
    args = parser.parse_args(argv)
    identities = [path.parent.name for path in list_images(args.image_path)]
    labels = {name: label for label, name in enumerate(dict.fromkeys(identities))}
    with output_file(Path(args.destination) / f"{args.name}_labels.txt") as target:
        target.write_text("".join(f"{labels[name]}\n" for name in identities))
    print(f"{target}: {len(identities)} photos of {len(labels)} identities")


if __name__ == "__main__":
    main()
