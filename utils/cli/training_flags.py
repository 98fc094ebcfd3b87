"""The flags that the trainings of generators share."""

from argparse import ArgumentParser, BooleanOptionalAction
from argparse import _ArgumentGroup as Group
from collections.abc import Mapping, Sequence

from utils.cli.flags import positive
from utils.data.training_data import AUGMENTATIONS, SCORED

MASK_RATIOS = {  # ending of the flag: its meaning
    "min": "smallest mask rate, and fraction of dropped rows",
    "max": "largest mask rate",
    "mu": "mean of the mask rate's normal distribution before truncation",
    "std": "standard deviation of the mask rate's normal distribution before truncation",
}


def add_record_flags(data: Group, augmentation: str, meaning: str) -> None:
    """Which records are trained on and scored. ``augmentation``: the default; ``meaning``: help text of the flag."""
    data.add_argument(
        "--train_source", "--data", required=True, help="training LMDB, made by scripts/prepare_training_set.py"
    )
    data.add_argument("--mask", help=".npy file of the positions of the records to train on (default: all)")
    data.add_argument("--held_out", help=f".npy file of positions of other records; up to {SCORED} of them are scored")
    data.add_argument("--score_every", type=positive, help="steps between scores of --held_out (default: an epoch)")
    data.add_argument("--augmentation", choices=AUGMENTATIONS, default=augmentation, help=meaning)
    data.add_argument("--rep_dim", type=positive, default=512, help="length of the FR features")


def add_reading_flags(data: Group) -> None:
    """How records are read."""
    data.add_argument("--workers", type=int, default=4, help="number of processes that read and decode records")
    data.add_argument(
        "--pin_memory", action=BooleanOptionalAction, default=True, help="pinned memory for copies to the GPU"
    )
    data.add_argument("--max_bad_records", type=int, default=100, help="largest number of broken records to skip")


def add_loss_network_flags(model: Group) -> None:
    """The frozen networks of the loss."""
    model.add_argument(
        "--id_weights", default="weights/arcface-r100-glint360k.pth", help="face encoder that computed the FR features"
    )
    model.add_argument(
        "--lpips_weights",
        default="weights/vgg16.pth",
        help="network of the perceptual loss: the file of torchvision's VGG16 for LPIPS, `efficientnet_lite0` (with "
        "ImageNet weights, from the extra train-demo), `encoder` (the first maps of --id_weights) or `none`",
    )


def add_mask_ratio_flags(model: Group, defaults: Sequence[float] | Mapping[str, Sequence[float]]) -> None:
    """The distribution of mask rates.

    ``defaults``: min, max, mu and std; or {what they are for: these four}, of which the script chooses where a flag is
    None.
    """
    for number, (name, meaning) in enumerate(MASK_RATIOS.items()):
        if isinstance(defaults, Mapping):
            listed = ", ".join(f"{rates[number]:g} for {kind}" for kind, rates in defaults.items())
            model.add_argument(f"--mask_ratio_{name}", type=float, help=f"{meaning} (default: {listed})")
        else:
            model.add_argument(f"--mask_ratio_{name}", type=float, default=defaults[number], help=meaning)


def add_length_flags(parser: ArgumentParser, epochs: int) -> None:
    """Batches and epochs. ``epochs``: the default."""
    length = parser.add_argument_group("batches and epochs")
    length.add_argument("--batch_size", type=positive, default=64, help="number of images per batch and process")
    length.add_argument("--accum_iter", type=positive, default=1, help="number of batches per update of the weights")
    length.add_argument("--epochs", type=positive, default=epochs, help="number of passes over the data")
    length.add_argument("--max_steps", type=positive, help="largest number of batches (default: that of --epochs)")
