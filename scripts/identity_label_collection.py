"""Number the people of a list of photos: one label a line, in the sorted order of the photos.

    python scripts/identity_label_collection.py -im tests/photos -d . -n demo

A person is a folder; numbers run in sorted order. Writes DEST/NAME_labels.txt, as prepare_training_set.py takes it.
"""

from pathlib import Path

from utils.cli.command import command

from utils.cli.flags import folder_name, make_parser
from utils.cli.outputs import output_file
from utils.data.images import list_images


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--image_path", "-im", required=True, help="folder of person/photo, or a .txt of paths")
    parser.add_argument("--destination", "-d", default=".", help="folder to write into")
    parser.add_argument("--name", "-n", type=folder_name, required=True, help="begins the name of the file")
    args = parser.parse_args(argv)
    people = [path.parent.name for path in list_images(args.image_path)]
    numbers = {}
    for person in people:
        numbers.setdefault(person, len(numbers))
    with output_file(Path(args.destination) / f"{args.name}_labels.txt") as target:
        target.write_text("".join(f"{numbers[person]}\n" for person in people))
    print(f"{target}: {len(people)} photos of {len(numbers)} people")


if __name__ == "__main__":
    main()
