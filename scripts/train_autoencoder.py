"""Train the VQ autoencoder of UIFace's latents (diffusers' VQModel) on the photos of a training LMDB.

    torchrun --nproc_per_node=4 scripts/train_autoencoder.py --data lmdb_dataset/faces.lmdb --output_dir vq
    python scripts/train_autoencoder.py --data faces.lmdb --model uiface_tiny --lpips_weights encoder \\
        --lpips_weight 0.1 --output_dir vq

The loss is the mean absolute error + LPIPS + the codebook loss, without a GAN. The result is OUTPUT_DIR/model.pth, with
latents of unit variance, for --autoencoder of uiface.py and uiface_image_generation.py. To resume a run that was
killed, or stopped with Ctrl-C, which saves a checkpoint first, add --resume OUTPUT_DIR to the same command.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from utils.cli.command import command

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from models.iresnet import load_face_encoder
from models.perceptual import load_perceptual
from models.pixels import to_images
from models.transfer import upload
from models.uiface import AUTOENCODER_PRESETS, PRESETS, Autoencoder, save_uiface_vq
from models.uiface.autoencoder import resized
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import Parser, make_parser
from utils.cli.network_training import (
    OpenedTraining,
    add_network_training_flags,
    opened_training,
    run_training,
    state_of,
)
from utils.cli.training_flags import add_loss_network_flags
from utils.data.training_data import TrainingItem, evenly_spread
from utils.evaluation.autoencoding import score_autoencoder
from utils.training.network_state import NetworkState
from utils.training.schedules import by_update, warmup_then_cosine

KEY = "model_vq"  # of the weights in a checkpoint
STANDARDISED_ON = 256  # photos from which the codebook begins, and whose latents get unit variance
PICTURES = "held out, photos over reconstructions"


def autoencoder_parser() -> Parser:
    parser = make_parser(__doc__)
    model = parser.add_argument_group("models")
    model.add_argument(
        "--model", choices=list(AUTOENCODER_PRESETS), default="uiface", help="preset, that of the UNet to come"
    )
    add_loss_network_flags(model)
    model.add_argument("--lpips_weight", type=float, default=1.0, help="weight of the perceptual loss term")
    model.add_argument("--codebook_weight", type=float, default=1.0, help="weight of the codebook loss term")
    add_network_training_flags(parser, ema=0.0, lr=2e-4, epochs=20, output_dir="./autoencoder")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = autoencoder_parser().parse_args(argv)
    with_encoder = args.lpips_weights == "encoder"
    use_demo_weights(args, unused=[] if with_encoder else ["id_weights"])
    with opened_training(args) as training:
        device, dtype, latent_side = training.device, training.precision.dtype, PRESETS[args.model].latent_side
        encoder = load_face_encoder(args.id_weights, device, dtype) if with_encoder else None
        perceptual = load_perceptual(args.lpips_weights, encoder)
        perceptual = perceptual and perceptual.to(device)
        torch.manual_seed(args.seed)
        autoencoder = Autoencoder(AUTOENCODER_PRESETS[args.model]).to(device, memory_format=torch.channels_last)
        side = latent_side * autoencoder.sizes.shrinkage
        photos = first_photos(training, side)
        autoencoder.begin_codebook(photos)
        state = state_of(args, training, KEY, autoencoder, {"model": args.model})
        weights = {"lpips": args.lpips_weight, "codebook": args.codebook_weight}

        def score() -> tuple[dict, list]:
            indices = evenly_spread(training.held_out)
            return score_autoencoder(state.network_to_score(), training.held_out, indices, args.batch_size, latent_side)

        half_cosine = partial(warmup_then_cosine, highest=args.lr, lowest=0.0, warmup_epochs=0, epochs=args.epochs)
        run_training(
            args, training, state, reconstruction_loss(perceptual, weights, side, device), score,
            lambda path: write_result(state, photos, path),
            learning_rate=by_update(half_cosine, training.steps_per_epoch // args.accum_iter),
            shown=("total", "pixel", "lpips", "codebook"), pictures=PICTURES, script=__file__, argv=argv,
        )  # fmt: skip


def reconstruction_loss(
    perceptual: nn.Module | None, weights: dict[str, float], side: int, device: torch.device
) -> Callable[[nn.Module, TrainingItem], dict[str, torch.Tensor]]:
    """The loss of a batch, of images resized to ``side`` pixels. ``weights``: of the terms "lpips" and "codebook"."""

    def losses_of(autoencoder: nn.Module, batch: TrainingItem) -> dict[str, torch.Tensor]:
        real = resized(to_images(upload(batch.pixels, device)), side)  # (B, 3, side, side)
        fake, codebook = autoencoder(real)
        terms = {"pixel": F.l1_loss(fake, real), "codebook": codebook}
        if perceptual is not None:
            terms["lpips"] = perceptual(fake, real).mean()
        return terms | {"total": sum(weights.get(name, 1.0) * value for name, value in terms.items())}

    return losses_of


def first_photos(training: OpenedTraining, side: int) -> torch.Tensor:
    """Photos (P, 3, side, side) that are spread evenly over the training records, without broken ones."""
    indices = np.linspace(0, len(training.data) - 1, min(STANDARDISED_ON, len(training.data))).astype(int)
    items = [training.data[0, int(index)] for index in indices]
    training.data.close()  # each process that reads opens it itself
    pixels = torch.stack([item.pixels for item in items if not item.error])  # (P, 112, 112, 3)
    return resized(to_images(upload(pixels, training.device)), side)  # (P, 3, side, side)


def write_result(state: NetworkState, photos: torch.Tensor, path: Path) -> None:
    """Write the trained autoencoder, with latents of unit variance, as the released ones have."""
    autoencoder = state.network_to_score()
    autoencoder.standardise(photos)
    save_uiface_vq(autoencoder, path)


if __name__ == "__main__":
    main()
