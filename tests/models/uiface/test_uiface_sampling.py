"""Two-stage sampling: parity, when samples get their identity, and the numbers it takes."""

import math

import pytest
import torch
from filled import filled, manifest
from uiface_models import batch, error, golden, small_unet

from models.errors import UserError
from models.uiface import attention_map, two_stage_ddim
from models.uiface.schedule import TIMESTEPS, alpha_bars, ddim_step
from models.uiface.weights import unet_of

ALL, NONE = [True] * 3, [False] * 3


@pytest.fixture(scope="module")
def case():
    return golden("small")


@pytest.fixture(scope="module")
def net():
    return unet_of(filled(manifest("uiface_unet_small")), "filled").for_inference()


@pytest.fixture(scope="module")
def tiny():
    return small_unet()


def traced(net, noise, context, *numbers, **options):
    """The latents, and the steps as the sampler reports them."""
    steps = []
    return two_stage_ddim(net, noise, context, *numbers, **options, on_step=steps.append), steps


def plainly(net, noises, context, steps, threshold, stage_step, guidance):
    """The definition, one sample at a time, with both passes in every step."""
    stride, samples = 1000 // steps, []
    betas = torch.linspace(1e-4, 0.02, 1000)
    bars = torch.cumprod(1 - betas, 0)
    for x, c in zip(noises[:, None], context[:, None], strict=True):
        last, flag = None, torch.tensor([False])
        for t in reversed(range(0, 1000, stride)):
            time = torch.tensor([t])
            a = net(x, time)
            if t >= stage_step:
                b = net(x, time, c, flag, a.self_attention)
                noise, h = b.noise, attention_map(b.cross_attention, x.shape[2:])
                if last is not None and (h - last).abs().mean() < threshold:
                    flag = torch.tensor([True])
                last = h
            else:
                b = net(x, time, c, None, a.self_attention, a.cross_attention)
                noise = (1 + guidance) * b.noise - guidance * a.noise
            before = bars[t - stride - 1] if t - stride > 0 else torch.tensor(1.0)
            clean = (x - (1 - bars[t]).sqrt() * noise) / bars[t].sqrt()
            x = before.sqrt() * clean + (1 - before).sqrt() * noise
        samples.append(x)
    return torch.cat(samples)


@pytest.mark.slow
def test_samples_that_switch_early_or_never_are_those_of_the_released_code(net, case):
    noise, context, steps, stage_step = case["noise"], case["context"], int(case["steps"]), int(case["stage_step"])
    early = two_stage_ddim(net, noise, context, steps, float(case["threshold"]), stage_step)
    never = two_stage_ddim(net, noise, context, steps, 0, stage_step)
    assert error(early, case["sampled"]) < 1e-5
    assert error(never, case["sampled_never_switched"]) < 1e-5
    # With filled weights most of a sample is the noise it began with; this is what the identity changed.
    assert error(early - never, case["sampled"] - case["sampled_never_switched"]) < 0.02


@torch.inference_mode()
def test_attention_maps_are_those_of_the_released_code(net, case):
    injected = net(case["noise"], case["t"]).self_attention
    output = net(case["noise"], case["t"], case["context"], case["flag"], injected)
    assert error(attention_map(output.cross_attention, (32, 32)), case["attention_map"]) < 1e-4


def test_the_schedule_is_that_of_the_released_code(case):
    assert error(alpha_bars()[[0, -1]], case["alpha_bar_first_last"]) < 1e-5
    x, noise = torch.ones(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)
    last = ddim_step(x, noise, 20, 20, alpha_bars())  # nothing is left of the noise at the last but one step, too
    bar = alpha_bars()[20]
    assert torch.allclose(last, (x - (1 - bar).sqrt() * noise) / bar.sqrt())


@pytest.mark.filterwarnings("ignore:note. 7 steps")
@torch.inference_mode()
@pytest.mark.parametrize(("steps", "stage_step", "guidance"), [(10, 500, 1.0), (8, 300, 2.5), (7, 640, 0.0)])
def test_a_batch_of_samples_that_switch_at_different_steps_follows_the_definition(tiny, steps, stage_step, guidance):
    noise, context = batch(4, seed=1)
    _, trace = traced(tiny, noise, context, steps, 0, stage_step)
    distances = torch.stack([step.distance for step in trace if step.distance is not None])
    threshold = float(distances[0].median() + distances[0].max()) / 2  # which one of four does not reach at first
    sampled, trace = traced(tiny, noise, context, steps, threshold, stage_step, guidance)
    assert 0 < trace[2].identity.sum() < 4
    assert error(sampled, plainly(tiny, noise, context, steps, threshold, stage_step, guidance)) < 1e-5


