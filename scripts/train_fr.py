"""Train a face recogniser (or, with --head magface, a quality model) on a dataset of identities.

    python scripts/train_fr.py --data generated_images/test --output_dir fr
    torchrun --nproc_per_node=4 scripts/train_fr.py --data hsface10k.lmdb --sets lfw cfp_fp agedb_30 --output_dir fr
    python scripts/train_fr.py --data rendered --head magface --readout_weights 6 3 --output_dir encoder
    python scripts/train_fr.py --data tests/photos --network 18 --width 16 --batch_size 4 --epochs 2 --output_dir fr

The defaults are the published HSFace10K recipe (SE-IResNet-50, ArcFace). --data is a folder of identity/photo, an LMDB
or an MXNet .rec. The result is OUTPUT_DIR/model.pth, which every --id_weights and test_fr.py can read. To resume a run
that was killed, or stopped with Ctrl-C, which saves a checkpoint first, add --resume OUTPUT_DIR to the same command.
"""

import argparse
import contextlib
import math
from argparse import BooleanOptionalAction as Boolean
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from utils.cli.command import command

import numpy as np
import torch
import torch.nn as nn

from models.errors import UserError
from models.heads import HEADS
from models.iresnet import DEPTHS
from models.recogniser import MIXUP_LOSSES, Recogniser, make_recogniser
from models.sharded_head import ShardedHead
from models.weight_files import save_file
from utils.cli.flags import (
    Parser,
    add_amp_flags,
    add_compile_flag,
    add_training_run_flags,
    make_parser,
    multiple_of,
    number,
    positive,
)
from utils.data.face_set import FaceSet
from utils.data.fr_data import RecognitionItem, to_device
from utils.data.fr_sources import load_recognition_data
from utils.data.loader import EpochBatches, drop_broken, make_loader
from utils.evaluation.verification import features_of, norm_percentiles, pair_similarities, verify
from utils.evaluation.verification_sets import find_set, load_pairs
from utils.runtime.precision import Precision
from utils.training.broken_items import BrokenItems
from utils.training.finite_check import FiniteCheck, values_to_check
from utils.training.folder import LAST, check_output_folder
from utils.training.fr_backbone import adapt_batch_norm, init_head_from_centroids, load_backbone
from utils.training.fr_state import RecogniserState, make_optimizer
from utils.training.optimizers import clip_and_step, set_learning_rates
from utils.training.parallel import parallel
from utils.training.resuming import check_agreement, load_checkpoint, run_description
from utils.training.schedules import warmup_then_milestones, warmup_then_polynomial
from utils.training.setup import Run, begin_run, join_training, prepare_device, seed_step
from utils.training.stop import resume_command

MODEL = "model.pth"
RESULTS = (MODEL,)
NORMS_FROM = 1024  # number of photos whose feature norms model.pth describes


