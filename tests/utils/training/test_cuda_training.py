"""The loop of each trainer on CUDA tensors without a GPU: no device mismatch, and the host never waits for the GPU."""

from collections import Counter

import pytest
import torch
from fake_cuda import fake_cuda

import vec2face
from models.discriminator import Discriminator
from models.iresnet import load_face_encoder
from models.losses import GeneratorLoss
from models.masking import MaskRates
from models.perceptual import EncoderDistance
from models.pixels import to_images
from models.recogniser import make_recogniser
from models.transfer import upload
from models.vec2face import PRESETS, Vec2Face
from scripts import train_fr
from utils.data.fr_data import RecognitionItem, to_device
from utils.data.loader import EpochBatches
from utils.data.training_data import TrainingItem
from utils.runtime.distributed import Distributed
from utils.runtime.precision import Precision
from utils.training.broken_items import BrokenItems
from utils.training.fr_state import RecogniserState, make_optimizer
from utils.training.log import Log
from utils.training.resuming import run_description
from utils.training.setup import Run
from utils.training.state import TrainingState
from utils.training.stop import StopSignal

CUDA = torch.device("cuda", 0)
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
STEPS = 4  # whose waits are counted


class Counted(Exception):
    """Ends a training before it writes a log line or a checkpoint, for which the host does wait."""


def pixels(*shape):
    return torch.zeros(*shape, 112, 112, 3, dtype=torch.uint8)


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path, Distributed(), 0, 100, shown=())
    yield log
    log.close()


def count_waits(train, waits, batch, precision, log):
    """The waits of ``train(batches, loader, broken, run)`` in the steps of one epoch, by kind."""
    counted, stop = Counter(), StopSignal(Distributed(), "")

    def loader():
        waits.counts.clear()
        for _ in range(STEPS):
            yield batch
        counted.update(waits.counts)
        raise Counted

    run = Run(Distributed(), CUDA, precision, None, log, stop, log_every=100, save_every=None)
    with pytest.raises(Counted):
        train(EpochBatches(100, 1, 0), loader(), BrokenItems("x", "records", 0), run)
    stop.close()
    return counted


@pytest.mark.parametrize("name", HALF)
def test_no_step_of_the_generators_training_waits(demo, name, log):
    """Two updates of two steps each, the second in the GAN phase."""
    batch = TrainingItem(pixels(2), torch.zeros(2, 512), torch.arange(2), ("", ""))
    mask_rates = MaskRates(0.5, 1, 0.75, 0.25)
    hyper = vec2face.Hyperparameters(100, 2, lambda epoch: 1e-4, 1.0, 2.0, 0.02, mask_rates, seed=0, score_every=100)
    with fake_cuda() as waits:
        precision = Precision.for_training(True, name, CUDA)
        generator = Vec2Face(PRESETS["vec2face_vit_tiny"]).to(CUDA, memory_format=torch.channels_last)
        discriminator = Discriminator(8, noise=0.1).to(CUDA, memory_format=torch.channels_last)
        state = TrainingState(
            "vec2face_vit_tiny", generator, discriminator, precision.scaler(CUDA), weight_decay=0.01, fmae_lr=1.0,
            ema_decay=0.9, settings={}, run=run_description(Distributed(), [range(9)]), trained_on={},
        )  # fmt: skip
        state.last_step = 100
        encoder = load_face_encoder(demo.encoder, CUDA, HALF[name])
        criterion = GeneratorLoss(encoder, EncoderDistance(encoder), {"detail": 1.0}).to(CUDA)

        def train(batches, loader, broken, run):
            vec2face.train(state, generator, discriminator, criterion, batches, loader, broken, hyper, run)

        counts = count_waits(train, waits, batch, precision, log)
        assert to_images(upload(batch.pixels, CUDA)).is_contiguous(memory_format=torch.channels_last)
    assert state.step == STEPS
    assert state.optimizer.state
    assert state.optimizer_disc.state
    assert counts["reads"] == counts["uploads"] == 0
    assert counts["downloads"] == STEPS  # the values that are checked one step later


@pytest.mark.parametrize(("mixed", "loss"), [(False, "losses"), (True, "losses"), (True, "logits")])
@pytest.mark.parametrize("name", HALF)
def test_no_step_of_fr_training_waits(name, mixed, loss, log):
    share = torch.tensor([1.0, 0.7 if mixed else 1.0], dtype=torch.float64)
    labels, holes = torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.zeros(2, 1 + mixed, 4, dtype=torch.long)
    batch = RecognitionItem(pixels(2, 1 + mixed), holes, labels, share, share, torch.zeros(2, 2), ("", ""))
    hyper = train_fr.Hyperparameters(100, 100, lambda epoch: 0.1, clip_grad=5.0, seed=0)
    with fake_cuda() as waits:
        precision = Precision.for_training(True, name, CUDA)
        model = make_recogniser(4, 18, 16, readout_weights=(6, 3), mixup_loss=loss).to(
            CUDA, memory_format=torch.channels_last
        )
        optimizer = make_optimizer(model, 0.1, 0.9, 5e-4)
        state = RecogniserState(
            model, optimizer, precision.scaler(CUDA), {}, run_description(Distributed(), [range(9)])
        )

        def train(batches, loader, broken, run):
            train_fr.train(state, model, batches, loader, broken, hyper, run)

        counts = count_waits(train, waits, batch, precision, log)
        assert to_device(batch, CUDA).images.is_contiguous(memory_format=torch.channels_last)
    assert state.step == STEPS
    assert counts["reads"] == counts["uploads"] == 0
    assert counts["downloads"] == STEPS
