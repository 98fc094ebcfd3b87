"""AttrOP: its gradient in each precision, and the number of vectors for which it reaches the targets."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from models.attrop import AttrOP, quality_target, yaw_target
from models.vec2face import load_vec2face
from scripts.gpu_checks.rows import Row, judged
from scripts.gpu_checks.setting import DEMO, Setting, demo_judges, demo_vectors, seeded_mask
from utils.generation.pipeline import optimise_identities
from utils.generation.recipe import Identity, Recipe
from utils.runtime.precision import PRECISIONS

# Lowest cosine of a row. A CPU's bfloat16 gives 0.985 and more, float16 0.999.
COSINES = {"fp32": 0.999, "fp16": 0.99, "bf16": 0.95}
YAW = 30


def attrop(setting: Setting) -> Iterator[Row]:
    """AttrOP with the demo models, on the device and in float32 on the CPU.

    The gradient of the loss with respect to each of 10 vectors passes when its cosine to the CPU's is at least that of
    COSINES; whole runs for a quality pass when at least as many of the 10 vectors are accepted as on the CPU, but for
    one: rounding may keep a vector from the edge.
    """
    rows, quality, iterations = (3, 22, 3) if setting.quick else (10, 26, 40)
    expected = gradient("cpu", "fp32", rows)
    on_cpu = accepted("cpu", "fp32", rows, quality, iterations)
    for precision in setting.precisions():
        result = gradient(setting.device, precision, rows)
        cosine = F.cosine_similarity(result, expected).nan_to_num(-1).min().item()  # NaN for a zero or NaN gradient
        finite = bool(result.isfinite().all())
        figure = f"lowest cosine {cosine:.4f}" if finite else f"{int((~result.isfinite()).any(1).sum())} rows with NaN"
        yield judged(f"gradient, {precision} against the CPU's float32", finite and cosine >= COSINES[precision],
                     figure, f"at least {COSINES[precision]}", lowest_cosine=cosine)  # fmt: skip
    for precision in setting.precisions():
        count = accepted(setting.device, precision, rows, quality, iterations)
        yield judged(f"accepted vectors of {rows}, {precision}", count >= on_cpu - 1, f"{count}",
                     f"{on_cpu} as on the CPU, one less, or more", accepted=count, on_cpu=on_cpu)  # fmt: skip


def gradient(device: str, precision: str, rows: int) -> torch.Tensor:
    """d loss / d vector of the first demo vectors, (rows, 512), on the CPU."""
    generator, encoder, pose = models(device, precision)
    targets = [quality_target(encoder, 27), yaw_target(pose, YAW)]
    vectors = demo_vectors(rows).to(device)
    step = AttrOP(generator, encoder, targets, batch_size=rows).evaluate(vectors, vectors, seeded_mask(rows).to(device))
    return step.gradient().float().cpu()


def accepted(device: str, precision: str, rows: int, quality: float, iterations: int) -> int:
    """Number of the first demo vectors for which AttrOP reaches a quality."""
    generator, encoder, _ = models(device, precision)
    attrop = AttrOP(generator, encoder, [quality_target(encoder, quality)], batch_size=rows, max_iters=iterations)
    identities = [Identity(number, str(number), vector) for number, vector in enumerate(demo_vectors(rows).numpy())]
    return sum(verdict.accepted for _, _, verdict in optimise_identities(attrop, identities, Recipe(1, (0.3,))))


def models(device: str, precision: str) -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
    """The demo generator, face encoder and pose estimator."""
    generator = load_vec2face(DEMO / "vec2face_generator.pth", device, PRECISIONS[precision])
    return generator, *demo_judges(device, precision)
