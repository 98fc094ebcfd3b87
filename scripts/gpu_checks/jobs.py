"""The jobs whose speed and memory are measured, in addition to those of scripts/benchmark.py."""

import torch
import torch.nn as nn
from torchvision.models.vgg import cfgs, make_layers

from models.discriminator import Discriminator
from models.iresnet import IResNet
from models.losses import GeneratorLoss, discriminator_loss
from models.perceptual import LPIPS
from models.recogniser import make_recogniser
from models.vec2face import PRESETS, Vec2Face
from scripts.benchmark import Job
from scripts.gpu_checks.setting import seeded_mask
from scripts.train_fr import fr_parser
from utils.training.fr_state import make_optimizer

CLASSES = 10_000  # identities of HSFace10K


def gan_training_job(preset: str, device: torch.device, dtype: torch.dtype, batch_size: int) -> Job:
    """A training step with the GAN: of the generator, whose loss includes the discriminator, and of the discriminator.

    The discriminator runs forward and back to the image for the generator, then forward and twice that backward on
    twice as many images.
    """
    torch.manual_seed(0)
    generator = Vec2Face(PRESETS[preset]).to(device, memory_format=torch.channels_last)
    discriminator = Discriminator().to(device, memory_format=torch.channels_last)
    encoder = IResNet().for_inference(device, dtype)
    perceptual = LPIPS(make_layers(cfgs["D"]).state_dict()).to(device)
    criterion = GeneratorLoss(encoder, perceptual).to(device)
    networks = (generator, discriminator)
    optimizers = [torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True) for network in networks]
    vectors, mask = torch.randn(batch_size, 512, device=device), seeded_mask(batch_size).to(device)
    real = torch.rand(batch_size, 3, 112, 112, device=device).contiguous(memory_format=torch.channels_last)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    def job() -> None:
        discriminator.requires_grad_(False)
        with autocast():
            output = generator(vectors, mask)
            loss = criterion(output, real, vectors, discriminator)["total"]
        loss.backward()
        discriminator.requires_grad_(True)
        with autocast():
            logits = discriminator(torch.cat([real, output.images.detach()]))  # (2B, 1, 11, 11)
            loss = discriminator_loss(*logits.chunk(2))
        loss.backward()
        for network, optimizer in zip(networks, optimizers, strict=True):
            nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimizer.step()
            optimizer.zero_grad()

    # count_flops counts three batches of the discriminator per call; with the backward passes eight are needed.
    return Job(job, {generator: 3, encoder: 2, perceptual.features: 1.5, discriminator: 8 / 3})


def fr_training_job(preset: str, device: torch.device, dtype: torch.dtype, batch_size: int) -> Job:
    """A training step of a face recogniser with the HSFace10K recipe; of a small IResNet-18 for the tiny preset."""
    network = ["--network", "18", "--width", "16"] if preset == "vec2face_vit_tiny" else []
    args = fr_parser().parse_args(["--data", "none", *network])
    torch.manual_seed(0)
    model = make_recogniser(CLASSES, args.network, args.width, args.se, args.head)
    model.to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, args.lr, args.momentum, args.weight_decay)
    images = torch.rand(batch_size, 3, 112, 112, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch_size, device=device)

    def job() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            losses, _ = model(images, labels)
        losses.mean().backward()
        nn.utils.clip_grad_norm_(model.backbone.parameters(), args.clip_grad)
        optimizer.step()
        optimizer.zero_grad()

    return Job(job, {model.backbone: 3})
