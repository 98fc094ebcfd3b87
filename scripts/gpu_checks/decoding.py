"""Decoding: the images of each precision against those that the CPU computes in float32."""

import re
from collections.abc import Callable, Iterator

import torch

from models.masking import TokenMask
from models.vec2face import PRESETS, Vec2Face, load_vec2face
from scripts.gpu_checks.rows import Row, judged
from scripts.gpu_checks.setting import BASE, DEMO, RELEASED_GENERATOR, Setting, demo_vectors, seeded_mask
from utils.runtime.precision import PRECISIONS

GREY_LEVEL = 2 / 255  # pixels lie in [-1, 1]
# Largest and mean difference in grey levels. A CPU's bfloat16 differs from its float32 by 22 and 1.6 levels with random
# weights of the base preset (13 and 0.35 with the demo weights), its float16 by 2.5 and 0.2: the limits are three times
# that, for GPUs add in another order. TF32 rounds to as many bits as float16.
LIMITS = {"bf16": (64, 5.0), "fp16": (8, 0.6), "tf32": (8, 0.6), "fp32": (0.1, 0.01)}
LAYOUT_COPY = re.compile(r"nchw.*nhwc|nhwc.*nchw", re.IGNORECASE)  # in the names of cuDNN's kernels
FEW_COPIES = 4  # cuDNN may copy where a convolution has few channels: at the first and the last one


def decoding(setting: Setting) -> Iterator[Row]:
    """Pixels of 8 images against float32 on the CPU, of the demo generator and of the base preset.

    Passes when all pixels are finite and differ by no more than LIMITS; and, on a GPU in 16 bit, when a pass copies
    maps between channels first and channels last at most FEW_COPIES times.
    """
    count = 4 if setting.quick else 8
    vectors, mask = demo_vectors(count), seeded_mask(count)
    for name, load in generators(setting.quick).items():
        expected = decode(load("cpu", torch.float32), vectors, mask)
        for precision in setting.precisions():
            generator = load(setting.device, PRECISIONS[precision])
            yield compared(
                f"{name}, {precision}", decode(generator, vectors, mask), expected, kind_of(precision, setting)
            )
            if setting.on_gpu and precision != "fp32":
                copies = layout_copies(lambda: decode(generator, vectors, mask))  # noqa: B023, called at once
                yield judged(f"{name}, {precision}: copies between layouts", copies <= FEW_COPIES, str(copies),
                             f"at most {FEW_COPIES}", copies=copies)  # fmt: skip


def generators(quick: bool) -> dict[str, Callable]:
    """{name: function of device and dtype that gives a generator}."""
    demo = {"demo weights": lambda *where: load_vec2face(DEMO / "vec2face_generator.pth", *where)}
    if quick:
        return demo
    if RELEASED_GENERATOR.exists():
        return demo | {"released weights": lambda *where: load_vec2face(RELEASED_GENERATOR, *where)}
    return demo | {"base preset, random weights": random_base}


def random_base(device: str, dtype: torch.dtype) -> Vec2Face:
    """The base preset with random weights."""
    torch.manual_seed(0)
    return Vec2Face(PRESETS[BASE]).for_inference(device, dtype)


@torch.inference_mode()
def decode(generator: torch.nn.Module, vectors: torch.Tensor, mask: TokenMask) -> torch.Tensor:
    """Images (N, 3, 112, 112), on the CPU."""
    device = next(generator.parameters()).device
    return generator(vectors.to(device), mask.to(device)).images.cpu()


def kind_of(precision: str, setting: Setting) -> str:
    """The key in LIMITS: float32 convolutions or products of a GPU may be in TF32."""
    tf32 = setting.on_gpu and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return "tf32" if precision == "fp32" and tf32 else precision


def compared(item: str, images: torch.Tensor, expected: torch.Tensor, kind: str) -> Row:
    """The row on images (N, 3, H, W) of a device. ``kind``: a key in LIMITS."""
    most_allowed, mean_allowed = LIMITS[kind]
    difference = (images - expected).abs() / GREY_LEVEL
    most, mean = float(difference.max()), float(difference.mean())
    finite = bool(images.isfinite().all())
    figure = f"{most:.3g}, mean {mean:.2g} grey levels" if finite else "NaN or infinite pixels"
    limit = f"{most_allowed:g}, mean {mean_allowed:g}" + (" (TF32)" if kind == "tf32" else "")
    passed = finite and most <= most_allowed and mean <= mean_allowed
    return judged(f"{item} against the CPU's float32", passed, figure, limit, largest=most, mean=mean)


def layout_copies(job: Callable) -> int:
    """Kernels of one call that copy maps between channels first and channels last."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        job()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if LAYOUT_COPY.search(event.key))
