"""Kill and resume: a training and a generation that are killed and go on, against others that were left alone."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from scripts.gpu_checks.datasets import described, difference, generation_words, images_of
from scripts.gpu_checks.processes import kill_script, run_script
from scripts.gpu_checks.rows import Row, judged
from scripts.gpu_checks.setting import DEMO, TINY, Setting
from scripts.gpu_checks.training_runs import (
    RECORDS,
    last_checkpoint,
    preparation,
    relative_difference,
    training_words,
    weights,
)

TWIN_FACTOR = 3  # how much farther a resumed training may end from the first than a second one that was left alone


def resumed_training(setting: Setting) -> Iterator[Row]:
    """vec2face.py, sent SIGKILL after its first checkpoint and resumed.

    Passes when its weights are bitwise those of a training that was left alone or, as some of cuDNN's backward kernels
    add in no fixed order, at most TWIN_FACTOR times as far from them as those of a second one that was left alone.
    """
    steps, every, batch_size = (6, 2, 1) if setting.quick else (200, 20, 2)
    preparing, lmdb = preparation(setting)
    whole, killed, twin = (setting.folder / f"training-{name}" for name in ("whole", "killed", "twin"))

    def words(output, *more):
        return training_words(
            setting, lmdb, output, TINY, "--start_from", DEMO / "vec2face_generator.pth", "--lr", 1e-5,
            "--batch_size", batch_size, "--epochs", math.ceil(steps * batch_size / RECORDS), "--disc_start", 0,
            "--disc_width", 32, "--save_every", every, "--max_steps", steps, *more,
        )  # fmt: skip

    log = setting.folder / "script.log"
    run_script("scripts/prepare_training_set.py", *preparing, log=log)
    run_script("vec2face.py", *words(whole), log=log)
    kill_script("vec2face.py", *words(killed), log=log, when=(killed / "checkpoint-last.pth").exists)
    run_script("vec2face.py", *words(killed, "--resume", killed), log=log)
    if setting.on_gpu:
        run_script("vec2face.py", *words(twin), log=log)
    expected, resumed = weights(last_checkpoint(whole)), weights(last_checkpoint(killed))
    second = relative_difference(weights(last_checkpoint(twin)), expected) if setting.on_gpu else 0.0
    yield weights_row(relative_difference(resumed, expected), second)


def weights_row(resumed: float, twin: float) -> Row:
    """The row on the distance of the resumed training's weights, and of those of a second one left alone."""
    figure = "bitwise equal" if resumed == 0 else f"relative difference {resumed:.1e}"
    limit = f"bitwise equal, or {TWIN_FACTOR} times the {twin:.1e} of a second training left alone"
    return judged("weights of a training killed and resumed", resumed <= TWIN_FACTOR * twin, figure,
                  limit if twin else "bitwise equal", difference=resumed, difference_of_second=twin)  # fmt: skip


def resumed_generation(setting: Setting) -> Iterator[Row]:
    """image_generation.py with AttrOP, sent SIGKILL after its first images and resumed.

    Passes when the dataset has the same images as an uninterrupted one; whether their bytes are equal is information.
    """
    identities, examples, iterations = (4, 2, 2) if setting.quick else (60, 5, 20)
    whole, killed = (setting.folder / f"generation-{name}" for name in ("whole", "killed"))
    log = setting.folder / "script.log"
    flags = ["--start_end", f"0:{identities}", "--example", examples, "--max_iters", iterations, "--batch_size", 4]

    run_script("image_generation.py", *generation_words(setting, whole, *flags), log=log)
    words = generation_words(setting, killed, *flags)
    kill_script("image_generation.py", *words, log=log, when=lambda: has_images(killed))
    run_script("image_generation.py", *words, log=log)
    missing, unequal, largest = difference(killed, whole)
    count = len(images_of(whole))
    figure = f"{len(missing)} in one dataset alone" if missing else described(unequal, count, largest)
    yield judged("images of a generation killed and resumed, bytes equal", not missing, figure, "the same images",
                 missing=missing, unequal=unequal, largest=largest)  # fmt: skip


def has_images(output: Path) -> bool:
    """Whether the generation has written an image, in whichever folder it collects them."""
    with suppress(FileNotFoundError):  # a folder that is renamed meanwhile
        return any(output.rglob("[0-9]*.jpg"))
    return False
