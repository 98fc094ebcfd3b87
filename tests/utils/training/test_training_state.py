"""What a training does with its parts: accumulation, schedule, averaged weights, loss scale."""

import json

import pytest
import torch
from generator_training import checkpoint, flags, run
from processes import run_script

from models.discriminator import Discriminator
from models.vec2face import DROPOUT, PRESETS, Vec2Face
from models.weight_files import load_file
from utils.runtime.distributed import Distributed
from utils.runtime.precision import Precision
from utils.training.optimizers import clip_and_step, set_learning_rates
from utils.training.parallel import no_sync_if, parallel
from utils.training.resuming import run_description
from utils.training.schedules import warmup_then_cosine
from utils.training.state import TrainingState

TINY = "vec2face_vit_tiny"
# No draws that depend on the size of a batch: every row is masked, and there is no dropout and no noise. The steps are
# small, because those of Adam go by the sign of a gradient, which rounding may turn where it is nearly zero.
WITHOUT_DRAWS = [
    "--mask_ratio_min", 1, "--mask_ratio_max", 1, "--dropout", 0, "--disc_noise", 0, "--disc_start", 0, "--epochs", 1,
    "--lr", 1e-7, "--warmup_epochs", 0,
]  # fmt: skip


def run_without_draws(demo, lmdb, folder, *more, ranks=0):
    """Two updates of the demo generator on two photos each: at a new one, gradients of flat images are all rounding."""
    words = flags(demo, lmdb, folder, *WITHOUT_DRAWS, "--start_from", demo.generator, *more)
    run_script("vec2face.py", *words, ranks=ranks) if ranks else run(*words)


