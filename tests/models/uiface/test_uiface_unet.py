"""UIFace's UNet: what it computes, how contexts and attention enter it, and its weight files."""

from dataclasses import replace

import pytest
import torch
from filled import filled, manifest
from uiface_models import SMALLEST, batch, error, golden, small_unet

from models.errors import UserError
from models.uiface import PRESETS, UNet, load_uiface_unet, save_uiface_unet
from models.uiface.attention import blend_statistics


@pytest.fixture(scope="module")
def case():
    return golden("small")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file with the released names and filled weights, 32 channels in the place of 96."""
    path = tmp_path_factory.mktemp("uiface") / "small.ckpt"
    torch.save(filled(manifest("uiface_unet_small")), path)
    return path


@pytest.fixture(scope="module")
def net(released):
    return load_uiface_unet(released)


@pytest.fixture(scope="module")
def tiny():
    return small_unet()


def shapes(net):
    return {key: list(value.shape) for key, value in net.state_dict().items()}


@torch.inference_mode()
def test_the_noise_of_one_pass_is_that_of_the_released_code(net, case):
    x, t, context = case["noise"], case["t"], case["context"]
    empty = net(x, t, None)
    assert len(empty.self_attention) == len(empty.cross_attention) == 16
    assert error(empty.noise, case["eps_empty"]) < 1e-4
    assert error(net(x, t, context).noise, case["eps_identity"]) < 1e-4
    stage1 = net(x, t, context, flag=case["flag"], self_attention=empty.self_attention)
    assert error(stage1.noise, case["eps_stage1"]) < 1e-4
    stage2 = net(x, t, context, self_attention=empty.self_attention, cross_attention=empty.cross_attention)
    assert error(stage2.noise, case["eps_stage2"]) < 1e-4


def test_the_published_network_has_the_released_names_and_shapes():
    with torch.device("meta"):
        assert shapes(UNet(PRESETS["uiface"])) == {key: shape for key, (shape, _) in manifest("uiface_unet").items()}


def test_the_tiny_network_takes_latents_of_faces_of_112_pixels():
    net = UNet(PRESETS["uiface_tiny"]).eval()
    noise, context = batch(1, side=28, vector_size=512)
    with torch.inference_mode():
        output = net(noise, torch.tensor([500]), context)
    assert output.noise.shape == (1, 3, 28, 28)
    assert [logits.shape[2] for logits in output.cross_attention] == [196, 196, 49, 49, 49, 49, 49, 49, 196, 196, 196]


@torch.inference_mode()
def test_samples_without_their_flag_are_drawn_as_with_the_empty_context(tiny):
    noise, context = batch(3)
    t = torch.tensor([900, 500, 100])
    flag = torch.tensor([False, True, False])
    mixed = tiny(noise, t, context, flag).noise
    assert torch.allclose(mixed[~flag], tiny(noise, t).noise[~flag], atol=1e-5)
    assert torch.allclose(mixed[flag], tiny(noise, t, context).noise[flag], atol=1e-5)
    assert not torch.allclose(tiny(noise, t).noise, tiny(noise, t, context).noise, atol=1e-3)


@torch.inference_mode()
def test_injecting_the_self_attention_of_the_same_pass_changes_no_bit(tiny):
    noise, _ = batch(2)
    t = torch.tensor([900, 100])
    first = tiny(noise, t)
    assert torch.equal(tiny(noise, t, self_attention=first.self_attention).noise, first.noise)


def test_blended_logits_have_statistics_halfway_to_the_given_ones():
    own, given = torch.randn(2, 3, 4, 32), 5 + 3 * torch.randn(2, 3, 4, 32)
    blended = blend_statistics(own, given)
    assert torch.allclose(blended.mean(-1), (own.mean(-1) + given.mean(-1)) / 2, atol=1e-5)
    assert torch.allclose(blended.std(-1), (own.std(-1) + given.std(-1)) / 2, atol=1e-5)
    assert torch.equal(blended.argsort(-1), own.argsort(-1))
    equal = torch.full((1, 1, 1, 32), 2.0)  # nothing to standardise
    assert blend_statistics(equal, given[:1, :1, :1]).isfinite().all()


def test_training_drops_elements_of_contexts_and_gives_some_samples_the_empty_one():
    net = small_unet().train()
    torch.manual_seed(0)
    empty = net.empty_context_embedding
    _, context = batch(2000)
    embedded = net.embed_context(context, None, len(context))
    without = (embedded == empty).all(1)
    assert without[0]
    assert without.float().mean() == pytest.approx(0.2, abs=0.03)
    assert (embedded[~without] == 0).float().mean() == pytest.approx(0.25, abs=0.01)
    noise, context = batch(4)
    net(noise, torch.arange(4), context).noise.square().mean().backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters())
    assert empty.grad.abs().sum() > 0


@pytest.mark.parametrize("prefix", ["", "eps_model.", "_module.module.eps_model."])
def test_released_files_are_read_with_any_prefix_and_written_with_the_released_names(prefix, tmp_path):
    net = small_unet()
    content = {prefix + key: value for key, value in net.state_dict().items()} | {"alpha_bars": torch.ones(1000)}
    torch.save(content, tmp_path / "net.ckpt")
    loaded = load_uiface_unet(tmp_path / "net.ckpt")
    assert loaded.architecture == SMALLEST
    save_uiface_unet(loaded, tmp_path / "written.ckpt")
    written = torch.load(tmp_path / "written.ckpt", weights_only=True)
    assert written.keys() == net.state_dict().keys()
    assert all(torch.equal(written[key], value) for key, value in net.state_dict().items())


def test_a_file_of_another_width_is_refused_by_name(tmp_path):
    for architecture, model, message in (
        (PRESETS["uiface_tiny"], "uiface", "not a uiface, whose width is 96, but uiface_tiny"),
        (SMALLEST, "uiface_tiny", "not a uiface_tiny, whose width is 32, but no preset"),
        (replace(SMALLEST, width=48, groups=16), None, "levels of 48, 96 channels"),
    ):
        torch.save(UNet(architecture).state_dict(), tmp_path / "net.ckpt")
        with pytest.raises(UserError, match=rf"net\.ckpt: .*{message}"):
            load_uiface_unet(tmp_path / "net.ckpt", model=model)
    state = UNet(SMALLEST).state_dict() | {"middle.attn.ff.0.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "net.ckpt")
    with pytest.raises(UserError, match=r"middle.attn.ff.0.bias is \(7,\) instead of \(256,\)"):
        load_uiface_unet(tmp_path / "net.ckpt")


def test_a_missing_file_and_one_of_another_network_are_refused_by_name(tmp_path, demo):
    with pytest.raises(UserError, match=r"absent\.ckpt: no such UNet file"):
        load_uiface_unet(tmp_path / "absent.ckpt")
    with pytest.raises(UserError, match=r"not a UNet of UIFace: missing image_proj\.weight"):
        load_uiface_unet(demo.encoder)


def test_contexts_and_latents_of_another_width_are_refused(tiny):
    noise, context = batch(2)
    t = torch.tensor([1, 2])
    with pytest.raises(UserError, match=r"contexts of shape \(2, 5\): this UNet takes identity vectors \(N, 8\)"):
        tiny(noise, t, context[:, :5])
    for latents in (noise[:, :2], noise[..., :7]):
        with pytest.raises(UserError, match=r"latents of shape .* multiples of 2"):
            tiny(latents, t, context)


def test_float16_keeps_the_times_exact_and_bfloat16_runs(tiny):
    noise, context = batch(2)
    t = torch.tensor([999, 3])
    exact = tiny(noise, t, context).noise
    half = small_unet().for_inference(dtype=torch.bfloat16)(noise, t, context).noise
    assert half.dtype == torch.float32
    assert error(half, exact) < 0.05