def fr_parser() -> Parser:
    parser = make_parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", required=True,
        help="training photos: folder of identity/photo, LMDB or .rec; two labels each if made with --identity_mixup",
    )  # fmt: skip
    data.add_argument("--mask", help=".npy file of the positions of the photos to train on (default: all)")
    data.add_argument("--mixed_data", help="further images, of mixtures with a folder each (see --mixed_labels)")
    data.add_argument("--mixed_labels", help="OUTPUT_mixup_labels.npy of the mixtures, by sample_identities.py --mixup")
    data.add_argument("--real_data", help="real photos to blend into the images, for domain mixup")
    data.add_argument(
        "--real_people", type=positive, metavar="N", help="number of people of --real_data (default: all)"
    )
    data.add_argument(
        "--real_images", type=positive, metavar="S", help="number of photos of each of these people (default: all)"
    )
    data.add_argument(
        "--domain_mixup", default="0.6:1.0", metavar="PSI",
        help="share of the image in a blend: LOW:HIGH for any between two, linspace:LOW:HIGH:COUNT or a number",
    )  # fmt: skip
    data.add_argument(
        "--domain_mixup_per", choices=["image", "batch"], default="image", help="what shares one draw of --domain_mixup"
    )
    data.add_argument("--workers", type=int, default=4, help="number of processes that read, decode and augment photos")
    data.add_argument("--max_bad_records", type=int, default=100, help="largest number of broken photos to skip")

    model = parser.add_argument_group("model")
    model.add_argument("--network", type=int, choices=list(DEPTHS), default=50, help="depth of the IResNet")
    model.add_argument("--se", action=Boolean, default=True, help="squeeze-excitation in the IResNet")
    model.add_argument("--width", type=multiple_of(16), default=64, help="channels of the IResNet's first stage")
    model.add_argument("--head", choices=HEADS, default="arcface", help="margin head, which defines the loss")
    model.add_argument("--margin", type=float, help="margin of the head, ArcFace's in radians (default: its paper's)")
    model.add_argument(
        "--easy_margin",
        action="store_true",
        help="MagFace without a margin for features more than a right angle from their class, as in the authors' code",
    )
    model.add_argument(
        "--straight_through",
        action="store_true",
        help="ArcFace with a margin that is left out of the gradient, as in InsightFace's training code",
    )
    model.add_argument(
        "--mixup_loss", choices=MIXUP_LOSSES, default="losses",
        help="what is mixed in the loss of a mixture: the losses of its labels, or their logits, as in SynFace's code",
    )  # fmt: skip
    model.add_argument(
        "--sharded_head",
        action="store_true",
        help="class directions split over the processes (PartialFC), for hundreds of thousands of identities",
    )
    model.add_argument(
        "--sample_rate",
        type=sample_rate,
        default=1.0,
        help="share of the identities that a step of a --sharded_head compares with, above 0 and at most 1",
    )
    model.add_argument("--backbone", help="face encoder of the same size to start from (default: random weights)")
    model.add_argument(
        "--readout_weights", "--traces", dest="traces", type=float, nargs=2, metavar=("IMAGE", "POSE"),
        help="weights of an auxiliary loss: the thumbnail and the pose, regressed from the feature; needs rendered "
        "--data. For the encoder of a generator: 6 3",
    )  # fmt: skip

    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--recipe", choices=["hsface10k"], default="hsface10k", help="published source of the defaults")
    recipe.add_argument("--batch_size", type=positive, default=128, help="number of images per batch and process")
    recipe.add_argument("--epochs", type=positive, default=26, help="number of passes over the data")
    recipe.add_argument("--max_steps", type=positive, help="largest number of batches (default: that of --epochs)")
    recipe.add_argument("--lr", type=float, default=0.1, help="learning rate, for any number of processes")
    recipe.add_argument(
        "--milestones", type=int, nargs="*", default=[12, 20, 24], help="epochs (from 1) that begin with lr / 10"
    )
    recipe.add_argument(
        "--schedule",
        choices=["milestones", "polynomial"],
        default="milestones",
        help="fall of the learning rate: at the --milestones, or with the square of what is left of --epochs",
    )
    recipe.add_argument("--warmup_epochs", type=float, default=0, help="number of epochs of linear warm-up from 0")
    recipe.add_argument("--momentum", type=float, default=0.9, help="SGD momentum")
    recipe.add_argument("--weight_decay", type=float, default=5e-4, help="SGD weight decay, except on BatchNorm")
    recipe.add_argument("--clip_grad", type=float, default=5.0, help="largest gradient norm of the backbone")
    recipe.add_argument(
        "--augmentation", type=float, default=0.3, help="probability of each of crop, low resolution and colour change"
    )
    recipe.add_argument("--random_erasing", type=float, default=0.5, help="probability of a mid-grey rectangle")
    recipe.add_argument("--seed", type=int, default=0, help="random seed of weights, order, dropout and augmentation")
    add_amp_flags(recipe, "bfloat16")
    add_compile_flag(recipe, "network")

    run = add_training_run_flags(parser, "./fr")
    run.add_argument("--sets", nargs="*", default=[], help="verification sets to test on after every epoch")
    run.add_argument("--data_dir", default="test_sets", help="folder of the verification sets, see test_fr.py")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = fr_parser().parse_args(argv)
    check_head_flags(
        args.head, margin=args.margin, easy_margin=args.easy_margin, straight_through=args.straight_through
    )
    if args.sample_rate < 1 and not args.sharded_head:
        raise UserError(f"--sample_rate {args.sample_rate:g} has an effect with --sharded_head only.")
    if args.sharded_head and args.mixup_loss == "logits":
        raise UserError("--mixup_loss logits needs a whole head: leave out --sharded_head.")
    world = join_training(args.device)
    if world.is_main:
        check_output_folder(args.output_dir, args.resume, args.overwrite, RESULTS)
    pair_sets = [load_pairs(find_set(name, args.data_dir)) for name in args.sets] if world.is_main else []
    check_agreement(world, vars(args))
    device, precision = prepare_device(args.device, world, args.use_amp, args.amp_dtype)

    load_data = partial(
        load_recognition_data, args.data, args.mask, mixed=args.mixed_data, mixed_labels=args.mixed_labels,
        real=args.real_data, real_people=args.real_people, real_images=args.real_images,
        domain_mixup=args.domain_mixup, with_poses=bool(args.traces), seed=args.seed,
        augmentation=args.augmentation, erase=args.random_erasing,
    )  # fmt: skip
    data = world.from_main(load_data)  # one process reads the labels of millions of photos for all
    batches = EpochBatches(len(data), args.batch_size, args.seed, world.rank, world.size)
    if batches.steps == 0:
        raise UserError(
            f"{args.data}: {len(data)} photos are fewer than --batch_size {args.batch_size} x {world.size} processes."
        )
    torch.manual_seed(args.seed)
    model = make_recogniser(
        data.class_count, args.network, args.width, args.se, args.head, args.margin, args.easy_margin,
        args.straight_through, readout_weights=args.traces, mixup_loss=args.mixup_loss,
    )  # fmt: skip
    if args.backbone:
        load_backbone(model.backbone, args.backbone)
    if args.sharded_head:
        model.head = ShardedHead(model.head, args.batch_size, world.rank, world.size, args.sample_rate)
    model.to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, args.lr, args.momentum, args.weight_decay)
    description = run_description(world, data.records())
    scaler = precision.scaler(device, differing=args.sharded_head and world.size > 1)
    state = RecogniserState(model, optimizer, scaler, vars(args), description)
    notes = []
    if args.resume:
        path, content = world.from_main(partial(load_checkpoint, args.resume))
        if content is not None:
            notes = state.resume(content, path, len(data))
        del content  # it may be large
    if args.backbone and state.step == 0:
        adapt_batch_norm(model, data, device)
        init_head_from_centroids(model, data.faces, partial(precision.autocast, device), args.workers)

    hyper = Hyperparameters(
        batches.steps, min(args.epochs * batches.steps, args.max_steps or math.inf), clip_grad=args.clip_grad,
        learning_rate=learning_rate(args.schedule, args.lr, args.warmup_epochs, args.epochs, args.milestones),
        seed=args.seed, parts=data.parts if args.sharded_head else None,
        psi_of_step=partial(data.psi_of_batch, world.rank) if args.domain_mixup_per == "batch" else None,
    )  # fmt: skip
    network = parallel(model, world, device, args.compile, [model.head.directions] if args.sharded_head else ())
    run = begin_run(
        world, device, precision, state.step, hyper.last_step, ("loss", "norm"), notes,
        resume_command=resume_command(__file__, argv, args.output_dir), output_dir=args.output_dir,
        log_dir=args.log_dir, resume=args.resume, overwrite=args.overwrite, results=RESULTS, log_every=args.log_every,
        save_every=args.save_every,
    )  # fmt: skip
    run.log.check_warmup(args.warmup_epochs * batches.steps, f"--warmup_epochs {args.warmup_epochs:g}")
    train(
        state, network, batches, make_loader(data, batches, args.workers, device.type == "cuda"),
        BrokenItems(args.data, "photos", args.max_bad_records), hyper, run,
        partial(accuracies, model, pair_sets) if pair_sets else None,
    )  # fmt: skip
    if world.is_main and state.step == hyper.last_step:
        with Precision().applied():
            write_model(run.folder / MODEL, model, args.head, data.faces)
    run.close()


