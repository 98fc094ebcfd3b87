"""A generator that begins as a linear map: what its feature map tells about images it was not fitted on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from paths import ROOT

import vec2face
from models import TokenMask
from models.linear_start import fold_in_wiener_filter, linear_start
from models.vec2face import PRESETS, Vec2Face
from models.weight_files import load_file
from scripts import linear_start as script

TINY = PRESETS["vec2face_vit_tiny"]


class LinearWorld:
    """Vectors of which 20 directions, of unequal strength, are smooth images: other ones in every place."""

    def __init__(self):
        random = torch.Generator().manual_seed(0)
        self.basis = F.interpolate(torch.randn(20, 3, 12, 12, generator=random), size=112, mode="bilinear") / 8
        self.directions = torch.linalg.qr(torch.randn(512, 20, generator=random))[0] / torch.linspace(1, 4, 20)
        self.random = random

    def draw(self, count):
        vectors = torch.randn(count, 512, generator=self.random)
        return vectors, torch.einsum("nd,dk,kchw->nchw", vectors, self.directions, self.basis)


@pytest.fixture(scope="module")
def world():
    return LinearWorld()


@pytest.fixture(scope="module")
def fitted(world):
    torch.manual_seed(0)
    generator = Vec2Face(TINY).eval()
    return generator, linear_start(generator, *world.draw(1500), sigma=0.1)


@torch.no_grad()
def maps(generator, vectors, rate=1.0):
    mask = TokenMask.from_noise(torch.rand(len(vectors), 49), rate, rate)
    encoded = generator.encoder(*generator.expander(vectors), mask)
    return generator.to_map(generator.decoder(encoded, mask)[:, 1:])  # (N, 49, 256)


def explained(generator, world):
    """How much of new images one linear read-out, the same for all 49 places, finds in the map."""
    vectors, images = world.draw(600)
    small = F.interpolate(images, size=56, mode="area")
    patches = rearrange(small, "n c (h p) (w q) -> n (h w) (c p q)", p=8, q=8)  # (N, 49, 192)
    seen = F.pad(maps(generator, vectors), (0, 1), value=1.0)  # (N, 49, 257)
    fit = torch.linalg.lstsq(seen[:400].flatten(0, 1).double(), patches[:400].flatten(0, 1).double()).solution
    missing = patches[400:] - seen[400:].double() @ fit
    return 1 - float(missing.square().mean() / patches[400:].var())


def test_the_map_knows_the_image_before_any_training(world, fitted):
    generator, claimed = fitted
    assert claimed > 0.8
    assert explained(generator, world) > 0.8
    torch.manual_seed(0)
    assert explained(Vec2Face(TINY).eval(), world) < 0.2  # the same weights without the linear start


def test_the_fitted_map_allows_for_noise_on_the_vectors(world):
    """Where vectors hardly vary, a generator that expects noise does not answer to it; elsewhere it does."""
    spread = torch.cat([torch.ones(256), torch.full((256,), 0.1)])
    vectors = 3 + torch.randn(4000, 512, generator=world.random) * spread
    layer = torch.nn.Linear(512, 8)
    before, at_mean = layer.weight.detach().clone(), layer(vectors.mean(0)).detach()
    with torch.no_grad():
        fold_in_wiener_filter(layer, vectors, 0.5)
    kept = layer.weight.detach().norm(dim=0) / before.norm(dim=0)  # (512,)
    assert (kept[:256].mean() - 0.8).abs() < 0.05  # 1 / (1 + .25)
    assert kept[256:].mean() < 0.15
    assert torch.allclose(layer(vectors.mean(0)), at_mean, atol=1e-3)


def test_the_mask_changes_nothing_yet(world, fitted):
    vectors, _ = world.draw(4)
    assert torch.allclose(maps(fitted[0], vectors, 1.0), maps(fitted[0], vectors, 0.3), atol=1e-3)


def test_every_weight_can_still_be_trained(world, fitted):
    """Branches that begin at zero must not stay there."""
    generator, _ = fitted
    vectors, images = world.draw(4)
    output = generator(vectors, TokenMask.from_noise(torch.rand(4, 49), 0.5, 0.75))
    F.mse_loss(output.images, images).backward()
    for block in [*generator.encoder.blocks, *generator.decoder.blocks]:
        assert block.attn.proj.weight.grad.abs().max() > 0
        assert block.mlp.fc2.weight.grad.abs().max() > 0
    generator.zero_grad()


def test_a_training_starts_from_the_file(demo, training_lmdb, tmp_path, capsys):
    start = tmp_path / "start.pth"
    script.main(["--train_source", str(training_lmdb), "--id_weights", str(demo.encoder), "--output", str(start)])
    assert "photos are few" in capsys.readouterr().out
    words = ["--train_source", training_lmdb, "--id_weights", demo.encoder, "--start_from", start, "--max_steps", 1]
    words += ["--model", "vec2face_vit_tiny", "--lpips_weights", "none", "--dropout", 0, "--token_weight", 0]
    words += ["--batch_size", 2, "--lr", 1e-9, "--weight_decay", 0, "--warmup_epochs", 0, "--workers", 0]
    vec2face.main(list(map(str, [*words, "--no-use_amp", "--device", "cpu", "--output_dir", tmp_path / "run"])))
    before, after = (
        load_file(path)["model_vec2face"]["expander.to_feature.weight"].float()
        for path in (start, tmp_path / "run" / "checkpoint-last.pth")
    )
    assert torch.allclose(before, after, atol=1e-6)
    assert np.isfinite(after.numpy()).all()


def test_data_that_cannot_give_a_linear_start_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main(["--train_source", str(tmp_path / "none.lmdb"), "--output", str(tmp_path / "x.pth"),
                     "--id_weights", str(ROOT / "weights" / "demo" / "face_encoder.pth")])  # fmt: skip
    assert "none.lmdb" in capsys.readouterr().err
    narrow = Vec2Face(replace(TINY, decoder_width=128))
    with pytest.raises(ValueError, match="same width"):
        linear_start(narrow, torch.zeros(2, 512), torch.zeros(2, 3, 112, 112), 0.1)
