"""Where the checks run, and with which models and data."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.iresnet import load_face_encoder
from models.masking import TokenMask
from models.sixdrepnet import load_pose_estimator
from utils.runtime.precision import PRECISIONS, cpu_has_bf16

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "weights" / "demo"
RELEASED_GENERATOR = ROOT / "weights" / "vec2face_generator.pth"
BASE, TINY = "vec2face_vit_base_patch16", "vec2face_vit_tiny"
AMPERE = (8, 0)  # compute capability from which a GPU has bfloat16


@dataclass(frozen=True)
class Setting:
    """``device``: cpu, cuda or cuda:N. ``quick``: small models and few steps. ``folder``: for files of the checks.

    ``end``: when the time for all checks is up, on the clock of time.monotonic, which all processes share.
    """

    device: str
    quick: bool
    folder: Path
    end: float

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return torch.device(self.device).type == "cuda"

    @property
    def preset(self) -> str:
        """The generator preset to check."""
        return TINY if self.quick else BASE

    def seconds_left(self) -> float:
        """Seconds until ``end``."""
        return self.end - time.monotonic()

    def precisions(self) -> list[str]:
        """fp32 and the 16-bit precisions that the device computes in."""
        if not self.on_gpu:
            return ["fp32", *(["bf16"] if cpu_has_bf16() else [])]
        return ["fp32", "fp16", *(["bf16"] if torch.cuda.get_device_capability(self.device) >= AMPERE else [])]


def demo_judges(device: str, precision: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The demo face encoder, which is the quality model too, and the demo pose estimator."""
    dtype = PRECISIONS[precision]
    encoder = load_face_encoder(DEMO / "face_encoder.pth", device, dtype)
    return encoder, load_pose_estimator(DEMO / "head_pose.pth", device, dtype)


def demo_vectors(count: int) -> torch.Tensor:
    """(count, 512) identity vectors of the demo."""
    return torch.from_numpy(np.load(DEMO / "identity_vectors.npy", allow_pickle=False)[:count])


def seeded_mask(count: int) -> TokenMask:
    """The same mask of ``count`` samples in every process."""
    noise = torch.rand(count, 49, generator=torch.Generator().manual_seed(0))
    return TokenMask.from_noise(noise, 0.1, 0.2)


def photo_folder(setting: Setting, copies: int) -> Path:
    """A folder of identity/photo with ``copies`` links to each of the nine photos of tests/photos."""
    folder = setting.folder / f"photos-{copies}"
    for photo in sorted((ROOT / "tests" / "photos").glob("*/*.jpg")):
        for number in range(copies):
            link = folder / f"{photo.parent.name}-{number}" / photo.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                os.symlink(photo, link)
    return folder
