"""Train UIFace's UNet: predict the noise in latents of faces from their FR features (Lin et al., ICLR 2025).

    torchrun --nproc_per_node=8 uiface.py --train_source lmdb_dataset/faces.lmdb --autoencoder vq/model.pth \\
        --batch_size 64 --output_dir workspace/uiface

The training LMDB is that of vec2face.py, of which the FR features are the contexts. The autoencoder is one of
scripts/train_autoencoder.py, or the released pair of encoder and decoder. The result is OUTPUT_DIR/model.pth, with the
averaged weights, for uiface_image_generation.py. On a CPU: --model uiface_tiny. To resume a run that was killed, or
stopped with Ctrl-C, which saves a checkpoint first, add --resume OUTPUT_DIR to the same command.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from utils.cli.command import command  # first, as it makes settings that must precede torch

import torch
import torch.nn as nn
import torch.nn.functional as F

from models.pixels import to_images
from models.transfer import upload
from models.uiface import PRESETS, Autoencoder, UNet
from models.uiface.schedule import TIMESTEPS, add_noise
from models.uiface.weights import MODEL_KEY, about_unet
from models.weight_files import save_file, sha256
from utils.cli.flags import Parser, make_parser, not_negative, positive
from utils.cli.network_training import (
    OpenedTraining,
    add_network_training_flags,
    opened_training,
    run_training,
    state_of,
)
from utils.cli.uiface_flags import add_autoencoder_flag, autoencoder_of
from utils.data.training_data import TrainingItem, evenly_spread
from utils.evaluation.diffusion import score_unet
from utils.training.schedules import cosine_restarts

EMA = 0.999
EPOCHS = 940  # 900,000 updates of 512 of CASIA-WebFace's 490,000 photos
PICTURES = "held out, photos over two samples of each identity"


def unet_parser() -> Parser:
    parser = make_parser(__doc__)
    model = parser.add_argument_group("models")
    model.add_argument("--model", choices=list(PRESETS), default="uiface", help="preset of the UNet")
    add_autoencoder_flag(model)
    add_network_training_flags(parser, ema=EMA, lr=1e-4, epochs=EPOCHS, output_dir="./uiface")
    schedule = parser.add_argument_group("learning rate and sheets")
    schedule.add_argument(
        "--restart_steps", type=positive, default=10_000, help="updates before the learning rate's first restart"
    )
    schedule.add_argument(
        "--restart_factor", type=positive, default=2, help="length of a period, as a multiple of the one before it"
    )
    schedule.add_argument(
        "--sheet_steps", type=not_negative, default=20,
        help="sampling steps of the samples that are drawn with each score of --held_out; 0: no samples",
    )  # fmt: skip
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = unet_parser().parse_args(argv)
    with opened_training(args) as training:
        architecture, device = PRESETS[args.model], training.device
        autoencoder = autoencoder_of(args.autoencoder, architecture, device, training.precision.dtype)
        torch.manual_seed(args.seed)
        net = UNet(architecture).to(device, memory_format=torch.channels_last)
        about = about_unet(architecture, trained_on(training), sha256(args.autoencoder[-1]))
        state = state_of(args, training, MODEL_KEY, net, about | {"model": args.model})

        def score() -> tuple[dict, list]:
            indices = evenly_spread(training.held_out)
            return score_unet(
                state.network_to_score(), autoencoder, training.held_out, indices, args.batch_size, args.sheet_steps
            )

        run_training(
            args, training, state, noise_loss(autoencoder, architecture.latent_side, device), score,
            lambda path: save_file(state.about | {MODEL_KEY: state.network_to_score().state_dict()}, path),
            learning_rate=partial(
                cosine_restarts, highest=args.lr, first=args.restart_steps, factor=args.restart_factor
            ),
            shown=("total",), pictures=PICTURES, script=__file__, argv=argv,
        )  # fmt: skip


def noise_loss(
    autoencoder: Autoencoder, side: int, device: torch.device
) -> Callable[[nn.Module, TrainingItem], dict[str, torch.Tensor]]:
    """The loss of a batch: the mean squared error of the predicted noise (Ho et al., 2020).

    In training mode the network itself drops elements of the contexts, and gives some samples the empty one.
    """

    def losses_of(net: nn.Module, batch: TrainingItem) -> dict[str, torch.Tensor]:
        faces, context = to_images(upload(batch.pixels, device)), F.normalize(upload(batch.vector, device))
        # faces: (B, 3, 112, 112) in [-1, 1], context: (B, 512)
        with torch.no_grad():
            latents = autoencoder.encode_faces(faces, side)  # (B, 3, side, side)
        t = upload(torch.randint(TIMESTEPS, (len(faces),)), device)  # (B,), drawn on the CPU: the same for all devices
        noise = upload(torch.randn(latents.shape), device)  # (B, 3, side, side)
        predicted = net(add_noise(latents, noise, t), t, context).noise
        return {"total": F.mse_loss(predicted, noise)}

    return losses_of


def trained_on(training: OpenedTraining) -> dict[str, Any] | None:
    """What the UNet's file says of its training vectors, if the LMDB says of which face encoder they are."""
    if not training.data.encoder:
        return None
    norm, spread = training.data.feature_norms()
    return {"encoder_sha256": training.data.encoder, "feature_norm": norm, "feature_norm_std": spread}


if __name__ == "__main__":
    main()
