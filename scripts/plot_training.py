"""Plot the log of a training run of vec2face.py.

    python scripts/plot_training.py output_dir

The left panel shows the loss terms; the others, for a run with --held_out, the id similarity and the PSNR of the
held-out photos. A dotted line marks the step at which the GAN phase began.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window system needed
from utils.cli.command import command

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.errors import UserError
from utils.cli.flags import make_parser
from utils.cli.outputs import output_file, refuse_existing

TERMS = ("total", "pixel", "ssim", "token", "identity", "lpips", "adversarial", "discriminator")
HELD_OUT = {"held_out/id_similarity_mean": "held-out id similarity", "held_out/psnr": "held-out PSNR, dB"}


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("run", help="output folder of vec2face.py, which holds its log.jsonl")
    parser.add_argument("--output", help="picture to write: .png, .svg or .pdf (default: RUN/curves.png)")
    parser.add_argument("--overwrite", action="store_true", help="replacement of a picture that --output names")
    args = parser.parse_args(argv)
    if args.output:
        refuse_existing(args.output, overwrite=args.overwrite)
    output = args.output or Path(args.run) / "curves.png"
    lines = read_log(Path(args.run) / "log.jsonl")
    figure = draw(lines)
    with output_file(output) as target:
        try:
            figure.savefig(target, dpi=100)
        except ValueError as error:  # an unknown format
            raise UserError(f"--output {output}: {error}") from error
    print(f"{output}: {len(lines)} lines, to step {lines[-1]['step']}")


def read_log(path: Path) -> list[dict]:
    """The lines of a log.jsonl as dicts. Raises UserError when there are none."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not the log of a training run: {error}") from error
    if not lines:
        raise UserError(f"{path}: empty, the run has not logged anything yet.")
    return lines


def draw(lines: list[dict]) -> Figure:
    """A figure with the loss terms, and with each held-out score that was logged."""
    scores = [name for name in HELD_OUT if any(name in line for line in lines)]
    figure, axes = plt.subplots(1, 1 + len(scores), figsize=(4.5 * (1 + len(scores)), 3.4), layout="constrained")
    axes = [axes] if not scores else list(axes)
    for term in TERMS:
        curve(axes[0], lines, term, label=term)
    axes[0].legend(fontsize="small")
    for axis, name in zip(axes[1:], scores, strict=True):
        curve(axis, lines, name, marker=".")
    gan = [line["step"] for line in lines if "adversarial" in line]
    for axis, title in zip(axes, ["loss terms", *(HELD_OUT[name] for name in scores)], strict=True):
        axis.set(xlabel="step", title=title)
        axis.grid(alpha=0.3)
        if gan:
            axis.axvline(gan[0], color="grey", linestyle=":")
    return figure


def curve(axis: Axes, lines: list[dict], name: str, **style) -> None:
    """Plot the values of one name in the log over the steps."""
    points = [(line["step"], line[name]) for line in lines if name in line]
    if points:
        axis.plot(*zip(*points, strict=True), **style)


if __name__ == "__main__":
    main()
