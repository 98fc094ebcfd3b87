"""Train a face recogniser (or, with --head magface, a quality model) on a dataset of people.

    python scripts/train_fr.py --data generated_images/test --output_dir fr
    torchrun --nproc_per_node=4 scripts/train_fr.py --data hsface10k.lmdb --sets lfw cfp_fp agedb_30 --output_dir fr
    python scripts/train_fr.py --data rendered --head magface --traces 6 3 --output_dir encoder
    python scripts/train_fr.py --data tests/photos --network 18 --width 16 --batch_size 4 --epochs 2 --output_dir fr

The defaults are the published HSFace10K recipe (SE-IResNet-50, ArcFace). --data is a folder of person/photo or an LMDB.
Writes OUTPUT_DIR/model.pth, which every --id_weights and test_fr.py read. Stopped (Ctrl-C saves a checkpoint first) or
killed: the same command with --resume OUTPUT_DIR.
"""

import contextlib
import math
from argparse import BooleanOptionalAction as Boolean
from functools import partial
from pathlib import Path

from utils.cli.command import command

import numpy as np
import torch
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel

from models.errors import UserError
from models.heads import EARLIER_NAME, HEADS, make_head, native_head_state
from models.iresnet import DEPTHS, IResNet
from models.traces import Traces
from models.weight_files import fit, load_file, save_file, state_dict_of
from utils.cli.flags import add_training_run_flags, make_parser, multiple_of, positive
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet
from utils.data.fr_data import RecognitionData, load_mixture_labels
from utils.data.training_data import EpochBatches, make_loader, without_broken
from utils.evaluation.verification import features_of, norm_percentiles, pair_similarities, verify
from utils.evaluation.verification_sets import find_set, load_pairs
from utils.runtime.device import compiled, keep_freed_memory, resolve_device
from utils.runtime.distributed import join_world
from utils.runtime.precision import Precision
from utils.training.finite_check import FiniteCheck
from utils.training.folder import LAST, check_output_folder, start_anew
from utils.training.fr_step import TrainingStep, adapt_norms, batch_on_device, begin_at_centres, make_optimizer
from utils.training.log import Log
from utils.training.resuming import check_agreement, check_settings, load_checkpoint, load_optimizer, run_of
from utils.training.stop import StopSignal, resume_command

FIXED = ("batch_size", "seed")  # flags that decide which photos and draws a step sees
DECAY_FACTOR = 0.1  # of the learning rate at each milestone
MODEL = "model.pth"
RESULTS = (MODEL,)
NORMS_FROM = 1024  # photos whose feature norms are taken


