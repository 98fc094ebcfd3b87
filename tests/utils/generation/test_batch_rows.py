"""On a CPU the result of a row depends neither on the rest of its batch, nor on its position, nor on --batch_size."""

import numpy as np
import pytest
import torch
from paths import DEMO, files_of

import image_generation
from models import AttrOP, Row, load_face_encoder, load_pose_estimator, load_vec2face, quality_target, yaw_target
from models.masking import MaskRates
from utils.generation.batch_rows import CPU_ATTROP_ROWS, CPU_DECODED_ROWS, attrop_rows, decoded_rows
from utils.generation.pipeline import generate
from utils.generation.recipe import Identity, Recipe
from utils.generation.streams import identity_stream

CPU = torch.device("cpu")


@pytest.fixture(params=["fp32", "bf16"])
def models(request):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[request.param]
    return (
        load_vec2face(DEMO / "vec2face_generator.pth", dtype=dtype),
        load_face_encoder(DEMO / "face_encoder.pth", dtype=dtype),
        load_pose_estimator(DEMO / "head_pose.pth", dtype=dtype),
    )


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_on_a_gpu_the_flag_decides():
    assert attrop_rows(5, torch.device("cuda")) == decoded_rows(5, torch.device("cuda")) == 5


def test_attrop_rows_are_byte_equal_alone_and_among_others(models, threads, vectors):
    """Images and vectors after two iterations, so gradients, too; alone a row has another place than among others."""
    generator, encoder, pose = models
    targets = [quality_target(encoder, 60), yaw_target(pose, 45)]

    def run(numbers, batch_size):
        attrop = AttrOP(generator, encoder, targets, batch_size=attrop_rows(batch_size, CPU), max_iters=2)
        streams = {number: identity_stream(0, number) for number in numbers}
        rows = (
            Row(number, vectors[number], vectors[number], lambda number=number: MaskRates().draw(streams[number]))
            for number in numbers
        )
        return {result.key: result for result in attrop.run(rows)}

    together, alone = run(range(CPU_ATTROP_ROWS), batch_size=64), run([5, 1], batch_size=1)
    for number, result in alone.items():
        assert torch.equal(result.image, together[number].image)
        assert np.array_equal(result.vector, together[number].vector)
        assert result.values == together[number].values


def test_decoded_rows_are_byte_equal_alone_and_among_others(models, threads, vectors):
    generator, *_ = models

    def run(numbers, batch_size):
        people = [Identity(number, str(number), vectors[number]) for number in numbers]
        images = generate(generator, people, Recipe(1, (0.5,)), decoded_rows(batch_size, CPU))
        return {identity.number: image.pixels for identity, (image,) in images}

    together = run(range(CPU_DECODED_ROWS + 1), batch_size=64)
    for number, pixels in run([CPU_DECODED_ROWS, 7], batch_size=1).items():
        assert np.array_equal(pixels, together[number])


def test_the_files_are_the_same_for_every_batch_size_and_slice(demo, tmp_path):
    def make(folder, batch_size, start_end):
        words = [*demo.models, "--quality_weights", demo.encoder, "--center_feature", demo.vectors, "--max_iters", 2]
        words += ["--image_quality", 26, "--example", 1, "--name", "x", "--output_dir", tmp_path / folder]
        image_generation.main([str(word) for word in [*words, "--batch_size", batch_size, "--start_end", start_end]])
        return {path: data for path, data in files_of(tmp_path / folder).items() if path.endswith("000.jpg")}

    whole = make("whole", 64, "0:3")
    assert len(whole) == 3
    make("slices", 1, "0:1")
    assert make("slices", 2, "1:3") == whole


def test_two_people_cost_what_a_small_batch_costs(demo, tmp_path, monkeypatch):
    """Rows that go through the generator, at the default batch size of 64."""
    rows = []
    load = load_vec2face

    def counting(*args, **options):
        generator = load(*args, **options)
        generator.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
        return generator

    monkeypatch.setattr("utils.generation.networks.load_vec2face", counting)
    words = [*demo.models, "--quality_weights", demo.encoder, "--center_feature", demo.vectors, "--start_end", "0:2"]
    words += [
        "--image_quality",
        90,
        "--max_iters",
        2,
        "--example",
        1,
        "--name",
        "x",
        "--output_dir",
        tmp_path,
        "--no-measure",
    ]
    image_generation.main([str(word) for word in words])
    assert rows == [CPU_ATTROP_ROWS] * 2 + [CPU_DECODED_ROWS]