@pytest.fixture(scope="module")
def pairs(demo, training_lmdb, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    run_without_draws(demo, training_lmdb, folder, "--batch_size", 2, "--log_every", 1)
    return folder


def assert_equal_training(folder, pairs):
    """The same rates, gradient norms and losses within 0.1 %, and moments of Adam within 1 %: what float32 rounds."""
    lines, expected = ([json.loads(x) for x in (f / "log.jsonl").read_text().splitlines()] for f in (folder, pairs))
    for line, other in zip(lines, expected, strict=True):
        for name in ("lr", "total", "pixel", "gradient_norm", "gradient_norm_disc", "discriminator"):
            assert line[name] == pytest.approx(other[name], rel=1e-3), name
    for name in ("optimizer_vec2face", "optimizer_disc"):
        one, two = (torch.cat([s["exp_avg"].flatten() for s in checkpoint(f)[name]["state"].values()])
                    for f in (folder, pairs))  # fmt: skip
        assert (one - two).norm() < 1e-2 * two.norm(), name


def test_two_accumulated_batches_are_one_of_twice_the_size(demo, training_lmdb, pairs, tmp_path):
    run_without_draws(demo, training_lmdb, tmp_path, "--accum_iter", 2, "--log_every", 2)
    assert_equal_training(tmp_path, pairs)


def test_two_processes_are_one_batch_of_twice_the_size(demo, training_lmdb, pairs, tmp_path):
    run_without_draws(demo, training_lmdb, tmp_path, "--log_every", 1, ranks=2)
    assert_equal_training(tmp_path, pairs)


@pytest.mark.slow
def test_two_processes_that_accumulate_two_batches_are_one_batch_of_four_times_the_size(demo, training_lmdb, tmp_path):
    run_without_draws(demo, training_lmdb, tmp_path / "whole", "--batch_size", 4, "--log_every", 1)
    run_without_draws(demo, training_lmdb, tmp_path / "parts", "--accum_iter", 2, "--log_every", 2, ranks=2)
    assert_equal_training(tmp_path / "parts", tmp_path / "whole")


def test_the_loss_of_the_generator_does_not_move_the_discriminator(demo, training_lmdb, pairs, tmp_path):
    """However much the discriminator weighs in it; and both networks have the learning rate of the schedule."""
    run_without_draws(demo, training_lmdb, tmp_path, "--batch_size", 2, "--disc_weight", 100, "--max_steps", 1)
    run_without_draws(demo, training_lmdb, tmp_path / "one", "--batch_size", 2, "--max_steps", 1)
    heavy, usual = checkpoint(tmp_path), checkpoint(tmp_path / "one")
    for part in ("model_disc", "optimizer_disc"):
        assert all(map(torch.equal, tensors_of(heavy[part]), tensors_of(usual[part]))), part
    assert not all(map(torch.equal, *(tensors_of(x["optimizer_vec2face"]) for x in (heavy, usual))))
    for saved, lr in ((usual, 1e-7), (checkpoint(pairs), 5e-8)):  # a half-cosine of two steps
        rates = {group["lr"] for name in ("vec2face", "disc") for group in saved[f"optimizer_{name}"]["param_groups"]}
        assert list(rates) == pytest.approx([lr])


def tensors_of(value):
    """The tensors in nested dicts."""
    if isinstance(value, dict):
        return [tensor for inner in value.values() for tensor in tensors_of(inner)]
    return [value] if isinstance(value, torch.Tensor) else []


def test_gradients_are_exchanged_once_an_update_also_when_compiled(monkeypatch):
    """torch.compile's own code generator takes too long here; tracing and DDP are the real ones."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **options: compile_(module, backend="aot_eager"))
    device, exchanges = torch.device("cpu"), []
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        plain = torch.nn.Linear(2, 2)
        model = parallel(plain, Distributed(size=2), device, compile=True)
        model.register_comm_hook(None, lambda _, bucket: exchanges.append(1) or ready(bucket.buffer()))
        for update in (False, False, True):
            with no_sync_if(not update, model):
                model(torch.ones(1, 2)).sum().backward()
            assert len(exchanges) == update
        assert plain.weight.grad.eq(3).all()  # of the handle that is saved
        assert plain.state_dict().keys() == {"weight", "bias"}
    finally:
        torch.distributed.destroy_process_group()


def ready(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def test_the_learning_rate_rises_linearly_then_falls_as_a_half_cosine():
    rates = [warmup_then_cosine(epoch, 1.1, 0.1, warmup_epochs=2, epochs=10) for epoch in (0, 0.5, 2, 4, 6, 8, 10, 12)]
    assert rates == pytest.approx([0, 0.275, 1.1, 0.1 + (1 + 0.5**0.5) / 2, 0.6, 0.1 + (1 - 0.5**0.5) / 2, 0.1, 0.1])


def test_averaged_weights_are_the_running_mean_of_the_weights(demo, training_lmdb, tmp_path):
    words = flags(demo, training_lmdb, tmp_path, "--ema", 0.75, "--warmup_epochs", 0)
    torch.manual_seed(0)  # --seed
    mean = Vec2Face(PRESETS[TINY], DROPOUT).state_dict()
    for steps in (1, 2):
        run(*words, "--max_steps", steps, "--resume", tmp_path)
        saved = checkpoint(tmp_path)
        for key, value in saved["model_vec2face"].items():
            mean[key] = 0.75 * mean[key] + 0.25 * value
            assert torch.allclose(saved["model_ema"][key], mean[key], atol=1e-6), key
            assert steps == 1 or not torch.equal(saved["model_ema"][key], value) or not value.any(), key


def test_averaging_that_begins_later_begins_with_the_weights(demo, training_lmdb, tmp_path):
    words = flags(demo, training_lmdb, tmp_path, "--warmup_epochs", 0, "--resume", tmp_path)
    run(*words, "--max_steps", 1)
    before = checkpoint(tmp_path)["model_vec2face"]
    run(*words, "--max_steps", 2, "--ema", 0.5)
    after = checkpoint(tmp_path)
    for key, value in after["model_vec2face"].items():
        assert torch.allclose(after["model_ema"][key], (before[key] + value) / 2, atol=1e-6), key


def new_state(float16):
    scaler = Precision(autocast_dtype=torch.float16 if float16 else None).scaler(torch.device("cpu"))
    return TrainingState(
        TINY, Vec2Face(PRESETS[TINY]), Discriminator(8), scaler, weight_decay=0.01, fmae_lr=1, ema_decay=0, settings={},
        run=run_description(Distributed(), [range(9)]), trained_on={},
    )  # fmt: skip


def scaled_step(state, factor=1.0):
    loss = sum(parameter.square().sum() for parameter in state.generator.parameters())
    state.scaler.scale(factor * loss).backward()
    set_learning_rates(state.optimizer, 1e-4)
    clip_and_step(state.optimizer, state.scaler, state.generator.parameters(), 2.0)
    state.scaler.update()


def test_the_loss_scale_survives_a_checkpoint(tmp_path):
    state = new_state(float16=True)
    scaled_step(state, torch.inf)  # an overflow halves the scale
    scaled_step(state)
    state.save(tmp_path / "c.pth")
    other = new_state(float16=True)
    other.resume(load_file(tmp_path / "c.pth"), "c.pth", 1)
    assert other.scaler.get_scale() == 2**15
    assert other.scaler.state_dict() == state.scaler.state_dict()
    scaled_step(other)
    scaled_step(state)
    assert all(map(torch.equal, other.generator.parameters(), state.generator.parameters()))


def test_a_run_goes_on_in_float16_and_back(tmp_path):
    """A run on a CPU or in bfloat16 leaves an empty state of the loss scale."""
    state, steps = new_state(float16=False), 0
    for float16 in (True, False, True):
        scaled_step(state)
        steps = state.step = steps + 1
        state.save(tmp_path / "c.pth")
        state = new_state(float16)
        state.resume(load_file(tmp_path / "c.pth"), "c.pth", 1)
        assert state.step == steps
        assert state.scaler.get_scale() == (2**16 if float16 else 1)
