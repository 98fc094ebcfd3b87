"""Train a generator: reconstruct faces from their own FR features (paper section 3.2).

    torchrun --nproc_per_node=4 vec2face.py --rep_drop_prob 0.1 --use_rep --batch_size 32 \\
        --model vec2face_vit_base_patch16 --epochs 100 --disc_start 80 --warmup_epochs 5 --blr 4e-5 \\
        --output_dir workspace/pixel_generator/ --train_source ./lmdb_dataset/WebFace4M/WebFace4M.lmdb \\
        --mask lmdb_dataset/WebFace4M/50000_ids_1022444_ims.npy --accum_iter 1

On one CPU: `python vec2face.py --model vec2face_vit_tiny --lpips_weights none --train_source faces.lmdb ...`.
To resume a run that was killed, or stopped with Ctrl-C, which saves a checkpoint first, add `--resume OUTPUT_DIR` to
the same command. --resume also accepts a training checkpoint of the released code.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from utils.cli.command import command  # first, as it makes settings that must precede torch

import torch
import torch.nn as nn

from models.discriminator import Discriminator
from models.generator_file import training_vectors
from models.iresnet import load_face_encoder
from models.losses import ADVERSARIAL, WEIGHTS, GeneratorLoss, discriminator_loss
from models.masking import MaskRates
from models.perceptual import load_perceptual
from models.pixels import to_images
from models.transfer import upload
from models.vec2face import DROPOUT, PRESETS, Vec2Face
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import (
    WITHOUT_EFFECT,
    Parser,
    add_amp_flags,
    add_compile_flag,
    add_flags_without_effect,
    add_training_run_flags,
    fraction,
    make_parser,
    multiple_of,
    note_flags_without_effect,
)
from utils.cli.training_flags import (
    add_length_flags,
    add_loss_network_flags,
    add_mask_ratio_flags,
    add_reading_flags,
    add_record_flags,
)
from utils.data.loader import EpochBatches, drop_broken, make_loader
from utils.data.training_data import TrainingData, TrainingItem, evenly_spread
from utils.evaluation.reconstruction import reconstruct
from utils.training.broken_items import BrokenItems
from utils.training.finite_check import FiniteCheck, values_to_check
from utils.training.folder import LAST, check_output_folder
from utils.training.masks import draw_mask, mask_rates_of, records_of
from utils.training.optimizers import clip_and_step, set_learning_rates
from utils.training.parallel import no_sync_if, parallel
from utils.training.resuming import check_agreement, load_checkpoint, run_description
from utils.training.schedules import warmup_then_cosine
from utils.training.setup import Run, begin_run, join_training, opened_records, prepare_device, seed_step
from utils.training.state import TrainingState
from utils.training.stop import resume_command

RELEASED_DIVISOR = 112  # of the released learning-rate rule
KEEP_EVERY = 25  # epochs between the checkpoints that are never overwritten
PICTURES = "held out, originals over reconstructions"
# Terms that the console line shows where they exist.
SHOWN = ("total", "pixel", "ssim", "lpips", "token", "identity", "detail", "adversarial", "discriminator")
WEIGHT_FLAGS = {  # term of the loss: flag of its weight
    "pixel": "pixel_weight",
    "token": "token_weight",
    "identity": "identity_weight",
    "detail": "detail_weight",
    "adversarial": "disc_weight",
}
TRAINING_WITHOUT_EFFECT = [
    *WITHOUT_EFFECT,
    *((f"--{name}", {}) for name in ("world_size", "local_rank", "dist_url", "start_epoch")),
    ("--dist_on_itp", {"action": "store_true"}),
]


def training_parser() -> Parser:
    parser = make_parser(__doc__)
    data = parser.add_argument_group("data")
    add_record_flags(data, augmentation="noaug", meaning="random crop, with a random flip, or a flip alone")
    add_reading_flags(data)

    model = parser.add_argument_group("models")
    model.add_argument("--model", choices=list(PRESETS), default="vec2face_vit_base_patch16", help="generator preset")
    add_loss_network_flags(model)
    model.add_argument("--start_from", help="weight file of a generator to start from (default: random weights)")
    add_mask_ratio_flags(model, (0.5, 1.0, 0.75, 0.25))
    model.add_argument("--dropout", type=float, default=DROPOUT, help="dropout probability of the transformer blocks")
    model.add_argument(
        "--ema", type=float, default=0.0, metavar="DECAY", help="decay of averaged generator weights; 0: no average"
    )
    add_compile_flag(model, "generator")

    add_length_flags(parser, epochs=400)

    objective = parser.add_argument_group("GAN and loss")
    objective.add_argument("--disc_start", type=float, default=100, help="number of epochs before the GAN phase")
    objective.add_argument(
        "--disc_width", type=multiple_of(8), default=128, help="channels of the discriminator's first strided layer"
    )
    objective.add_argument(
        "--disc_noise", type=float, default=0.0, help="standard deviation of noise on the discriminator's input images"
    )
    for term, flag in WEIGHT_FLAGS.items():
        objective.add_argument(f"--{flag}", type=float, default=WEIGHTS[term], help=f"weight of the {term} loss term")
    objective.add_argument(
        "--adversarial",
        choices=list(ADVERSARIAL),
        default="linear",
        help="adversarial term of the generator's loss: `linear`, the negated mean logit, as released; `lsgan`, the "
        "squared distance of the logits to 1, the discriminator's target for real images",
    )

    optimiser = parser.add_argument_group("optimiser")
    optimiser.add_argument(
        "--lr", type=float, help="learning rate (default: blr * batch_size * accum_iter * processes / 112)"
    )
    optimiser.add_argument(
        "--fmae_lr",
        type=fraction,
        default=1.0,
        metavar="FRACTION",
        help="learning rate of the layers before the image decoder, as a fraction of --lr; 0: these layers are frozen",
    )
    optimiser.add_argument("--blr", type=float, default=1e-3, help="base learning rate, from which --lr is derived")
    optimiser.add_argument(
        "--min_lr", type=float, default=0.0, help="learning rate at the end of the half-cosine decay"
    )
    optimiser.add_argument("--warmup_epochs", type=float, default=40, help="number of epochs of linear warm-up from 0")
    optimiser.add_argument("--weight_decay", type=float, default=0.01, help="AdamW weight decay")
    optimiser.add_argument("--clip_grad", type=float, default=2.0, help="largest gradient norm of each network")
    optimiser.add_argument("--seed", type=int, default=0, help="random seed of weights, order, masks and augmentation")
    add_amp_flags(optimiser, "float16")

    add_training_run_flags(parser, "./output_dir")
    add_flags_without_effect(parser.add_argument_group("flags without effect"), TRAINING_WITHOUT_EFFECT)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = training_parser().parse_args(argv)
    world = join_training(args.device)
    if world.is_main:
        check_output_folder(args.output_dir, args.resume, args.overwrite)
        note_flags_without_effect(args, TRAINING_WITHOUT_EFFECT)
    use_demo_weights(args)
    check_agreement(world, vars(args))
    device, precision = prepare_device(args.device, world, args.use_amp, args.amp_dtype)

    with opened_records(args, world) as (data, held_out, batches, steps_per_epoch):
        # The training objective and its frozen networks.
        encoder = load_face_encoder(args.id_weights, device, precision.dtype)
        perceptual = load_perceptual(args.lpips_weights, encoder)
        weights = {term: getattr(args, flag) for term, flag in WEIGHT_FLAGS.items()}
        criterion = GeneratorLoss(encoder, perceptual, weights, args.adversarial).to(device)

        # The networks in training, new ones or those of a file.
        trained_on = training_vectors(args.id_weights, data.feature_norms())
        torch.manual_seed(args.seed)
        generator = Vec2Face(PRESETS[args.model], args.dropout).to(device, memory_format=torch.channels_last)
        discriminator = Discriminator(args.disc_width, args.disc_noise)
        discriminator.to(device, memory_format=torch.channels_last)
        state = TrainingState(
            args.model, generator, discriminator, precision.scaler(device), weight_decay=args.weight_decay,
            fmae_lr=args.fmae_lr, ema_decay=args.ema, settings=vars(args), trained_on=trained_on,
            run=run_description(world, [data.positions]),
        )  # fmt: skip
        notes = data.encoder_warnings(args.id_weights)
        if args.start_from:
            state.start_from(args.start_from)
            notes = [*notes, f"starting from {args.start_from}"]
        if args.resume:
            path, content = world.from_main(partial(load_checkpoint, args.resume))
            if content is not None:
                notes = [*notes, *state.resume(content, path, steps_per_epoch)]
            del content  # gigabytes
        steps = min(args.epochs * steps_per_epoch, args.max_steps or math.inf)
        state.last_step = steps // args.accum_iter * args.accum_iter

        highest_lr = args.lr
        if highest_lr is None:
            highest_lr = args.blr * args.batch_size * args.accum_iter * world.size / RELEASED_DIVISOR
        hyper = Hyperparameters(
            steps_per_epoch=steps_per_epoch, accum_iter=args.accum_iter, fmae_lr=args.fmae_lr, seed=args.seed,
            learning_rate=partial(
                warmup_then_cosine, highest=highest_lr, lowest=args.min_lr, warmup_epochs=args.warmup_epochs,
                epochs=args.epochs,
            ),
            clip_grad=args.clip_grad, disc_start=args.disc_start, score_every=args.score_every or steps_per_epoch,
            mask_rates=mask_rates_of(args.mask_ratio_min, args.mask_ratio_max, args.mask_ratio_mu, args.mask_ratio_std),
        )  # fmt: skip
        generator = parallel(generator, world, device, args.compile)
        discriminator = parallel(discriminator, world, device)
        run = begin_run(
            world, device, precision, state.step, state.last_step, SHOWN, notes,
            resume_command=resume_command(__file__, argv, args.output_dir), output_dir=args.output_dir,
            log_dir=args.log_dir, resume=args.resume, overwrite=args.overwrite, log_every=args.log_every,
            save_every=args.save_every,
        )  # fmt: skip
        run.log.check_warmup(args.warmup_epochs * steps_per_epoch, f"--warmup_epochs {args.warmup_epochs:g}")
        train(
            state, generator, discriminator, criterion, batches,
            make_loader(data, batches, args.workers, args.pin_memory and device.type == "cuda"),
            BrokenItems(args.train_source, "records", args.max_bad_records), hyper, run,
            partial(score_held_out, state, encoder, held_out, args.batch_size) if held_out else None,
        )  # fmt: skip
        run.close()


class Hyperparameters(NamedTuple):
    """Hyper-parameters of the training loop."""

    steps_per_epoch: int  # batches
    accum_iter: int  # batches per update of the weights
    learning_rate: Callable[[float], float]  # of the image decoder, by fractional epoch
    fmae_lr: float  # factor of the learning rate of the layers before the image decoder
    clip_grad: float  # largest gradient norm of each network
    disc_start: float  # epochs before the GAN phase
    mask_rates: MaskRates  # distribution of the fraction of masked rows
    seed: int
    score_every: int  # steps between scores of held-out photos


def train(
    state: TrainingState,
    generator: nn.Module,
    discriminator: nn.Module,
    criterion: GeneratorLoss,
    batches: EpochBatches,
    loader: Iterable[TrainingItem],
    broken: BrokenItems,
    hyper: Hyperparameters,
    run: Run,
    score: Callable[[], tuple] | None = None,
) -> None:
    """The training loop, from ``state.step`` to ``state.last_step`` or until the user stops it.

    ``generator``, ``discriminator``: those of ``state``, perhaps wrapped to exchange gradients between processes.
    ``loader``: iterates over the batches chosen by ``batches``. ``score``: gives ({name: score}, pictures) of held-out
    photos. Raises UserError when a value is not finite or too many records are broken.
    """
    world, device, log, stop = run.world, run.device, run.log, run.stop
    autocast, scaler, finite = partial(run.precision.autocast, device), state.scaler, FiniteCheck()
    steps_per_epoch, accum_iter, clip_grad = hyper.steps_per_epoch, hyper.accum_iter, hyper.clip_grad
    while state.step < state.last_step:
        epoch = state.step // steps_per_epoch
        batches.begin(epoch, state.step % steps_per_epoch, steps_per_epoch)
        for batch in loader:
            broken.report(batch.error)
            batch = drop_broken(batch)
            update = (state.step + 1) % accum_iter == 0
            gan = state.step >= hyper.disc_start * steps_per_epoch
            update_begins = state.step - state.step % accum_iter
            lr = hyper.learning_rate(update_begins / steps_per_epoch)

            # Photos with their FR features, and masks with a rate of their own for each image.
            real, vectors = to_images(upload(batch.pixels, device)), upload(batch.vector, device)
            # real: (B, 3, 112, 112) in [-1, 1], vectors: (B, 512)
            seed_step(hyper.seed, state.step, world)
            mask = draw_mask(hyper.mask_rates, len(real), device)

            # Generator: pixel, SSIM, LPIPS, feature-map (token) and identity terms, and in the GAN phase the
            # adversarial term, whose gradient reaches the generator but not the discriminator.
            state.discriminator.requires_grad_(False)
            with no_sync_if(not update, generator):
                with autocast():
                    output = generator(vectors, mask)
                    losses = criterion(output, real, vectors, state.discriminator if gan else None)
                scaler.scale(losses["total"] / accum_iter).backward()

            # Discriminator: least-squares loss with target 1 for patches of photos and 0 for generated ones.
            if gan:
                state.discriminator.requires_grad_(True)
                with no_sync_if(not update, discriminator):
                    with autocast():
                        logits = discriminator(torch.cat([real, output.images.detach()]))  # (2B, 1, 11, 11)
                        losses["discriminator"] = discriminator_loss(*logits.chunk(2))
                    scaler.scale(losses["discriminator"] / accum_iter).backward()

            # Update of both networks, after every accum_iter batches, and of the averaged weights.
            norms = {}
            if update:
                parameters, disc_parameters = state.generator.parameters(), state.discriminator.parameters()
                set_learning_rates(state.optimizer, lr * hyper.fmae_lr, lr)
                norms["gradient_norm"] = clip_and_step(state.optimizer, scaler, parameters, clip_grad)
                if gan:
                    set_learning_rates(state.optimizer_disc, lr)
                    norms["gradient_norm_disc"] = clip_and_step(
                        state.optimizer_disc, scaler, disc_parameters, clip_grad
                    )
                scaler.update()
                state.update_average()

            named_losses = {f"{name} loss": value for name, value in losses.items()}
            finite.add(values_to_check(named_losses, norms, scaler), state.step, records_of(batch.position))
            state.step += 1

            if score and world.is_main and state.step % hyper.score_every == 0:
                finite.settle()
                with autocast():
                    log.held_out(*score(), PICTURES, state.step, epoch, averaged=state.ema is not None)
            log.add(losses | norms, len(real))
            if state.step % run.log_every == 0 or state.step == state.last_step:
                finite.settle()
                log.write(state.step, epoch, lr)
            ended = state.step == state.last_step or stop.asked()
            if update and ended:
                break
            if update and world.is_main and run.save_every and state.step % run.save_every == 0:
                finite.settle()
                state.save(run.folder / LAST)
        finite.settle()
        if world.is_main:
            state.save(run.folder / LAST)
            if state.step % steps_per_epoch == 0 and (epoch + 1) % KEEP_EVERY == 0:
                state.save(run.folder / f"checkpoint-{epoch + 1}.pth")
            log.picture(real, output.images, state.step)
        if stop.seen:
            break


def score_held_out(state: TrainingState, encoder: nn.Module, data: TrainingData, batch_size: int) -> tuple[dict, list]:
    """({name: score}, pictures) of held-out photos, with the averaged weights if there are any, as these are exported.

    See utils/evaluation/reconstruction.py for the scores.
    """
    return reconstruct(state.generator_to_score(), encoder, data, evenly_spread(data), batch_size)[:2]


if __name__ == "__main__":
    main()