def fr_parser():
    parser = make_parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, help="folder of person/photo, or LMDB")
    data.add_argument("--mask", help=".npy of positions to use (default: all)")
    data.add_argument("--mixed_data", help="images of mixtures of its people (sample_identities.py --mixup)")
    data.add_argument("--mixed_labels", help="who is in them: OUTPUT_mixup_labels.npy")
    data.add_argument("--real_data", help="real photos to blend in: domain mixup")
    data.add_argument("--domain_mixup", default="0.6:1.0", metavar="A:B", help="share of the synthetic image")
    data.add_argument("--workers", type=int, default=4, help="processes that read, decode and augment")
    data.add_argument("--max_bad_records", type=int, default=100, help="broken photos are skipped, up to this many")

    model = parser.add_argument_group("model")
    model.add_argument("--network", type=int, choices=list(DEPTHS), default=50, help="IResNet's depth")
    model.add_argument("--se", action=Boolean, default=True, help="squeeze-excitation")
    model.add_argument("--width", type=multiple_of(16), default=64, help="channels of the first stage; 64 is IResNet")
    model.add_argument("--head", choices=HEADS, default="arcface", help="what it is trained with")
    model.add_argument("--margin", type=float, help="margin of the head (default: its paper's, ArcFace's in radians)")
    model.add_argument(
        "--easy_margin",
        action="store_true",
        help="MagFace without a margin for features more than a right angle from their class, as in the authors' code",
    )
    model.add_argument(
        "--straight_through",
        action="store_true",
        help="ArcFace whose margin is left out of the gradient, as in InsightFace's training code",
    )
    model.add_argument("--backbone", help="start from this face encoder of the same size (default: from nothing)")
    model.add_argument(
        "--traces",
        type=float,
        nargs=2,
        metavar=("IMAGE", "POSE"),
        help="also read a thumbnail and the pose from the feature, with these weights; needs rendered --data. For a "
        "generator's encoder: 6 3",
    )

    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--recipe", choices=["hsface10k"], default="hsface10k", help="where the defaults are from")
    recipe.add_argument("--batch_size", type=positive, default=128, help="images at a time and process")
    recipe.add_argument("--epochs", type=positive, default=26, help="passes over the data")
    recipe.add_argument("--max_steps", type=positive, help="stop after this many batches (default: after --epochs)")
    recipe.add_argument("--lr", type=float, default=0.1, help="learning rate, whatever the number of processes")
    recipe.add_argument(
        "--milestones", type=int, nargs="*", default=[12, 20, 24], help="epochs, counted from 1, that start at lr / 10"
    )
    recipe.add_argument("--warmup_epochs", type=float, default=0, help="epochs of linear warm-up from 0")
    recipe.add_argument("--momentum", type=float, default=0.9, help="of SGD")
    recipe.add_argument("--weight_decay", type=float, default=5e-4, help="none on BatchNorm")
    recipe.add_argument("--clip_grad", type=float, default=5.0, help="largest gradient norm of the backbone")
    recipe.add_argument("--augmentation", type=float, default=0.3, help="probability of crop, low resolution, colours")
    recipe.add_argument("--random_erasing", type=float, default=0.5, help="probability of a mid-grey rectangle")
    recipe.add_argument("--seed", type=int, default=0, help="of weights, order, dropout and augmentation")
    recipe.add_argument("--use_amp", action=Boolean, default=True, help="16-bit arithmetic; on a CPU bfloat16 or none")
    recipe.add_argument("--amp_dtype", choices=["float16", "bfloat16"], default="bfloat16", help="16-bit type on a GPU")
    recipe.add_argument(
        "--compile", action="store_true", help="torch.compile the network; needs a C++ (GPU: C) compiler"
    )

    run = add_training_run_flags(parser, "./fr")
    run.add_argument("--sets", nargs="*", default=[], help="verification sets to test on every epoch, see test_fr.py")
    run.add_argument("--data_dir", default="test_sets", help="folder of the verification sets")
    return parser


