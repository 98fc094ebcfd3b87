"""Training: the losses of some steps in each precision, and where the host waits for the GPU in them."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import vec2face
from scripts import prepare_training_set
from scripts.gpu_checks.host_waits import host_waits
from scripts.gpu_checks.rows import Row, judged, measured
from scripts.gpu_checks.setting import Setting
from scripts.gpu_checks.training_runs import AMP, RECORDS, log_lines, preparation, training_words

RANGE = 0.3  # share by which the pixel loss may differ from the CPU's: float16 first skips steps to find its loss scale
WAITS = 2.0  # waits a step: one flag that is read, and now and then a line of the log
LINES_SHOWN = 6


def training(setting: Setting) -> Iterator[Row]:
    """20 steps of vec2face.py on photos, the last 10 with the GAN, in each precision and in float32 on the CPU.

    Passes when every loss is finite, and the pixel loss falls and comes within RANGE of the CPU's; and, on a GPU, when
    the host waits for it at most WAITS times a step. Waits are those of 20 steps less those of 10, so that what happens
    once a run does not count.
    """
    steps, batch_size = (4, 2) if setting.quick else (20, 4)
    words, lmdb = preparation(setting)
    prepare_training_set.main(list(map(str, words)))

    def train(on, precision, count):
        """The lines of the log of ``count`` steps, each the mean of half of ``steps``, and where the host waited."""
        folder = setting.folder / "training"
        flags = training_words(
            on, lmdb, folder, on.preset, *AMP[precision], "--epochs", math.ceil(steps * batch_size / RECORDS),
            "--batch_size", batch_size, "--max_steps", count, "--log_every", steps // 2, "--lr", 3e-4,
            "--disc_start", steps / 2 / (RECORDS // batch_size), "--disc_width", 32 if setting.quick else 128,
        )  # fmt: skip
        with host_waits() as waits:
            vec2face.main(flags)
        lines = list(log_lines(folder))
        shutil.rmtree(folder)
        return lines, waits

    expected = train(replace(setting, device="cpu"), "fp32", steps)[0][-1]["pixel"]
    for precision in setting.precisions():
        (first, second), waits = train(setting, precision, steps)
        yield losses(precision, first, second, expected)
        if setting.on_gpu:
            yield from waits_a_step(precision, waits - train(setting, precision, steps // 2)[1], steps // 2)


def losses(precision: str, first: dict, second: dict, expected: float) -> Row:
    """The row on the log's lines of both halves of a run; ``expected``: the pixel loss of the CPU's second half."""
    logged = [*first.values(), *second.values()]
    finite = all(math.isfinite(value) for value in logged if not isinstance(value, dict))  # number formats are none
    passed = finite and second["pixel"] < first["pixel"] and abs(second["pixel"] / expected - 1) <= RANGE
    return judged(
        f"losses, {precision}", passed and "discriminator" in second,
        f"pixel {first['pixel']:.4f}, then {second['pixel']:.4f}" + ("" if finite else "; some are not finite"),
        f"finite, falling, {expected:.4f} ± {RANGE:.0%} as on the CPU", first=first, second=second,
    )  # fmt: skip


def waits_a_step(precision: str, waits: Counter[str], steps: int) -> Iterator[Row]:
    """The rows on the waits of ``steps`` steps: how many a step, and where."""
    count = waits.total() / steps
    yield judged(f"waits of the host a step, {precision}", count <= WAITS, f"{count:.1f}", f"at most {WAITS:g}",
                 places={line: number / steps for line, number in waits.most_common()})  # fmt: skip
    shown = [f"{line} {number / steps:.1f}" for line, number in waits.most_common(LINES_SHOWN)]
    yield measured(f"places where it waits, {precision}", ", ".join(shown) or "none")
