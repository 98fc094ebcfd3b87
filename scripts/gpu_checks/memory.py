"""Memory: the largest batch of decoding, AttrOP and training that fits on the GPU, and what it takes."""

from collections.abc import Callable, Iterator

import torch

from scripts.benchmark import attrop_job, decode_job
from scripts.gpu_checks.jobs import fr_training_job, gan_training_job
from scripts.gpu_checks.rows import Row, judged, measured, skipped
from scripts.gpu_checks.setting import Setting
from scripts.gpu_checks.speed import release
from utils.runtime.precision import PRECISIONS

WORKS = {
    "decode": decode_job,
    "AttrOP iteration": attrop_job,
    "training step with GAN": gan_training_job,
    "FR training step": fr_training_job,
}
SMALLEST = 2  # a training step normalises over the batch
LARGEST = 1024  # images at a time; the maps of 2048 have more elements than 32-bit indices count
GIGA = 1e9


def memory(setting: Setting) -> Iterator[Row]:
    """The largest power of two of images at a time that fits, in 16 bit, and the peak of allocated memory; on a GPU.

    Fails when an error ends the search that is not about memory.
    """
    if not setting.on_gpu:
        yield skipped("largest batch", "the memory of a GPU is asked for")
        return
    precision, device = setting.precisions()[-1], torch.device(setting.device)
    for name, work in WORKS.items():
        size, error = largest_batch(lambda size: peak(work, setting.preset, device, precision, size))  # noqa: B023
        item = f"{name}, {precision}"
        if error:
            yield judged(item, False, error, "runs until memory is full")
        elif size is None:
            yield measured(item, f"not even {SMALLEST} images fit")
        else:
            batch, used = size
            yield measured(item, f"batch {batch}, {used / GIGA:.1f} GB", batch=batch, peak_bytes=used)


def peak(work: Callable, preset: str, device: torch.device, precision: str, batch_size: int) -> int:
    """Peak of allocated GPU memory in bytes over two calls of a job."""
    release()
    torch.cuda.reset_peak_memory_stats(device)
    job, _ = work(preset, device, PRECISIONS[precision], batch_size)
    for _ in range(2):  # optimisers create their state in the first one
        job()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def largest_batch(use: Callable[[int], int], largest: int = LARGEST) -> tuple[tuple[int, int] | None, str]:
    """(the largest power of two for which ``use(size)`` does not run out of memory, its value), and an error.

    None instead of both when SMALLEST is too large. The error is the first line of one that is not about memory,
    or empty.
    """
    fitting, size = None, SMALLEST
    while size <= largest:
        try:
            fitting = size, use(size)
        except torch.OutOfMemoryError:
            break
        except RuntimeError as error:
            return fitting, f"batch {size}: {str(error).strip().splitlines()[0]}"
        size *= 2
    return fitting, ""