class Hyperparameters(NamedTuple):
    """Hyper-parameters of the training loop."""

    steps_per_epoch: int
    last_step: int
    learning_rate: Callable[[float], float]  # by fractional epoch
    clip_grad: float  # largest gradient norm of the backbone
    seed: int
    parts: Sequence[int] | None = None  # labels that every batch has (None: those with a share)
    psi_of_step: Callable[[int], float] | None = None  # share of all images of a step, where they have one in common


def train(
    state: RecogniserState,
    network: nn.Module,
    batches: EpochBatches,
    loader: Iterable[RecognitionItem],
    broken: BrokenItems,
    hyper: Hyperparameters,
    run: Run,
    test: Callable[[], dict[str, float]] | None = None,
) -> None:
    """The training loop, from ``state.step`` to ``hyper.last_step`` or until the user stops it.

    ``network``: the model of ``state``, perhaps compiled and wrapped to exchange gradients between processes.
    ``loader``: iterates over the batches chosen by ``batches``. ``test``: gives the accuracies {set: accuracy} after an
    epoch. Raises UserError when a value is not finite or too many photos are broken.
    """
    scaler, optimizer, log, finite = state.scaler, state.optimizer, run.log, FiniteCheck()
    while state.step < hyper.last_step:
        epoch = state.step // hyper.steps_per_epoch
        batches.begin(epoch, state.step % hyper.steps_per_epoch)
        for batch in loader:
            broken.report(batch.error)
            batch = drop_broken(batch)
            if hyper.psi_of_step is not None:
                batch.psi.fill_(hyper.psi_of_step(state.step))  # in place, as pinned memory
            inputs = to_device(batch, run.device, hyper.parts)
            lr = hyper.learning_rate(state.step / hyper.steps_per_epoch)
            set_learning_rates(optimizer, lr)

            seed_step(hyper.seed, state.step, run.world)
            with run.precision.autocast(run.device):
                losses, feature_norms = network(*inputs)  # (B,) each
            loss = losses.mean()
            scaler.scale(loss).backward()
            gradient_norm = clip_and_step(optimizer, scaler, state.model.backbone.parameters(), hyper.clip_grad)
            scaler.update()

            norms = {"norm": feature_norms.mean(), "gradient_norm": gradient_norm}
            finite.add(values_to_check({"loss": loss}, norms, scaler), state.step, "try a lower --lr, or a warm-up.")
            state.step += 1
            log.add({"loss": loss} | norms, len(inputs.images))
            if state.step % run.log_every == 0 or state.step == hyper.last_step:
                finite.settle()
                log.write(state.step, epoch, lr)
            if run.stop.asked() or state.step == hyper.last_step:
                break
            if run.save_every and state.step % run.save_every == 0:
                finite.settle()
                state.save(run.folder / LAST, run.world.is_main)
        finite.settle()
        state.save(run.folder / LAST, run.world.is_main)
        epoch_ends = state.step % hyper.steps_per_epoch == 0 or state.step == hyper.last_step
        if run.world.is_main and test and epoch_ends:
            with Precision().applied():
                log.scores("accuracy", test(), state.step, epoch)
        if run.stop.seen:
            break


