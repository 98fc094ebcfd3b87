"""Plot when UIFace gives faces their identities: how their attention maps settle, and from which timesteps they switch.

    python scripts/plot_partition.py --model_weights workspace/uiface/model.pth --center_feature people.npy

The left panel shows d_t of each face, the mean movement of its attention map since the step before, with the median and
the threshold below which a face gets its identity. The right panel counts the faces by the timestep from which they
have it. The faces are the first images of the dataset that uiface_image_generation.py makes with these flags.
"""

from argparse import Namespace
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")  # no window system needed
from utils.cli.command import command

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from models.errors import UserError
from models.uiface import Sampling, Step, UNet, load_uiface_unet
from models.uiface.sampling import sample
from utils.cli.flags import finite, make_parser, not_negative, positive
from utils.cli.model_flags import add_device_flags, set_up_inference
from utils.cli.outputs import output_file, refuse_existing
from utils.cli.uiface_flags import USUAL, add_unet_flags
from utils.evaluation.diffusion import stacked_noise
from utils.generation.streams import image_stream
from utils.generation.vector_source import load_vectors


def parse_flags(argv: Sequence[str] | None) -> Namespace:
    parser = make_parser(__doc__)
    add_unet_flags(parser.add_argument_group("models"))
    parser.add_argument("--center_feature", required=True, help="file of identity vectors: .npy of floats, (K, 512)")
    parser.add_argument("--count", type=positive, default=32, help="number of faces, each of another identity")
    parser.add_argument("--steps", type=positive, default=USUAL.steps, help="number of sampling steps")
    parser.add_argument(
        "--threshold", type=finite, default=USUAL.threshold,
        help="largest movement of a settled attention map; 0: no face gets its identity early",
    )  # fmt: skip
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the noise, with the identity's number")
    parser.add_argument("--batch_size", type=positive, default=16, help="number of faces at a time")
    parser.add_argument("--output", default="partition.png", help="picture to write: .png, .svg or .pdf")
    parser.add_argument("--overwrite", action="store_true", help="replacement of an existing picture")
    add_device_flags(parser)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_flags(argv)
    refuse_existing(args.output, overwrite=args.overwrite)
    sampling = Sampling(args.steps, args.threshold)
    if not times_of(sampling):
        raise UserError(
            f"--steps {args.steps}: fewer than two of them lie in the first stage, so that nothing can settle."
        )
    device, precision = set_up_inference(args)
    net = load_uiface_unet(args.model_weights, device, precision.dtype, args.model)
    vectors = load_vectors(args.center_feature, net.architecture.vector_size)[: args.count]
    found = [
        trace(net, np.array(vectors[first : first + args.batch_size], np.float32), first, sampling, args.seed)
        for first in range(0, len(vectors), args.batch_size)
    ]
    distances, t0 = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))  # (T, N), (N,)
    with output_file(args.output) as target:
        try:
            draw(sampling, distances, t0).savefig(target, dpi=100)
        except ValueError as error:  # an unknown format
            raise UserError(f"--output {args.output}: {error}") from error
    early = int((t0 >= sampling.stage_step).sum())
    print(f"{args.output}: {len(t0)} faces, {early} with an early identity; median timestep {np.median(t0):g}")


def trace(net: UNet, vectors: np.ndarray, first: int, sampling: Sampling, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What the sampler does for vectors (N, 512): (d_t (T, N) of the T steps that have one, t0 (N,)).

    ``first``: the number of the first identity. t0 is the timestep from which a face has its identity.
    """
    side, steps = net.architecture.latent_side, []
    streams = [image_stream(seed, first + row, 0) for row in range(len(vectors))]
    for stream in streams:  # an image's stream begins with the noise on its vector
        stream.standard_normal(vectors.shape[1])
    device = next(net.parameters()).device
    noise = stacked_noise(streams, (net.architecture.latent_channels, side, side)).to(device)
    sample(net, noise, F.normalize(torch.from_numpy(vectors).to(device)), sampling, steps.append)
    return distances_of(steps), np.array([first_timestep(steps, row) for row in range(len(vectors))])


def distances_of(steps: Sequence[Step]) -> np.ndarray:
    """d_t (T, N) of the steps that have one, in the order of sampling."""
    return np.stack([step.distance.cpu().numpy() for step in steps if step.distance is not None])


def first_timestep(steps: Sequence[Step], row: int) -> int:
    """The first timestep in which the sample in this row had its identity."""
    return next(step.t for step in steps if step.identity[row])


def times_of(sampling: Sampling) -> list[int]:
    """The timesteps that have a d_t: those of the first stage but the first one, before which there is no map."""
    return [t for t in sampling.timesteps if t >= sampling.stage_step][1:]


def draw(sampling: Sampling, distances: np.ndarray, t0: np.ndarray) -> Figure:
    """The figure of d_t (T, N) and of t0 (N,)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    times = times_of(sampling)
    left.plot(times, distances, color="grey", alpha=0.3, linewidth=0.7)
    left.plot(times, np.median(distances, axis=1), color="black", label="median")
    left.axhline(sampling.threshold, color="tab:red", linestyle="--", label=f"threshold {sampling.threshold:g}")
    left.set(xlabel="timestep t", ylabel="d_t", title="movement of the attention map", yscale="log")
    left.legend(fontsize="small")
    values, counts = np.unique(t0, return_counts=True)
    right.bar(values, counts, width=0.8 * (sampling.timesteps[0] - sampling.timesteps[1]))
    right.set(xlabel="timestep t_0", ylabel="faces", title="from where the faces have their identity")
    for axis in (left, right):
        axis.set_xlim(1000, 0 if axis is right else sampling.stage_step)
        axis.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
