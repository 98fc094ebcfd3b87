"""The flags of the name, the number and the variation of the images, and the Recipe that they stand for."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from models.errors import UserError
from models.masking import MaskRates
from utils.cli.flags import finite, folder_name, noise_level, not_negative, open_fraction, positive
from utils.cli.gate_flags import EXAMPLE
from utils.dataset.layout import ABOUT_SUFFIX
from utils.generation.landmark_choice import LandmarkChoice
from utils.generation.recipe import Recipe

LOWER_BOUND = 0.6  # IDperturb's best


def add_recipe_flags(
    parser: ArgumentParser, sigmas: tuple[float, ...], by_control: str = "", masks: bool = True
) -> None:
    """Name, number and variation of the images. ``sigmas``: the default noise levels; ``masks``: flags of mask rates.

    ``by_control``: a note for the help texts of a script whose defaults depend on other flags: they are then None, and
    ``fill_in`` sets them.
    """
    group = parser.add_argument_group("images")
    group.add_argument("--name", type=dataset_name, required=True, help="name of the dataset")
    group.add_argument("--example", type=positive, default=EXAMPLE, help="number of images per identity")
    group.add_argument(
        "--seed", "--noise_seed", type=not_negative, default=0,
        help="seed of all random draws, together with the numbers of the identity and the image",
    )  # fmt: skip
    group.add_argument(
        "--noise", choices=["gaussian", "cone"], default="gaussian",
        help="noise on the identity vector: Gaussian, or uniform cosines down to --lower_bound, never nearer to "
        "another identity",
    )  # fmt: skip
    group.add_argument(
        "--lower_bound", type=open_fraction,
        help=f"smallest cosine to the identity vector with --noise cone (default: {LOWER_BOUND})",
    )  # fmt: skip
    parser.set_defaults(default_sigmas=tuple(sigmas))
    rates = MaskRates()
    for name, kind, default, meaning in (
        ("sigma", noise_level, list(sigmas), "standard deviations of Gaussian noise on each dimension; every block of "
         "as many images uses each once, in random order"),
        ("mask_ratio_min", finite, rates.minimum, "lowest mask rate, and share of dropped rows"),
        ("mask_ratio_max", finite, rates.maximum, "highest mask rate"),
        ("mask_ratio_mu", finite, rates.mu, "centre of the mask rate's truncated normal distribution"),
        ("mask_ratio_std", finite, rates.std, "standard deviation of that distribution"),
    )[: None if masks else 1]:  # fmt: skip
        note = f" (default: {default}; {by_control})" if by_control else ""
        group.add_argument(
            f"--{name}", type=kind, nargs="+" if name == "sigma" else None, default=None if by_control else default,
            help=meaning + note,
        )  # fmt: skip


def dataset_name(text: str) -> str:
    """argparse type: a plain folder name, and not one of a folder that lies beside a dataset."""
    name = folder_name(text)
    if name.endswith(ABOUT_SUFFIX):
        raise ArgumentTypeError(f"must not end in {ABOUT_SUFFIX}, as the folder beside a dataset does")
    return name


def fill_in(args: Namespace, sigmas: tuple[float, ...], rates: MaskRates) -> None:
    """Set the flags of ``add_recipe_flags`` that were not given to these defaults, in place."""
    args.default_sigmas = tuple(sigmas)
    defaults = {"sigma": list(sigmas), "mask_ratio_min": rates.minimum, "mask_ratio_max": rates.maximum}
    defaults |= {"mask_ratio_mu": rates.mu, "mask_ratio_std": rates.std}
    for name, default in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, default)


def recipe_of(args: Namespace, landmarks: LandmarkChoice | None = None) -> Recipe:
    """The Recipe that the flags ask for. Raises UserError for flags that do not fit together.

    ``landmarks``: the choice of landmarks, for a generator that they control.
    """
    rates = mask_rates_of(args) if hasattr(args, "mask_ratio_min") else None
    if args.noise == "gaussian":
        if args.lower_bound is not None:
            raise UserError("--lower_bound: belongs to --noise cone.")
        return Recipe(args.example, tuple(args.sigma), args.seed, rates, landmarks=landmarks)
    if tuple(args.sigma) != args.default_sigmas:
        raise UserError("--sigma: belongs to --noise gaussian; the cone is as wide as --lower_bound says.")
    lower_bound = LOWER_BOUND if args.lower_bound is None else args.lower_bound
    return Recipe(args.example, (), args.seed, rates, lower_bound, landmarks)


def mask_rates_of(args: Namespace) -> MaskRates:
    """The distribution of mask rates that the flags ask for. Raises UserError if there is none."""
    try:
        return MaskRates(args.mask_ratio_min, args.mask_ratio_max, args.mask_ratio_mu, args.mask_ratio_std)
    except ValueError as error:
        raise UserError(f"--mask_ratio_*: {error}.") from error
