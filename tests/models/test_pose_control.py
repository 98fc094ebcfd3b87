"""Landmark control: the released pose model's numbers, LoRA folded into the weights, adapters, and unsuitable files."""

import argparse

import numpy as np
import pytest
import torch
from adapters import lora_of, write_adapter
from filled import PARITY, filled, manifest

from models import PRESETS, TokenMask, Vec2Face, load_vec2face
from models.errors import UserError
from models.generator_file import native_checkpoint
from models.pose_control import LandmarkEncoder, add_adapter
from models.released_weights import from_released, to_released


@pytest.fixture(scope="module")
def case():
    return {key: torch.from_numpy(value) for key, value in np.load(PARITY / "golden_plus_pose.npz").items()}


@pytest.fixture(scope="module")
def released_file(tmp_path_factory):
    """pose_model.pth in the released layout, with filled weights."""
    path = tmp_path_factory.mktemp("plus") / "pose_model.pth"
    parts = {"model_vec2face": "plus_pose_generator", "pose_model": "plus_pose_condition"}
    torch.save({key: filled(manifest(name)) for key, name in parts.items()}, path)
    return path


@pytest.fixture(scope="module")
def released(released_file):
    return load_vec2face(released_file)


def error(ours, theirs):
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


def masks(count, minimum=0.8, rate=0.85):
    generator = torch.Generator().manual_seed(1)
    return TokenMask.from_noise(torch.rand(count, 49, generator=generator), minimum, rate)


def test_images_token_and_map_are_those_of_the_released_code(released, case):
    """The token to 1e-5; the map and the images to the rounding of the golden numbers, which are in float32.

    The filled LoRA is four times as large as the weights, so that this case amplifies rounding: in float64 the map is
    4e-4 and the images are 1.3e-3 from the golden ones, folded or not, and inputs that differ by 1e-7 give maps that
    differ by 4e-4. The next test has a LoRA that is as large as the weights.
    """
    mask = TokenMask.from_noise(case["mask_noise"], float(case["mask_min"]), float(case["mask_rate"]))
    with torch.inference_mode():
        condition = released.landmark_encoder(case["landmark_pictures"])
        output = released(case["vectors"], mask, landmarks=case["landmark_pictures"])
    assert error(condition, case["condition"]) < 1e-5
    assert error(output.predicted_map[..., :8], case["decoder_tokens"]) < 1e-3
    assert error(output.images, case["images"]) < 3e-3


@pytest.mark.slow
def test_folded_weights_of_the_released_size_compute_what_the_unfolded_ones_do_in_float64(
    released_file, case, tmp_path
):
    content = torch.load(released_file, weights_only=True)
    state = content["model_vec2face"]
    lora = {
        key: value * (0.3 if key.endswith(".B") else 1) for key, value in state.items() if key.endswith((".A", ".B"))
    }
    torch.save(content | {"model_vec2face": state | lora}, tmp_path / "pose_model.pth")
    torch.save({"model_vec2face": {key: state[key] for key in state.keys() - lora.keys()}}, tmp_path / "main_model.pth")
    unfolded = load_vec2face(tmp_path / "main_model.pth")
    add_adapter(unfolded, 8, 32.0, 32)
    unfolded.load_state_dict(from_released(lora), strict=False)
    unfolded.landmark_encoder.load_state_dict(content["pose_model"])
    unfolded.double().eval()
    mask = TokenMask.from_noise(case["mask_noise"], float(case["mask_min"]), float(case["mask_rate"]))
    with torch.inference_mode():
        output = load_vec2face(tmp_path / "pose_model.pth")(case["vectors"], mask, landmarks=case["landmark_pictures"])
        exact = unfolded(case["vectors"].double(), mask, landmarks=case["landmark_pictures"].double())
    assert error(output.predicted_map, exact.predicted_map) < 1e-5
    assert error(output.images, exact.images) < 5e-5


@pytest.mark.slow
def test_rank_and_alpha_are_those_of_the_file(released, released_file, tmp_path):
    assert released.lora == (8, 32)
    content = torch.load(released_file, weights_only=True)
    content["args"] = argparse.Namespace(lora_alpha=16)
    torch.save(content, tmp_path / "x.pth")
    assert load_vec2face(tmp_path / "x.pth").lora == (8, 16)


def test_a_generator_file_without_gan_and_without_lora_loads(demo, tmp_path):
    """The layout of main_model.pth: the state dict under its released names, nothing else."""
    plain = load_vec2face(demo.generator)
    torch.save({"model_vec2face": to_released(plain.state_dict())}, tmp_path / "main_model.pth")
    state = torch.load(demo.generator, weights_only=True)
    assert state["architecture"]["group_width"] == plain.architecture.group_width
    main = load_vec2face(tmp_path / "main_model.pth")
    assert main.lora is None
    assert main.landmark_encoder is None
    for key, value in main.state_dict().items():
        assert torch.equal(value, plain.state_dict()[key])


