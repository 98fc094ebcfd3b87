"""The flags of the three generation scripts."""

from argparse import ArgumentTypeError, BooleanOptionalAction

from models.masking import MaskRates
from utils.cli.flags import (
    add_flags_without_effect,
    cosine,
    finite,
    folder_name,
    jpeg_quality,
    make_parser,
    noise_level,
    not_negative,
    positive,
)
from utils.cli.model_flags import add_device_flags, add_model_flags
from utils.dataset.layout import ABOUT_SUFFIX
from utils.dataset.writer import STORES
from utils.generation.streams import SIGMAS

QUALITY_WEIGHTS = "weights/magface-r100-glint360k.pth"
FOLDERS = {"identity": "generated_images", "reference": "generated_images_ref", "pose": "generated_pose_images"}


def generation_parser(mode, description):
    """The flags of one generation script. ``mode``: a key of FOLDERS."""
    parser = make_parser(description)
    source = parser.add_argument_group("who")
    if mode == "reference":
        source.add_argument(
            "--image_file", required=True, help="a photo, a folder of photos (searched recursively), or a .txt of paths"
        )
        source.add_argument(
            "--align", action="store_true", help="raw photos: find the face and warp it to the ArcFace template first"
        )
        source.add_argument(
            "--per_person", action="store_true",
            help="one identity for each folder of photos, the mean of their features (default: one for each photo)",
        )  # fmt: skip
    else:
        source.add_argument("--center_feature", required=True, help=".npy of identity vectors, float (K, 512)")
    source.add_argument(
        "--start_end", metavar="A:B", help="only identities A to B-1; they keep their numbers (default: all)"
    )
    source.add_argument(
        "--start_class_id", type=not_negative, default=0, help="number of the first identity in the file"
    )
    source.add_argument("--rep_dim", type=int, default=512, help="length of an identity vector")

    what = parser.add_argument_group("what")
    what.add_argument("--name", type=dataset_name, required=True, help="name of the dataset")
    what.add_argument("--example", type=positive, default=50, help="images per identity")
    what.add_argument(
        "--seed", type=not_negative, default=0, help="every draw comes from it, the identity and the image number"
    )
    what.add_argument(
        "--sigma", type=noise_level, nargs="+", default=list(SIGMAS[mode]),
        help="noise levels; every stretch of as many images uses each once, in random order",
    )  # fmt: skip
    ratios = MaskRates()
    what.add_argument(
        "--mask_ratio_min", type=finite, default=ratios.minimum, help="lowest mask rate, and share of dropped rows"
    )
    what.add_argument("--mask_ratio_max", type=finite, default=ratios.maximum, help="highest mask rate")
    what.add_argument(
        "--mask_ratio_mu", type=finite, default=ratios.mu, help="centre of the mask rate's truncated normal"
    )
    what.add_argument("--mask_ratio_std", type=finite, default=ratios.std, help="its standard deviation")

    if mode == "identity":
        add_attrop_flags(parser, "the norm that a quarter of its training photos exceed")
    elif mode == "pose":
        group = add_attrop_flags(
            parser, "from their median for a yaw of 0 down to their 5 %% quantile at 90 degrees, in proportion"
        )
        group.add_argument(
            "--pose", type=finite, default=85, help="wanted yaw in degrees, to either side unless --signed_pose"
        )
        group.add_argument("--signed_pose", action="store_true", help="the yaw's sign counts")
        group.add_argument("--pitch", type=finite, help="wanted pitch in degrees (default: any)")
        group.add_argument("--pose_weights", default="weights/6DRepNet_300W_LP_AFLW2000.pth", help="head pose model")

    gates = parser.add_argument_group("gate: images that fail are drawn again")
    gates.add_argument("--min_id_similarity", type=cosine, help="lowest cosine to the identity vector")
    gates.add_argument("--min_quality", type=finite, help="lowest quality")
    gates.add_argument("--max_tries", type=positive, default=5, help="tries an image has before it is left out")
    if mode == "reference":
        gates.add_argument(
            "--quality_weights", default=QUALITY_WEIGHTS, help="quality model for --min_quality and --measure"
        )
    add_model_flags(parser)
    add_device_flags(parser, precision="auto")
    parser.add_argument(
        "--batch_size", type=positive, default=64, help="without effect on a CPU; on a GPU, images at a time"
    )
    parser.add_argument(
        "--compile", action="store_true",
        help="compilation of all models by torch.compile, which takes minutes before the first image and rounds in its "
        "own way; needs a C compiler for a GPU, a C++ compiler for a CPU",
    )  # fmt: skip
    parser.add_argument(
        "--feat_batch_size", type=positive, default=2000, help="photos at a time, at most, when features are extracted"
    )
    parser.add_argument("--workers", type=positive, default=2, help="threads that encode and write images")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output_dir", default=FOLDERS[mode], help="the dataset is made in a folder of its name in here"
    )
    output.add_argument(
        "--format", choices=list(STORES), default="folder", help="folders of JPEGs, or an LMDB for FR training"
    )
    output.add_argument("--jpeg_quality", type=jpeg_quality, default=75, help="1 to 100")
    output.add_argument(
        "--measure", action=BooleanOptionalAction,
        help="measurement of every image's id similarity and quality (and yaw and pitch in pose mode) for the manifest "
        "(default: where it costs less than a tenth of drawing the images)",
    )  # fmt: skip
    output.add_argument("--overwrite", action="store_true", help="deletion of a dataset of this name first")
    output.add_argument(
        "--migrate", action="store_true", help="conversion of a dataset that an earlier version wrote, to go on with it"
    )
    ignored = parser.add_argument_group("without effect")
    add_flags_without_effect(ignored)
    return parser


def dataset_name(text):
    """argparse type: a plain folder name, and not one of a folder that lies beside a dataset."""
    name = folder_name(text)
    if name.endswith(ABOUT_SUFFIX):
        raise ArgumentTypeError(f"must not end in {ABOUT_SUFFIX}, as the folder beside a dataset does")
    return name


def add_attrop_flags(parser, own_default):
    """``own_default``: which of the norms in an own quality model's file are asked for by default."""
    group = parser.add_argument_group("AttrOP: what an image must be like")
    group.add_argument(
        "--image_quality",
        type=finite,
        help="wanted quality, the norm of the quality model's feature (default: 27 with the released model; with one "
        f"that knows the norms of its training photos, {own_default})",
    )
    group.add_argument("--quality_weights", default=QUALITY_WEIGHTS, help="quality model")
    group.add_argument(
        "--max_iters",
        type=positive,
        default=100,
        help="an image that has not passed by then is written as it was at its best",
    )
    group.add_argument("--skip_attrop", action="store_true", help="no AttrOP: perturb and decode only")
    return group
