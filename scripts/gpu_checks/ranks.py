"""Several processes: training with torchrun on all GPUs against one process with the whole batch."""

from collections.abc import Iterator

import torch

from scripts.gpu_checks.all_reduce import BANDWIDTH
from scripts.gpu_checks.processes import run_script
from scripts.gpu_checks.rows import Row, judged, measured, skipped
from scripts.gpu_checks.setting import DEMO, TINY, Setting
from scripts.gpu_checks.training_runs import (
    last_checkpoint,
    preparation,
    relative_difference,
    training_words,
    weights,
)

MOMENTS = 0.01  # Adam's first moments are means of gradients; float32 rounds in another order over several processes
WEIGHTS = 1e-5
EXACT = {"NVIDIA_TF32_OVERRIDE": "0"}  # float32 without TF32, whose rounding depends on the kernel
ALL_REDUCE = "scripts/gpu_checks/all_reduce.py"


def ranks(setting: Setting) -> Iterator[Row]:
    """Two fp32 steps of vec2face.py, GAN included, by torchrun with one process a GPU; on a CPU with two processes.

    Passes when the moments of Adam, which are means of the gradients, differ from those of one process that has the
    whole batch by at most MOMENTS of their norm, and the weights by at most WEIGHTS. There are no draws that depend on
    the batch: all rows are masked, without dropout and noise. Also measures how fast gradients are summed.
    """
    count = torch.cuda.device_count() if setting.on_gpu else 2
    if count < 2:
        yield skipped("several processes equal one", "one GPU; it takes two or more")
        return
    preparing, lmdb = preparation(setting)
    log = setting.folder / "script.log"
    run_script("scripts/prepare_training_set.py", *preparing, log=log)
    device = "cuda" if setting.on_gpu else "cpu"
    several, one = (setting.folder / name for name in ("several-processes", "one-process"))
    for output, batch_size, processes in ((several, 1, count), (one, count, 0)):
        words = training_words(
            setting, lmdb, output, TINY, "--start_from", DEMO / "vec2face_generator.pth", "--batch_size", batch_size,
            "--epochs", 1, "--max_steps", 2, "--disc_start", 0, "--disc_width", 32, "--lr", 1e-7, "--no-use_amp",
            "--mask_ratio_min", 1, "--mask_ratio_max", 1, "--device", device,
        )  # fmt: skip
        run_script("vec2face.py", *words, log=log, ranks=processes, environment=EXACT)
    megabytes = 4 if setting.quick else 256
    speed = run_script(ALL_REDUCE, "--device", device, "--megabytes", megabytes, log=log, ranks=count)
    distributed, single = last_checkpoint(several), last_checkpoint(one)
    item = f"{count} processes equal one"
    for name, tensors_of, limit in (("moments of Adam", moments, MOMENTS), ("weights", weights, WEIGHTS)):
        difference = relative_difference(tensors_of(distributed), tensors_of(single))
        yield judged(f"{item}, {name}", difference <= limit, f"relative difference {difference:.1e}",
                     f"at most {limit:g}", difference=difference)  # fmt: skip
    yield measured(
        f"all-reduce of {megabytes} MB over {count} processes",
        next(line for line in speed.splitlines() if BANDWIDTH in line),
    )


def moments(checkpoint: dict) -> torch.Tensor:
    """Adam's first moments of both networks in one vector."""
    states = [checkpoint[name]["state"].values() for name in ("optimizer_vec2face", "optimizer_disc")]
    return torch.cat([state["exp_avg"].flatten() for values in states for state in values])