def test_a_threshold_that_is_never_reached_leaves_the_identity_to_the_second_stage(tiny):
    noise, context = batch(3)
    sampled, steps = traced(tiny, noise, context, 10, 0)
    assert [step.identity.tolist() for step in steps] == [NONE] * 5 + [ALL] * 5
    assert [step.t for step in steps] == list(range(900, -1, -100))
    assert [step.distance is None for step in steps] == [True] + [False] * 4 + [True] * 5
    assert sampled.isfinite().all()


def test_a_threshold_that_is_always_reached_gives_the_identity_as_soon_as_two_maps_are_known(tiny):
    noise, context = batch(3)
    sampled, steps = traced(tiny, noise, context, 10, math.inf)
    assert [step.identity.tolist() for step in steps] == [NONE] * 2 + [ALL] * 8
    assert not torch.equal(sampled, two_stage_ddim(tiny, noise, context, 10, 0))


def test_either_stage_may_be_all_of_the_sampling(tiny):
    noise, context = batch(3)
    other = context.flip(0)
    sampled, steps = traced(tiny, noise, context, 5, 0, 0)
    assert [step.identity.tolist() for step in steps] == [NONE] * 5
    assert torch.equal(sampled, two_stage_ddim(tiny, noise, other, 5, 0, 0))  # nobody's face
    sampled, steps = traced(tiny, noise, context, 5, 0, TIMESTEPS)
    assert [step.identity.tolist() for step in steps] == [ALL] * 5
    assert not torch.equal(sampled, two_stage_ddim(tiny, noise, other, 5, 0, TIMESTEPS))


def test_sampling_without_injection_differs_and_guidance_counts(tiny):
    noise, context = batch(2)
    usual = two_stage_ddim(tiny, noise, context, 5, math.inf)
    assert error(two_stage_ddim(tiny, noise, context, 5, math.inf, injection=False), usual) > 5e-5
    assert error(two_stage_ddim(tiny, noise, context, 5, math.inf, guidance=3), usual) > 5e-5


def test_steps_that_do_not_divide_1000_give_more_steps_and_a_note(tiny):
    noise, context = batch(1)
    with pytest.warns(UserWarning, match="30 steps do not divide 1000: one timestep in 33 makes 31 steps"):
        _, steps = traced(tiny, noise, context, 30)
    assert [step.t for step in steps] == list(range(990, -1, -33))


def test_contexts_not_of_length_1_are_normalised_with_a_note(tiny):
    noise, context = batch(2)
    with pytest.warns(UserWarning, match="contexts of lengths 2 to 22 are normalised") as notes:
        sampled = two_stage_ddim(tiny, noise, context * torch.tensor([[2.0], [22.0]]), 5)
    assert notes[0].filename == __file__
    assert error(sampled, two_stage_ddim(tiny, noise, context, 5)) < 1e-5


def test_contexts_that_cannot_be_used_are_refused_before_anything_is_computed(tiny):
    noise, context = batch(2)
    for contexts, message in (
        (context[:, :5], r"contexts of shape \(2, 5\): this UNet takes identity vectors \(N, 8\)"),
        (context[:1], "1 contexts for 2 latents"),
        (context * torch.tensor([[1.0], [0.0]]), "context 1 is zero or not finite"),
        (context * torch.tensor([[math.nan], [1.0]]), "context 0 is zero or not finite"),
    ):
        with pytest.raises(UserError, match=message):
            two_stage_ddim(tiny, noise, contexts, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "0 sampling steps: must be a number from 1 to 1000"),
        ({"steps": 1001}, "1001 sampling steps"),
        ({"threshold": -0.1}, "threshold -0.1: must be at least 0"),
        ({"threshold": math.nan}, "threshold nan"),
        ({"stage_step": 1001}, "stage_step 1001: must be a timestep"),
        ({"guidance": math.nan}, "guidance nan: must be a finite number"),
    ],
)
def test_numbers_out_of_their_range_are_refused(tiny, options, message):
    with pytest.raises(UserError, match=message):
        two_stage_ddim(tiny, *batch(1), **options)


def test_sampling_leaves_a_network_in_training_mode_there_and_draws_nothing_at_random(tiny):
    noise, context = batch(2)
    net = small_unet().train()
    assert torch.equal(two_stage_ddim(net, noise, context, 5), two_stage_ddim(tiny, noise, context, 5))
    assert net.training
