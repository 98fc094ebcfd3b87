"""Fetch the released files from the Hugging Face Hub into the folders where the other scripts look for them.

python download_vec2face_weights.py                     what generation needs
python download_vec2face_weights.py --what training fr  other groups
python download_vec2face_weights.py --list              what there is, and what for
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from utils.cli.command import command  # first, as it makes settings that must precede torch

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import logging

from models.errors import UserError
from utils.cli.flags import make_parser

REPOSITORY = "BooBooWu/Vec2Face"  # a model repository and a dataset repository of the same name
PLUS = "BooBooWu/Vec2Face_plus"  # the model repository of Vec2Face+


class Group(NamedTuple):
    """Files of a ``repository`` that belong together; ``repository_type``: "model" or "dataset"."""

    purpose: str
    files: list[str]
    repository_type: str = "model"
    repository: str = REPOSITORY


GROUPS = {
    "generation": Group(
        "generator, face encoder, quality and pose models, example identity vectors: all the generation scripts need",
        [
            "weights/vec2face_generator.pth",
            "weights/arcface-r100-glint360k.pth",
            "weights/magface-r100-glint360k.pth",
            "weights/6DRepNet_300W_LP_AFLW2000.pth",
            "center_feature_examples.npy",
        ],
    ),
    "fr": Group(
        "face-recognition models trained on the HSFace datasets",
        [f"fr_weights/hsface{size}.pth" for size in ("10k", "20k", "100k", "200k", "300k")],
    ),
    "training": Group(
        "WebFace4M photos with their features, and the mask of the published run: to train a generator",
        ["lmdb_dataset/WebFace4M/WebFace4M.lmdb", "lmdb_dataset/WebFace4M/50000_ids_1022444_ims.npy"],
    ),
    "hsface": Group(
        "the generated datasets HSFace10K and 20K, to train face recognition, and the masks of HSFace100K and 200K: "
        "positions in HSFace300K, which is not on the Hub",
        [f"HSFaces/hsface{size}.lmdb" for size in ("10k", "20k")]
        + [f"HSFaces/hsface{size}_mask.npy" for size in ("100k", "200k")],
        repository_type="dataset",
    ),
    "vec2face_plus": Group(
        "Vec2Face+: the generator trained without a GAN, and the one that landmarks control, for pose_control.py",
        ["vec2face_plus/main_model.pth", "vec2face_plus/pose_model.pth"],
        repository=PLUS,
    ),
    "vface": Group(
        "the generated datasets VFace10K, 20K and 100K, to train face recognition, and FR models trained on the "
        "VFace datasets",
        [f"VFaces/vface{size}.lmdb" for size in ("10k", "20k", "100k")]
        + [f"fr_weights/vface{size}.pth" for size in ("10k", "20k", "100k", "300k")],
        repository=PLUS,
    ),
}


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--what", nargs="+", choices=list(GROUPS), default=["generation"], help="groups to fetch")
    parser.add_argument("--list", action="store_true", help="show the groups and fetch nothing")
    parser.add_argument("--output_dir", default=".", help="folder the files are put under")
    args = parser.parse_args(argv)
    if args.list:
        print("\n".join(describe_groups()))
        return
    logging.set_verbosity_error()
    requested = [(GROUPS[name], file) for name in args.what for file in GROUPS[name].files]
    failures = list(fetch(requested, args.output_dir))
    if failures:
        raise UserError("\n".join(["not everything could be fetched.", *failures]))


def describe_groups() -> Iterator[str]:
    """Lines that list the groups and their files."""
    for name, group in GROUPS.items():
        yield f"{name}: {group.purpose}"
        yield from (f"    {file}" for file in group.files)


def fetch(requested: list[tuple[Group, str]], folder: Path | str) -> Iterator[str]:
    """Download missing or incomplete files, given as (group, file); yields a message for every failure."""
    offline = not hub_answers(*requested[0])
    for group, file in requested:
        repository, repository_type = group.repository, group.repository_type
        target = Path(folder) / file
        try:
            print(f"{target} ...", flush=True)
            hf_hub_download(repository, file, repo_type=repository_type, local_dir=folder, local_files_only=offline)
        except Exception as error:  # the library raises errors of its HTTP client as well as its own
            offline |= isinstance(error, LocalEntryNotFoundError)  # later files need not wait for the Hub
            reason = "the Hub cannot be reached" if offline else " ".join(str(error).split())[:200]
            url = hf_hub_url(repository, file, repo_type=repository_type)
            yield f"{file}: {reason or type(error).__name__}. Fetch {url} by hand and put it at {target}."


def hub_answers(group: Group, file: str) -> bool:
    """Whether the Hub can be reached. Without this test the library would retry silently for half a minute."""
    try:
        get_hf_file_metadata(hf_hub_url(group.repository, file, repo_type=group.repository_type))
    except HfHubHTTPError:
        pass  # the Hub has answered, although it refuses the file
    except Exception:  # any error of the HTTP client
        return False
    return True


if __name__ == "__main__":
    main()
