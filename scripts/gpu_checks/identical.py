"""Byte identity: whether a dataset depends on how it was made, on this device."""

from collections.abc import Iterator
from pathlib import Path

import image_generation
from scripts.gpu_checks.datasets import described, difference, generation_words, images_of
from scripts.gpu_checks.rows import Row, judged, measured
from scripts.gpu_checks.setting import Setting


def identical(setting: Setting) -> Iterator[Row]:
    """The JPEG files of a dataset made with another --batch_size, and in slices from the last to the first.

    With and without AttrOP, in each precision. Whether bytes are equal is information: kernels may round a row by its
    position in the batch. Fails when an image is missing.
    """
    count, examples, size = (2, 2, 2) if setting.quick else (20, 5, 16)
    whole, half = f"0:{count}", count // 2
    ways = {
        "another batch size": [("--batch_size", 2 * size, "--start_end", whole)],
        "slices in another order": [
            ("--batch_size", size, "--start_end", part) for part in (f"{half}:{count}", f"0:{half}")
        ],
    }
    for precision in setting.precisions()[-1:] if setting.quick else setting.precisions():
        for name, flags in (("decoded", ["--skip_attrop"]), ("AttrOP", ["--max_iters", 2 if setting.quick else 20])):
            flags = [*flags, "--precision", precision, "--example", examples]
            expected = setting.folder / f"{name}-{precision}"
            generate(setting, expected, flags, [("--batch_size", size, "--start_end", whole)])
            for way, runs in ways.items():
                output = setting.folder / f"{name}-{precision}-{way}".replace(" ", "-")
                generate(setting, output, flags, runs)
                missing, unequal, largest = difference(output, expected)
                item = f"{name}, {precision}, {way}"
                if missing:
                    yield judged(item, False, f"{len(missing)} images in one dataset alone", "the same images")
                else:
                    images = len(images_of(expected))
                    yield measured(item, described(unequal, images, largest), unequal=unequal, largest=largest)


def generate(setting: Setting, output: Path, flags: list, runs: list[tuple]) -> None:
    """Run image_generation.py once for each of ``runs``, the flags that differ between runs."""
    for run in runs:
        image_generation.main(generation_words(setting, output, *flags, *run))
