"""The generator: its masks, its gradients and its weight files."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models import PRESETS, MaskRates, TokenMask, Vec2Face, load_vec2face
from models.errors import UserError
from models.vec2face import take_rows
from models.weight_files import skip_init

TINY = PRESETS["vec2face_vit_tiny"]
rates = st.floats(0, 1)
noises = arrays(np.float64, (3, 49), elements=st.floats(0, 1, exclude_max=True))


@given(noises, rates, arrays(np.float64, 3, elements=rates))
def test_dropped_rows_are_masked_rows_and_both_counts_are_as_defined(noise, drop_ratio, mask_rate):
    mask = TokenMask.from_noise(torch.from_numpy(noise), drop_ratio, torch.from_numpy(mask_rate))
    dropped = math.ceil(49 * drop_ratio)
    assert mask.kept.shape == (3, 49 - dropped)
    assert (mask.kept.diff(dim=1) > 0).all()
    for row in range(3):
        masked = set(mask.masked[row].nonzero().flatten().tolist())
        assert set(range(49)) - set(mask.kept[row].tolist()) <= masked  # every dropped row is masked
        assert len(masked) == max(dropped, math.ceil(49 * mask_rate[row]))


def test_the_rows_with_the_smallest_noises_are_masked():
    noise = torch.arange(49.0).flip(0)[None]  # the smallest stand last
    mask = TokenMask.from_noise(noise, 0.1, 0.3)
    assert mask.kept.tolist() == [list(range(44))]
    assert mask.masked.nonzero()[:, 1].tolist() == list(range(34, 49))


def test_the_masks_of_a_batch_are_those_of_its_streams():
    streams = [[np.random.default_rng(seed) for seed in (3, 4)] for _ in range(2)]
    masks = MaskRates().draw_masks(streams[0])
    for row, stream in enumerate(streams[1]):
        noise, rate = MaskRates().draw(stream)
        alone = TokenMask.from_noise(torch.from_numpy(noise)[None], 0.1, rate)
        assert masks.masked[row].equal(alone.masked[0])
        assert masks.kept[row].equal(alone.kept[0])


@pytest.mark.parametrize(
    ("shape", "drop", "rate"), [((2, 48), 0.1, 0.3), ((49,), 0.1, 0.3), ((2, 49), 1.1, 0.3), ((2, 49), 0.1, -0.1)]
)
def test_a_mask_of_wrong_shapes_or_ratios_is_refused(shape, drop, rate):
    with pytest.raises(ValueError, match=r"mask noise|drop ratio"):
        TokenMask.from_noise(torch.rand(shape), drop, rate)


def test_rows_are_masked_dropped_and_restored_as_defined():
    """The decoder gets encoded rows on unmasked places only, and row 0 everywhere else."""
    generator = Vec2Face(TINY).eval()
    mask = TokenMask.from_noise(torch.rand(2, 49), 0.2, 0.5)
    encoded = torch.randn(2, 1 + mask.kept.shape[1], TINY.width)
    seen = []
    generator.decoder.blocks.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        generator.decoder(encoded, mask)
        embedded = generator.decoder.embed(encoded)
    tokens = seen[0] - generator.decoder.positions
    for n in range(2):
        for row in range(49):
            kept = mask.kept[n].tolist()
            source = 0 if mask.masked[n, row] else 1 + kept.index(row)
            assert torch.allclose(tokens[n, 1 + row], embedded[n, source], atol=1e-6)


def test_take_rows_picks_the_rows_of_each_sample():
    tokens = torch.randn(2, 5, 3)
    index = torch.tensor([[4, 0], [1, 1]])
    assert torch.equal(take_rows(tokens, index), torch.stack([tokens[0, [4, 0]], tokens[1, [1, 1]]]))


@pytest.mark.parametrize("ratios", [(0.1, 0.15), (0.0, 0.0), (1.0, 1.0)])
def test_every_parameter_gets_a_finite_gradient(ratios):
    generator = Vec2Face(TINY).train()
    output = generator(torch.randn(2, 512), TokenMask.from_noise(torch.rand(2, 49), *ratios))
    assert output.images.shape == (2, 3, 112, 112)
    assert output.target_map.shape == output.predicted_map.shape == (2, 50, 256)
    (output.images.square().mean() + output.predicted_map.square().mean()).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert not output.target_map.requires_grad


def test_own_and_released_files_load_alike(generator, tmp_path):
    content = {"model_vec2face": generator.state_dict(), "architecture": asdict(generator.architecture)}
    torch.save(content, tmp_path / "own.pth")
    own = load_vec2face(tmp_path / "own.pth")
    mask = TokenMask.from_noise(torch.rand(2, 49), 0.1, 0.3)
    vectors = torch.randn(2, 512)
    assert torch.equal(own(vectors, mask).images, generator(vectors, mask).images)
    assert not any(parameter.requires_grad for parameter in own.parameters())
    assert not own.training


def test_loading_other_weights_forgets_the_fused_kernels(generator):
    other = Vec2Face(TINY).eval()
    mask = TokenMask.from_noise(torch.rand(1, 49), 0.1, 0.3)
    vectors = torch.randn(1, 512)
    with torch.no_grad():
        expected = other(vectors, mask).images
        reused = load_vec2face("weights/demo/vec2face_generator.pth")
        reused.load_state_dict(other.state_dict())
        difference = (reused(vectors, mask).images - expected).norm()
    assert difference < 1e-3 * expected.norm()


def test_gradient_reaches_the_vectors_and_no_weight(generator):
    vectors = torch.randn(2, 512, requires_grad=True)
    generator(vectors, TokenMask.from_noise(torch.rand(2, 49), 0.1, 0.3)).images.mean().backward()
    assert vectors.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_bfloat16_images_stay_close_to_float32(generator, vectors, demo):
    low = load_vec2face(demo.generator, dtype=torch.bfloat16)
    mask = TokenMask.from_noise(torch.rand(4, 49), 0.1, 0.15)
    x = torch.from_numpy(vectors[:4])
    with torch.inference_mode():
        difference = (low(x, mask).images - generator(x, mask).images).abs().mean()
    assert difference < 0.02


def test_weights_from_a_file_are_not_drawn_first(demo):
    before = torch.get_rng_state()
    with skip_init():
        Vec2Face(TINY)
    load_vec2face(demo.generator)
    assert torch.equal(torch.get_rng_state(), before)
    Vec2Face(TINY)
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_file_of_another_preset_than_asked_for_is_refused(demo):
    with pytest.raises(UserError, match="vec2face_vit_tiny, not a vec2face_vit_base_patch16"):
        load_vec2face(demo.generator, model="vec2face_vit_base_patch16")


def test_a_file_whose_sizes_match_no_preset_is_refused(tmp_path):
    state = Vec2Face(TINY).state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("encoder.blocks.5.")}
    torch.save({"model_vec2face": state}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd\.pth: no preset has its sizes .*depth 5"):
        load_vec2face(tmp_path / "odd.pth")


def test_groups_are_those_of_the_weight_file(generator, demo, tmp_path):
    """Released files do not say how wide groups are: 32 groups. Ours do."""
    content = torch.load(demo.generator, weights_only=True)
    assert content["architecture"]["group_width"] == generator.image_decoder.norm_out.num_channels // 8 == 4
    del content["architecture"]
    torch.save(content, tmp_path / "released.pth")
    released = load_vec2face(tmp_path / "released.pth")
    assert released.image_decoder.norm_out.num_groups == 32
    torch.save(content | {"architecture": {"group_width": 7}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: .* groups of 7 channels"):
        load_vec2face(tmp_path / "other.pth")
