"""What the trainings of UIFace's two networks have in common: their flags, their beginning, and the run itself."""

import contextlib
import math
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils.cli.flags import Parser, add_amp_flags, add_compile_flag, add_training_run_flags
from utils.cli.training_flags import add_length_flags, add_reading_flags, add_record_flags
from utils.data.loader import EpochBatches, make_loader
from utils.data.training_data import TrainingData
from utils.runtime.distributed import Distributed
from utils.runtime.precision import Precision
from utils.training.broken_items import BrokenItems
from utils.training.folder import check_output_folder
from utils.training.loop import Hyperparameters, train_network
from utils.training.network_state import NetworkState
from utils.training.parallel import parallel
from utils.training.resuming import check_agreement, load_checkpoint, run_description
from utils.training.setup import begin_run, join_training, opened_records, prepare_device
from utils.training.stop import resume_command

MODEL = "model.pth"  # the result, beside the checkpoints


def add_network_training_flags(parser: Parser, *, ema: float, lr: float, epochs: int, output_dir: str) -> None:
    """All flags but those of the networks and of the losses. The parameters are defaults of flags."""
    data = parser.add_argument_group("data")
    add_record_flags(data, augmentation="flip", meaning="random flip, or a crop and a flip")
    add_reading_flags(data)
    add_length_flags(parser, epochs)
    optimiser = parser.add_argument_group("optimiser")
    optimiser.add_argument("--lr", type=float, default=lr, help="highest learning rate of Adam")
    optimiser.add_argument("--clip_grad", type=float, default=math.inf, help="largest gradient norm")
    optimiser.add_argument(
        "--ema", type=float, default=ema, metavar="DECAY", help="decay of the averaged weights; 0: no average"
    )
    optimiser.add_argument("--seed", type=int, default=0, help="random seed of weights, order, noise and augmentation")
    add_amp_flags(optimiser, "float16")
    add_compile_flag(optimiser, "network")
    add_training_run_flags(parser, output_dir)


class OpenedTraining(NamedTuple):
    """A training whose data are open: where it computes, and the records it sees."""

    world: Distributed
    device: torch.device
    precision: Precision
    data: TrainingData
    held_out: TrainingData | None
    batches: EpochBatches
    steps_per_epoch: int  # batches


@contextlib.contextmanager
def opened_training(args: Namespace) -> Iterator[OpenedTraining]:
    """Join the other processes, check the output folder and open the data. Raises UserError."""
    world = join_training(args.device)
    if world.is_main:
        check_output_folder(args.output_dir, args.resume, args.overwrite, [MODEL])
    check_agreement(world, vars(args))
    device, precision = prepare_device(args.device, world, args.use_amp, args.amp_dtype)
    with opened_records(args, world) as records:
        yield OpenedTraining(world, device, precision, *records)


def state_of(
    args: Namespace, training: OpenedTraining, key: str, network: torch.nn.Module, about: dict[str, Any]
) -> NetworkState:
    """The state of a training that begins; for ``key`` and ``about`` see NetworkState."""
    return NetworkState(
        key, network, training.precision.scaler(training.device), ema_decay=args.ema, about=about, settings=vars(args),
        run=run_description(training.world, [training.data.positions]),
    )  # fmt: skip


def run_training(
    args: Namespace,
    training: OpenedTraining,
    state: NetworkState,
    losses_of: Callable[[torch.nn.Module, Any], dict[str, torch.Tensor]],
    score: Callable[[], tuple] | None,
    finish: Callable[[Path], None],
    *,
    learning_rate: Callable[[int], float],
    shown: Sequence[str],
    pictures: str,
    script: str,
    argv: Sequence[str] | None,
) -> None:
    """Resume if asked for, train, and at the end call ``finish(path)``, which writes the result.

    ``losses_of``, ``score``: as for ``train_network``; ``learning_rate``, ``pictures``: see Hyperparameters; ``shown``:
    terms that the console line shows; ``script``, ``argv``: the command. Raises UserError.
    """
    world, device, steps_per_epoch = training.world, training.device, training.steps_per_epoch
    notes = []
    if args.resume:
        path, content = world.from_main(partial(load_checkpoint, args.resume))
        if content is not None:
            notes = state.resume(content, path)
        del content
    steps = min(args.epochs * steps_per_epoch, args.max_steps or math.inf)
    state.last_step = steps // args.accum_iter * args.accum_iter
    hyper = Hyperparameters(
        steps_per_epoch=steps_per_epoch, accum_iter=args.accum_iter, learning_rate=learning_rate,
        clip_grad=args.clip_grad, seed=args.seed, score_every=args.score_every or steps_per_epoch, pictures=pictures,
    )  # fmt: skip
    run = begin_run(
        world, device, training.precision, state.step, state.last_step, shown, notes,
        resume_command=resume_command(script, argv, args.output_dir), output_dir=args.output_dir, log_dir=args.log_dir,
        resume=args.resume, overwrite=args.overwrite, log_every=args.log_every, save_every=args.save_every,
        results=[MODEL],
    )  # fmt: skip
    train_network(
        state, parallel(state.network, world, device, args.compile), losses_of, training.batches,
        make_loader(training.data, training.batches, args.workers, args.pin_memory and device.type == "cuda"),
        BrokenItems(args.train_source, "records", args.max_bad_records), hyper, run,
        score if training.held_out is not None else None,
    )  # fmt: skip
    if world.is_main and state.step == state.last_step:
        finish(run.folder / MODEL)
        print(f"model: {run.folder / MODEL}")
    run.close()
