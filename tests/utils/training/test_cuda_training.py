"""A step of each trainer on CUDA tensors without a GPU: no device mismatch, and the host never waits for the GPU."""

from functools import partial

import pytest
import torch
from fake_cuda import fake_cuda
from fr_training import flags as fr_flags

import vec2face
from models.iresnet import load_face_encoder
from models.losses import GeneratorLoss
from models.masking import MaskRates
from models.perceptual import EncoderDistance
from models.pixels import to_images
from models.transfer import upload
from scripts import train_fr
from utils.runtime.distributed import World
from utils.runtime.precision import Precision
from utils.training.finite_check import FiniteCheck
from utils.training.fr_step import TrainingStep, batch_on_device, make_optimizer
from utils.training.resuming import run_of
from utils.training.state import TrainingState

CUDA = torch.device("cuda", 0)
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def pixels(*shape):
    return torch.zeros(*shape, 112, 112, 3, dtype=torch.uint8)


@pytest.mark.parametrize("name", HALF)
def test_no_step_of_the_generators_training_waits(demo, tmp_path, name):
    """Two updates of two steps each, the second in the GAN phase."""
    words = ["--train_source", "x", "--model", "vec2face_vit_tiny", "--id_weights", demo.encoder, "--accum_iter", 2]
    words += ["--disc_width", 8, "--disc_noise", 0.1, "--detail_weight", 1, "--ema", 0.9, "--output_dir", tmp_path]
    args = vec2face.training_parser().parse_args(list(map(str, words)))
    masks, finite = MaskRates(0.5, 1, 0.75, 0.25), FiniteCheck()
    with fake_cuda() as waits:
        precision = Precision.for_training(True, name, CUDA)
        state = TrainingState(args, CUDA, precision, (22, 1), run_of(World(), [range(9)]))
        encoder = load_face_encoder(demo.encoder, CUDA, HALF[name])
        criterion = GeneratorLoss(encoder, EncoderDistance(encoder), {"detail": 1.0}).to(CUDA)
        autocast = partial(precision.autocast, CUDA)
        step = vec2face.TrainingStep(args, state, state.generator, state.discriminator, criterion, autocast)
        waits.counts.clear()
        for number in range(4):
            real, vectors = to_images(upload(pixels(2), CUDA)), upload(torch.zeros(2, 512), CUDA)
            mask = vec2face.draw_mask(masks, 2, CUDA)
            losses, norms, _ = step(real, vectors, mask, 1e-4, gan=number >= 2, update=number % 2 == 1)
            finite.add(vec2face.to_check(losses, norms, state.scaler), number, "")
        assert norms.keys() == {"gradient_norm", "gradient_norm_disc"}
        assert real.is_contiguous(memory_format=torch.channels_last)
    assert waits.counts["reads"] == waits.counts["uploads"] == 0
    assert waits.counts["downloads"] == 4  # the values that are checked one step later


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", HALF)
def test_no_step_of_fr_training_waits(tmp_path, name, mixed):
    args = train_fr.fr_parser().parse_args(list(map(str, fr_flags(tmp_path, "--se", "--traces", 6, 3))))
    share = torch.tensor([1.0, 0.7 if mixed else 1.0], dtype=torch.float64)
    labels, poses = torch.tensor([0, 1]), torch.zeros(2, 2)
    columns = pixels(2, 1 + mixed), torch.zeros(2, 1 + mixed, 4, dtype=torch.long), labels, labels, share, poses
    with fake_cuda() as waits:
        model = train_fr.make_model(args, 4).to(CUDA, memory_format=torch.channels_last)
        optimizer = make_optimizer(model, args)
        precision = Precision.for_training(True, name, CUDA)
        scaler, autocast = precision.scaler(CUDA), partial(precision.autocast, CUDA)
        step, finite = TrainingStep(args, model, model, optimizer, scaler, autocast), FiniteCheck()
        waits.counts.clear()
        for number in range(2):
            batch = batch_on_device(columns, CUDA)
            losses, norms = step(batch, 0.1)
            finite.add(losses | norms, number, "")
        assert batch[0].is_contiguous(memory_format=torch.channels_last)
    assert waits.counts["reads"] == waits.counts["uploads"] == 0
    assert waits.counts["downloads"] == 2