def learning_rate(
    schedule: str, lr: float, warmup_epochs: float, epochs: int, milestones: Sequence[int]
) -> Callable[[float], float]:
    """The learning rate by fractional epoch of the ``schedule`` called milestones or polynomial."""
    if schedule == "polynomial":
        return partial(warmup_then_polynomial, highest=lr, warmup_epochs=warmup_epochs, epochs=epochs)
    return partial(warmup_then_milestones, highest=lr, warmup_epochs=warmup_epochs, milestones=milestones)


def check_head_flags(head: str, **flags: float | bool | None) -> None:
    """Raise UserError when one of the flags was given but has no effect on the head."""
    with_margin = ("arcface", "cosface", "adaface")
    heads_of = {"easy_margin": ("magface",), "straight_through": ("arcface",), "margin": with_margin}
    for flag, value in flags.items():
        if value not in (None, False) and head not in heads_of[flag]:
            raise UserError(f"--{flag} has no effect on --head {head}, only on {', '.join(heads_of[flag])}.")


def sample_rate(text: str) -> float:
    """argparse type: a number above 0 and at most 1."""
    value = number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text}")
    return value


def accuracies(model: Recogniser, pair_sets: Sequence) -> dict[str, float]:
    """{set: ten-fold accuracy}, in eval mode and float32."""
    model.eval()
    features = {pairs.name: features_of(model.backbone, pairs.photos) for pairs in pair_sets}  # (U, D) each
    model.train()
    return {p.name: verify(pair_similarities(features[p.name][p.numbers]), p.same)["accuracy"] for p in pair_sets}


def write_model(path: Path, model: Recogniser, head: str, faces: FaceSet) -> None:
    """Write the backbone, with percentiles of its feature norms on photos of the training set."""
    photos = []
    for index in np.linspace(0, len(faces) - 1, min(NORMS_FROM, len(faces))).astype(int):
        with contextlib.suppress(ValueError, OSError):
            photos.append(faces.image(int(index)))
    model.eval()
    percentiles = norm_percentiles(model.backbone, photos)  # in float32, because generation takes its target from them
    model.train()
    save_file({"state_dict": model.backbone.state_dict(), "head": head, "feature_norms": percentiles}, path)
    listed = ", ".join(f"{percentile} below {norm:.1f}" for percentile, norm in percentiles.items())
    print(f"{path}: feature norms {listed}")


if __name__ == "__main__":
    main()