def test_folded_weights_compute_what_the_layers_in_training_compute(demo, tmp_path):
    adapter = write_adapter(tmp_path / "adapter.pth", rank=3, alpha=6.0, seed=1)
    folded = load_vec2face(demo.generator, adapter=adapter)
    content = torch.load(adapter, weights_only=True)
    unfolded = load_vec2face(demo.generator)
    add_adapter(unfolded, 3, 6.0, 4)
    unfolded.load_state_dict(content["model_vec2face"], strict=False)
    unfolded.landmark_encoder.load_state_dict(content["pose_model"])
    vectors = torch.from_numpy(np.load(demo.vectors)[:2])
    pictures = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.inference_mode():
        images = [net.eval()(vectors, masks(2), landmarks=pictures).images for net in (folded, unfolded)]
    assert error(*images) < 1e-5
    assert folded.lora == (3, 6)
    assert not any("base" in key or key.endswith((".A", ".B")) for key in folded.state_dict())


def test_a_new_adapter_says_nothing_and_only_it_is_trained(generator):
    generator = load_vec2face_copy(generator)
    parameters = add_adapter(generator, 8, 32.0, 8)
    names = {name for name, value in generator.named_parameters() if value.requires_grad}
    assert all(name.startswith("landmark_encoder.") or name.endswith((".A", ".B")) for name in names)
    assert len(names) == len(parameters) == 2 * 2 * 10 + 10
    token = generator.landmark_encoder(torch.rand(2, 3, 112, 112))
    assert token.shape == (2, 1, 256)
    assert not token.any()


def test_an_added_token_begins_as_the_generator_itself(generator, vectors):
    copy = load_vec2face_copy(generator)
    add_adapter(copy, 8, 32.0, 8, "added")
    vectors, pictures = torch.from_numpy(vectors[:2]), torch.rand(2, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(
            copy(vectors, masks(2), landmarks=pictures).images, generator(vectors, masks(2)).images
        )


def load_vec2face_copy(generator):
    copy = Vec2Face(generator.architecture).eval()
    copy.load_state_dict(generator.state_dict())
    return copy


def test_landmarks_without_a_landmark_encoder_or_of_another_shape_are_refused(generator, demo, tmp_path):
    vectors = torch.ones(2, 512)
    with pytest.raises(ValueError, match="no landmark encoder"):
        generator(vectors, masks(2), landmarks=torch.zeros(2, 3, 112, 112))
    adapted = load_vec2face(demo.generator, adapter=write_adapter(tmp_path / "adapter.pth"))
    for shape in ((2, 3, 96, 96), (1, 3, 112, 112), (2, 1, 112, 112)):
        with pytest.raises(ValueError, match="landmark pictures must have shape"):
            adapted(vectors, masks(2), landmarks=torch.zeros(shape))


def test_an_adapter_of_another_preset_is_refused(demo, tmp_path):
    path = write_adapter(tmp_path / "adapter.pth", model="vec2face_vit_base_patch16")
    with pytest.raises(UserError, match="adapts a vec2face_vit_base_patch16, not a vec2face_vit_tiny"):
        load_vec2face(demo.generator, adapter=path)


def test_a_file_that_is_no_adapter_is_refused(demo):
    with pytest.raises(UserError, match="not an adapter for landmark control"):
        load_vec2face(demo.generator, adapter=demo.encoder)


def test_lora_matrices_that_do_not_fit_are_refused_by_name(demo, tmp_path):
    path = write_adapter(tmp_path / "adapter.pth")
    content = torch.load(path, weights_only=True)
    lora = content["model_vec2face"]
    key = "decoder.blocks.0.attn.proj"
    for change, message in (
        ({key + ".A": torch.zeros(8, 768)}, "does not fit this generator"),
        ({key + ".A": torch.zeros(4, 256), key + ".B": torch.zeros(256, 4)}, "rank 4 in one layer and 8|rank 8 in one"),
        ({key + ".A": torch.zeros(4, 256)}, "does not fit this generator"),
    ):
        torch.save(content | {"model_vec2face": lora | change}, path)
        with pytest.raises(UserError, match=message):
            load_vec2face(demo.generator, adapter=path)
    torch.save(content | {"model_vec2face": {k: v for k, v in lora.items() if k != key + ".B"}}, path)
    with pytest.raises(UserError, match="LoRA is incomplete at decoder"):
        load_vec2face(demo.generator, adapter=path)


def test_a_landmark_encoder_of_another_width_is_refused(tmp_path):
    generator = Vec2Face(PRESETS["vec2face_vit_tiny"])
    content = native_checkpoint(generator.state_dict(), "vec2face_vit_tiny")
    content["pose_model"] = LandmarkEncoder(768, 4).state_dict()
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match="landmark encoder for a decoder of width 256"):
        load_vec2face(tmp_path / "x.pth")


def test_a_file_with_lora_and_no_landmark_encoder_loads_as_a_plain_generator(demo, tmp_path):
    state = load_vec2face(demo.generator).state_dict()
    lora = lora_of(rank=2)
    wrapped = {}
    for key, value in state.items():
        layer, _, end = key.rpartition(".")
        wrapped[f"{layer}.base.{end}" if f"{layer}.A" in lora else key] = value
    content = torch.load(demo.generator, weights_only=True)
    torch.save(content | {"model_vec2face": wrapped | lora}, tmp_path / "x.pth")
    generator = load_vec2face(tmp_path / "x.pth")
    assert generator.lora == (2, 32)
    assert generator.landmark_encoder is None
    layer = "encoder.blocks.3.attn.qkv"
    expected = state[f"{layer}.weight"] + 16 * lora[f"{layer}.B"] @ lora[f"{layer}.A"]
    torch.testing.assert_close(generator.state_dict()[f"{layer}.weight"], expected)
