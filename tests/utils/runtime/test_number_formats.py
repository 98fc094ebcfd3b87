"""The number formats that a device computes in; nothing overflows or is rounded without being asked."""

import json

import pytest
import torch
from fake_cuda import AMPERE, TURING, fake_cuda
from generator_training import flags, run
from paths import Demo

import image_generation
from models import load_vec2face
from models.attrop import AttrOP, quality_target
from models.iresnet import trainable_encoder
from models.masking import TokenMask
from models.weight_files import load_file
from scripts import plot_training
from utils.runtime.distributed import Distributed
from utils.runtime.precision import Precision
from utils.training.log import Log

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
BLOCKS = ("encoder.blocks.", "decoder.blocks.")


@pytest.fixture(autouse=True)
def backend_flags():
    """Those of before the test, after it."""
    before = torch.backends.cudnn.deterministic
    with Precision().applied():
        yield
    torch.backends.cudnn.deterministic = before


def flags_now():
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic


def drawn_mask(count):
    return TokenMask.from_noise(torch.rand(count, 49), 0.1, 0.2)


@pytest.mark.parametrize(("capability", "name"), [(AMPERE, "bf16"), (TURING, "fp16"), ((7, 0), "fp16")])
def test_auto_is_bf16_from_ampere_on_and_fp16_before(capability, name):
    with fake_cuda(capability):
        assert Precision.for_inference("auto", CUDA).name == name


@pytest.mark.parametrize("capability", [TURING, AMPERE])
def test_fp16_on_a_gpu_keeps_the_transformer_blocks_in_float32(capability):
    generator, encoder = load_vec2face(Demo.generator), trainable_encoder(load_file(Demo.encoder), Demo.encoder)
    with fake_cuda(capability) as waits:
        dtype = Precision.for_inference("fp16", CUDA).dtype
        generator, encoder = generator.for_inference(CUDA, dtype), encoder.for_inference(CUDA, dtype)
        dtypes = {name: parameter.dtype for name, parameter in generator.named_parameters()}
        assert {dtypes[name] for name in dtypes if name.startswith(BLOCKS)} == {torch.float32}
        assert {dtypes[name] for name in dtypes if name.startswith(("expander.", "image_decoder."))} == {torch.float16}

        seen = []
        for block in (*generator.encoder.blocks, *generator.decoder.blocks):
            block.register_forward_hook(lambda block, inputs, output: seen.append(output.dtype))
        vectors, mask = torch.randn(2, 512).to(CUDA), drawn_mask(2).to(CUDA)
        attrop = AttrOP(generator, encoder, [quality_target(encoder, 20)], batch_size=2)
        step = attrop.evaluate(vectors, vectors, mask)
        waits.counts.clear()
        gradient = step.gradient()
        assert set(seen) == {torch.float32}
        assert (step.images.dtype, step.images.device, gradient.dtype) == (torch.float32, CUDA, torch.float32)
        assert gradient.shape == vectors.shape
        assert waits.counts["reads"] == 0


def test_what_overflows_float16_within_the_blocks_is_finite_in_fp16():
    """One channel of the residual stream is 1e5 between the first and the last block; float16 ends at 65,504."""
    outputs, vectors, mask = {}, torch.randn(2, 512, generator=torch.manual_seed(0)), drawn_mask(2)
    for dtype in (torch.float32, torch.float16):
        generator = load_vec2face(Demo.generator)
        for blocks in (generator.encoder.blocks, generator.decoder.blocks):
            blocks[0].mlp.fc2.bias[0] += 1e5
            blocks[-1].mlp.fc2.bias[0] -= 1e5
        outputs[dtype] = generator.for_inference("cpu", dtype)(vectors, mask)
    exact, half = outputs.values()
    assert half.images.dtype == torch.float32
    assert half.images.isfinite().all()
    torch.testing.assert_close(half.predicted_map, exact.predicted_map, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("capability", "asked", "autocast", "tf32", "scaled"),
    [
        (AMPERE, "bfloat16", torch.bfloat16, True, False),
        (AMPERE, "float16", torch.float16, True, True),
        (TURING, "bfloat16", torch.float16, False, True),
        (TURING, "float16", torch.float16, False, True),
    ],
)
def test_training_uses_what_the_gpu_has(capability, asked, autocast, tf32, scaled, tmp_path, capsys):
    with fake_cuda(capability):
        precision = Precision.for_training(True, asked, CUDA)
        assert (precision.autocast_dtype, precision.weights, precision.tf32) == (autocast, torch.float32, tf32)
        assert precision.scaler(CUDA).is_enabled() == scaled
        with precision.autocast(CUDA):
            assert (torch.ones(2, 2, device=CUDA) @ torch.ones(2, 2, device=CUDA)).dtype == autocast
    log = Log(tmp_path, Distributed(), 0, 1, shown=())
    log.begin(precision)
    log.close()
    assert ("has no bfloat16; training in float16" in capsys.readouterr().out) == (
        capability < AMPERE and asked != "float16"
    )


def test_training_without_autocast_uses_tf32_where_the_gpu_has_it():
    with fake_cuda(AMPERE):
        precision = Precision.for_training(False, "float16", CUDA)
    assert (precision.name, precision.tf32, precision.autocast_dtype) == ("fp32", True, None)


def test_training_on_a_cpu_never_scales_the_loss_nor_uses_tf32():
    precision = Precision.for_training(True, "float16", CPU)
    assert not precision.scaler(CPU).is_enabled()
    assert not precision.tf32


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_generation_and_measuring_are_without_tf32(name):
    with fake_cuda(AMPERE):
        training = Precision.for_training(True, "float16", CUDA)
        inference = Precision.for_inference(name, CUDA)
    training.apply()
    assert flags_now() == ("high", True, False)
    with inference.applied():
        assert flags_now() == ("highest", False, False)
    assert flags_now() == ("high", True, False)
    inference.apply(deterministic=True)
    assert flags_now() == ("highest", False, True)


def test_a_generation_script_sets_the_flags_and_settings_json_says_the_formats(tmp_path):
    Precision(tf32=True).apply()
    words = ["--center_feature", Demo.vectors, "--start_end", "0:1", "--example", 1, "--skip_attrop", "--no-measure"]
    words += [*Demo.models, "--output_dir", tmp_path, "--name", "people"]
    image_generation.main(list(map(str, words)))
    assert flags_now() == ("highest", False, True)
    content = json.loads((tmp_path / "people.about" / "settings.json").read_text())
    assert content["settings"]["precision"] == "fp32"
    assert content["environment"]["number_formats"] == {
        "weights": "float32", "autocast": None, "transformer_blocks": "float32", "tf32": False, "loss_scaling": False,
    }  # fmt: skip


def test_a_log_says_the_number_formats_once_each_time_the_run_begins(demo, training_lmdb, tmp_path, capsys):
    words = flags(demo, training_lmdb, tmp_path, "--log_every", 1, "--epochs", 2)
    run(*words, "--max_steps", 2)
    assert "computing with float32 weights, no autocast, TF32 off\n" in capsys.readouterr().out
    run(*words, "--max_steps", 4, "--resume", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "number_formats" in line] == [1, 3]
    assert lines[0]["number_formats"] == Precision().describe()
    plot_training.main([str(tmp_path)])
    assert (tmp_path / "curves.png").exists()
