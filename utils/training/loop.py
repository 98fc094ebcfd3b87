"""The training loop of a single network."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn as nn

from utils.data.loader import EpochBatches, drop_broken
from utils.training.adapter_state import AdapterState
from utils.training.broken_items import BrokenItems
from utils.training.finite_check import FiniteCheck, values_to_check
from utils.training.folder import LAST
from utils.training.masks import records_of
from utils.training.network_state import NetworkState
from utils.training.optimizers import clip_and_step, set_learning_rates
from utils.training.parallel import no_sync_if
from utils.training.setup import Run, seed_step


class Hyperparameters(NamedTuple):
    """Hyper-parameters of the loop."""

    steps_per_epoch: int  # batches
    accum_iter: int  # batches per update of the weights
    learning_rate: Callable[[int], float]  # by the number of updates so far
    clip_grad: float  # largest gradient norm
    seed: int
    score_every: int = 0  # steps between scores of held-out photos
    pictures: str = ""  # the title of the pictures that come with the scores


def train_network(
    state: NetworkState | AdapterState,
    network: nn.Module,
    losses_of: Callable[[nn.Module, Any], dict[str, torch.Tensor]],
    batches: EpochBatches,
    loader: Iterable[Any],
    broken: BrokenItems,
    hyper: Hyperparameters,
    run: Run,
    score: Callable[[], tuple] | None = None,
    picture: Callable[[], tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> None:
    """The training loop, from ``state.step`` to ``state.last_step`` or until the user stops it.

    ``network``: that of ``state``, perhaps wrapped to average gradients over the processes. ``losses_of(network,
    batch)``: {term: scalar} of a batch of ``loader``, with the "total" that is minimised; all its random draws come
    from torch's seed. ``loader``: iterates over the batches chosen by ``batches``. ``score``: gives ({name: score},
    pictures) of held-out photos. ``picture``: gives photos and images (B, 3, 112, 112) of the last batch, which are
    shown after each epoch. Raises UserError when a value is not finite or too many records are broken.
    """
    world, log, scaler, finite = run.world, run.log, state.scaler, FiniteCheck()
    autocast, accum_iter = partial(run.precision.autocast, run.device), hyper.accum_iter
    while state.step < state.last_step:
        epoch = state.step // hyper.steps_per_epoch
        batches.begin(epoch, state.step % hyper.steps_per_epoch, hyper.steps_per_epoch)
        for batch in loader:
            broken.report(batch.error)
            batch = drop_broken(batch)
            update = (state.step + 1) % accum_iter == 0
            lr = hyper.learning_rate(state.step // accum_iter)
            seed_step(hyper.seed, state.step, world)
            with no_sync_if(not update, network):
                with autocast():
                    losses = losses_of(network, batch)
                scaler.scale(losses["total"] / accum_iter).backward()
            norms = {}
            if update:
                set_learning_rates(state.optimizer, lr)
                norms["gradient_norm"] = clip_and_step(state.optimizer, scaler, state.parameters, hyper.clip_grad)
                scaler.update()
                state.update_average()
            named = {f"{name} loss": value for name, value in losses.items()}
            finite.add(values_to_check(named, norms, scaler), state.step, records_of(batch.position))
            state.step += 1
            if score and world.is_main and state.step % hyper.score_every == 0:
                finite.settle()
                with autocast():
                    log.held_out(*score(), hyper.pictures, state.step, epoch, averaged=state.ema is not None)
            log.add(losses | norms, len(batch.position))
            if state.step % run.log_every == 0 or state.step == state.last_step:
                finite.settle()
                log.write(state.step, epoch, lr)
            ended = state.step == state.last_step or run.stop.asked()
            if update and ended:
                break
            if update and world.is_main and run.save_every and state.step % run.save_every == 0:
                finite.settle()
                state.save(run.folder / LAST)
        finite.settle()
        if world.is_main:
            state.save(run.folder / LAST)
            if picture:
                log.picture(*picture(), state.step)
        if run.stop.seen:
            break
