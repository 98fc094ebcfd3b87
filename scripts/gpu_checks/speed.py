"""Speed: images a second of decoding, AttrOP and training, as shares of what the device was measured to reach."""

import gc
from collections.abc import Iterator

import torch

from scripts.benchmark import Job, attrop_job, count_flops, decode_job, fastest, measure_peaks, training_job
from scripts.gpu_checks.jobs import fr_training_job, gan_training_job
from scripts.gpu_checks.rows import Row, judged, measured, skipped
from scripts.gpu_checks.setting import Setting
from utils.runtime.precision import PRECISIONS

WORKS = {
    "decode": decode_job,
    "AttrOP iteration": attrop_job,
    "training step": training_job,
    "training step with GAN": gan_training_job,
    "FR training step": fr_training_job,
}
SIZES, USUAL_SIZE, QUICK_SIZE = (8, 32, 128), 32, 2  # images at a time
GIGA = 1e9
COMPILED = ("decode", "AttrOP iteration", "training step", "FR training step")
COMPILE_SECONDS = 100  # that must be left to begin with a compiled model


def speed(setting: Setting) -> Iterator[Row]:
    """Images a second of each kind of work, with random weights; all rows are for information.

    The share is of the floor: the FLOPs of the work at the best speed of convolutions and of matrix products that was
    measured on this device just before. In float32 at one batch size, in 16 bit at several, then with torch.compile.
    """
    device, peaks, repeats = torch.device(setting.device), {}, 1 if setting.quick else 5
    for precision, batch_size, compiled in plan_of(setting):
        if precision not in peaks:
            peaks[precision] = measure_peaks(
                str(device), precision, QUICK_SIZE if setting.quick else SIZES[-1], repeats
            )
            conv, gemm = peaks[precision]
            figure = f"convolution {conv / 1000:.3g}, matrix product {gemm / 1000:.3g} TFLOP/s"
            yield measured(f"peak, {precision}", figure, conv_gflops=conv, gemm_gflops=gemm)
        for name in COMPILED if compiled else WORKS:
            item = f"{name}, {precision}, batch {batch_size}" + (", compiled" if compiled else "")
            if compiled and setting.seconds_left() < COMPILE_SECONDS:
                yield skipped(item, "no time left; see --minutes")
                continue
            try:
                job = WORKS[name](setting.preset, device, PRECISIONS[precision], batch_size)
                yield speed_row(item, job, batch_size, compiled, peaks[precision], device, repeats)
            except torch.OutOfMemoryError:
                yield skipped(item, "does not fit into memory")
            except RuntimeError as error:  # of cuDNN, or of the compiler; other kinds of work may still run
                yield judged(item, False, str(error).strip().splitlines()[0], "runs")
            job = None  # frees its models
            release()


def plan_of(setting: Setting) -> list[tuple[str, int, bool]]:
    """(precision, images at a time, whether compiled) of the rounds; 16 bit is bf16 where the device has it."""
    precision, *half = setting.precisions()
    if setting.quick:
        return [((half or [precision])[-1], QUICK_SIZE, False)]
    rounds = [(precision, USUAL_SIZE, False)]
    if half:
        rounds += [(half[-1], size, False) for size in SIZES] + [(half[-1], USUAL_SIZE, True)]
    return rounds


def speed_row(
    item: str, job: Job, batch_size: int, compiled: bool, peaks: tuple[float, float], device: torch.device, repeats: int
) -> Row:
    """The row of one job. ``peaks``: GFLOP/s of convolutions and of matrix products."""
    counts = zip(count_flops(job.call, list(job.models)), job.models.values(), strict=True)
    flops = [sum(parts) for parts in zip(*((conv * n, gemm * n) for (conv, gemm), n in counts), strict=True)]
    if compiled:
        next(iter(job.models)).compile(options={"fallback_random": True})  # in place, because the job holds this model
    seconds = fastest(job.call, device, repeats)
    floor = sum(part / GIGA / peak for part, peak in zip(flops, peaks, strict=True))  # seconds
    rate, share = batch_size / seconds, floor / seconds
    figure = f"{rate:.4g} images/s, {share:.0%} of the floor"
    return measured(item, figure, images_per_second=rate, share_of_floor=share)


def release() -> None:
    """Free compiled code and unused GPU memory."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