@command
def main(argv=None):
    args = fr_parser().parse_args(argv)
    check_head_flags(args)
    on_gpu = torch.cuda.is_available() and args.device != "cpu"
    world = join_world("nccl" if on_gpu else "gloo")
    if world.is_main:
        check_output_folder(args, RESULTS)
    check_agreement(world, args)
    device = resolve_device(args.device, world.local_rank)
    torch.backends.cudnn.benchmark = True  # all batches have one shape; without effect on a CPU
    if device.type == "cpu":
        keep_freed_memory(device)
        torch.set_num_threads(max(1, torch.get_num_threads() // world.local_size))
    precision = Precision.for_training(args.use_amp, args.amp_dtype, device)
    precision.apply()
    data = world.from_main(partial(make_data, args))  # the labels of millions of photos are read once
    train(args, data, world, device, precision, resume_command(__file__, argv, args.output_dir))


def check_head_flags(args):
    """Raise UserError when a flag is not one of ``--head``."""
    belongs = {
        "easy_margin": ("magface",),
        "straight_through": ("arcface",),
        "margin": ("arcface", "cosface", "adaface"),
    }
    for flag, heads in belongs.items():
        if getattr(args, flag) not in (None, False) and args.head not in heads:
            raise UserError(f"--{flag} has no effect on --head {args.head}, only on {', '.join(heads)}.")


def make_data(args):
    faces = FaceSet(args.data, args.mask)
    if len(faces.people) < 2:
        raise UserError(f"{args.data}: one person only; a recogniser learns to tell people apart.")
    if bool(args.mixed_data) != bool(args.mixed_labels):
        raise UserError("--mixed_data and --mixed_labels go together.")
    if args.mixed_data and args.real_data:
        raise UserError("--mixed_data and --real_data: use one kind of mixup at a time.")
    mixed = FaceSet(args.mixed_data) if args.mixed_data else None
    labels = load_mixture_labels(args.mixed_labels) if args.mixed_labels else None
    real = FaceSet(args.real_data) if args.real_data else None
    poses = [(label["yaw"], label["pitch"]) for label in load_labels(faces)] if args.traces else None
    return RecognitionData(
        faces, args.seed, args.augmentation, args.random_erasing, mixed, labels, real, parse_range(args.domain_mixup),
        poses,
    )  # fmt: skip


def parse_range(text):
    try:
        low, high = map(float, text.split(":"))
    except ValueError as error:
        raise UserError(f"--domain_mixup {text}: write it as LOW:HIGH, for example 0.6:1.0.") from error
    if not 0 <= low <= high <= 1:
        raise UserError(f"--domain_mixup {text}: needs 0 <= LOW <= HIGH <= 1.")
    return low, high


class Recogniser(nn.Module):
    """Backbone, head and perhaps Traces in one module, so that one forward pass of DDP has them all."""

    def __init__(self, backbone, head, traces=None):
        super().__init__()
        self.backbone, self.head, self.traces = backbone, head, traces

    def forward(self, images, first, second=None, share=None, poses=None):
        """Images (B, 3, 112, 112), labels (B,) -> losses (B,), feature norms (B,).

        ``second`` (B,) and ``share`` of the first label (B,): only for a batch with mixtures. ``poses``: yaw and pitch
        (B, 2) in degrees, for Traces alone.
        """
        features = self.backbone(images)  # (B, 512) float32
        with torch.autocast(features.device.type, enabled=False):
            losses = self.head(features, first)
            if second is not None:
                losses = share * losses + (1 - share) * self.head(features, second)
            if self.traces is not None:
                losses = losses + self.traces(features, images, poses)
        return losses, features.detach().norm(dim=1)


def make_model(args, classes):
    widths = tuple(args.width * multiplier for multiplier in (1, 2, 4, 8))
    backbone = IResNet(DEPTHS[args.network], widths, se=args.se).initialise()
    if args.backbone:
        state = state_dict_of(load_file(args.backbone), args.backbone)
        fit(backbone, state, args.backbone, "a face encoder of this --network, --width and --se")
    traces = Traces(weights=args.traces) if args.traces else None
    head = make_head(
        args.head, classes, margin=args.margin, easy_margin=args.easy_margin, straight_through=args.straight_through
    )
    return Recogniser(backbone, head, traces)


def train(args, data, world, device, precision, how_to_resume):
    """The training loop. ``how_to_resume``: the command that continues it."""
    batches = EpochBatches(len(data), args.batch_size, args.seed, world.rank, world.size)
    steps_per_epoch = batches.steps
    if steps_per_epoch == 0:
        raise UserError(
            f"{args.data}: {len(data)} photos are fewer than --batch_size {args.batch_size} x {world.size} processes."
        )
    pair_sets = [load_pairs(find_set(name, args.data_dir)) for name in args.sets] if world.is_main else []
    torch.manual_seed(args.seed)
    model = make_model(args, data.class_count).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, args)
    scaler, autocast = precision.scaler(device), partial(precision.autocast, device)
    run, notes, step = run_of(world, records_of(data)), [], 0
    if args.resume:
        path, content = world.from_main(partial(load_checkpoint, args.resume))
        if content is not None:
            notes = check_settings(path, check_parts(content, path, args), vars(args), run, FIXED)
            step = resume(content, path, args, model, optimizer, scaler)
        del content  # it may be large
    if args.backbone and step == 0:
        adapt_norms(model, data, device)
        begin_at_centres(model, data.faces, autocast, args.workers)
    parallel = compiled(model, device) if args.compile else model
    if world.size > 1:
        devices = [device.index] if device.type == "cuda" else None
        parallel = DistributedDataParallel(parallel, device_ids=devices, gradient_as_bucket_view=True)
    last_step = min(args.epochs * steps_per_epoch, args.max_steps or math.inf)
    if args.overwrite and world.is_main:
        start_anew(args.output_dir, RESULTS)
    log = Log(args, world, device, step, last_step, shown=("loss", "norm"))
    log.begin(precision)
    for note in notes:
        log.say(note)
    log.check_warmup(args.warmup_epochs * steps_per_epoch, f"--warmup_epochs {args.warmup_epochs:g}")
    stop = StopSignal(world, how_to_resume)
    train_step = TrainingStep(args, model, parallel, optimizer, scaler, autocast)
    loader = make_loader(data, batches, args.workers, device.type == "cuda")
    finite, bad = FiniteCheck(), 0

    def save():
        content = {"backbone": model.backbone.state_dict(), "head": model.head.state_dict(), "step": step}
        content |= {"traces": model.traces.state_dict()} if model.traces else {}
        content |= {
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "args": dict(vars(args)),
            "run": run,
        }
        save_file(content, Path(args.output_dir) / LAST)

    while step < last_step:
        epoch = step // steps_per_epoch
        batches.begin(epoch, step % steps_per_epoch)
        for *columns, errors in loader:
            bad = report_bad(errors, bad, args)
            batch = batch_on_device(without_broken(errors, *columns), device)
            lr = learning_rate(step / steps_per_epoch, args)
            # All draws of a step come from (seed, step, rank): a resumed run needs no saved random state.
            torch.manual_seed(args.seed * 1_000_003 + step * world.size + world.rank)
            losses, norms = train_step(batch, lr)
            checked = losses if scaler.is_enabled() else losses | norms
            finite.add(checked, step, "try a lower --lr, or a warm-up.")
            step += 1

            log.add(losses | norms, len(errors) - sum(map(bool, errors)))
            if step % args.log_every == 0 or step == last_step:
                finite.settle()
                log.write(step, epoch, lr)
            if stop.asked() or step == last_step:
                break
            if world.is_main and args.save_every and step % args.save_every == 0:
                finite.settle()
                save()
        finite.settle()
        if world.is_main:
            save()
            if pair_sets and (step % steps_per_epoch == 0 or step == last_step):
                with Precision().applied():
                    log.scores("accuracy", accuracies(model, pair_sets), step, epoch)
        if stop.seen:
            break
    del loader  # ends its processes, which ignore signals: at exit Python would wait for them for ever
    stop.close()
    if world.is_main and step == last_step:
        with Precision().applied():
            write_model(args, data, model)
    log.close()


def accuracies(model, pair_sets):
    """{set: accuracy in ten folds}, in eval mode and fp32."""
    model.eval()
    features = {pairs.name: features_of(model.backbone, pairs.photos) for pairs in pair_sets}  # (U, D) each
    model.train()
    return {p.name: verify(pair_similarities(features[p.name][p.numbers]), p.same)["accuracy"] for p in pair_sets}


def write_model(args, data, model):
    """model.pth: the backbone, and what the norms of its features are on photos of the training set."""
    photos = []
    for index in np.linspace(0, len(data.faces) - 1, min(NORMS_FROM, len(data.faces))).astype(int):
        with contextlib.suppress(ValueError, OSError):
            photos.append(data.faces.image(int(index)))
    model.eval()
    percentiles = norm_percentiles(model.backbone, photos)  # in fp32, as this is what users are told to expect
    model.train()
    content = {"state_dict": model.backbone.state_dict(), "head": args.head, "feature_norms": percentiles}
    save_file(content, Path(args.output_dir) / MODEL)
    listed = ", ".join(f"{share} below {norm:.1f}" for share, norm in percentiles.items())
    print(f"{Path(args.output_dir) / MODEL}: feature norms {listed}")


def records_of(data):
    """Arrays that tell which photos of whom a RecognitionData has."""
    return [x for faces in (data.faces, data.mixed, data.real) if faces for x in (faces.positions, faces.labels)]


def check_parts(content, path, args):
    """The ``content`` of a checkpoint; UserError when it is not one of this script."""
    parts = ("backbone", "head", "optimizer", "scaler", "step") + (("traces",) if args.traces else ())
    missing = [key for key in parts if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path}: not a checkpoint of this script: no {', '.join(missing)}.")
    return content


def resume(content, path, args, model, optimizer, scaler):
    """Take all of a checkpoint's content; the steps it has done. Raises UserError when it does not fit."""
    fit(model.backbone, content["backbone"], path, "this --network, --width and --se")
    earlier_head = EARLIER_NAME in content["head"]
    fit(model.head, native_head_state(content["head"]), path, f"a {args.head} head for these people")
    if args.traces:
        fit(model.traces, content["traces"], path, "the read-out of --traces")
    load_optimizer(optimizer, content["optimizer"], path)
    if earlier_head:  # its directions were stored the other way round, and so was their momentum
        state = optimizer.state[model.head.directions]
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"] = state["momentum_buffer"].T.contiguous()  # (D, classes) -> (classes, D)
    if content["scaler"]:  # empty after a run that needed none, in bfloat16 or float32
        scaler.load_state_dict(content["scaler"])
    return content["step"]


def learning_rate(epoch, args):
    """At a fractional epoch from 0: linear from 0 over the warm-up, a tenth from each milestone on."""
    if epoch < args.warmup_epochs:
        return args.lr * epoch / args.warmup_epochs
    return args.lr * DECAY_FACTOR ** sum(epoch >= milestone - 1 for milestone in args.milestones)


def report_bad(errors, before, args):
    broken = [error for error in errors if error]
    for error in broken:
        print(f"warning: skipped {error}")
    if before + len(broken) > args.max_bad_records:
        raise UserError(f"{args.data}: more than --max_bad_records {args.max_bad_records} broken photos.")
    if len(broken) == len(errors):
        raise UserError(f"{args.data}: a whole batch of broken photos.")
    return before + len(broken)


if __name__ == "__main__":
    main()
