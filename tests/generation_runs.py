"""Short runs of the generation scripts on the demo models."""

import json

import image_generation
from utils.dataset.layout import manifest_path, parts_folder


def command(demo, *flags, quality=26, example=2, start_end="0:6"):
    """A short image_generation.py command with AttrOP."""
    return [
        *demo.models, "--quality_weights", demo.encoder, "--center_feature", demo.vectors, "--image_quality", quality,
        "--example", example, "--start_end", start_end, "--batch_size", 2, "--max_iters", 4, "--name", "test", *flags,
    ]  # fmt: skip


def manifest(folder):
    return [json.loads(line) for line in manifest_path(folder).read_text().splitlines()]


def lines_written(folder):
    return sum(path.read_bytes().count(b"\n") for path in parts_folder(folder).glob("*/manifest.jsonl"))


def reference_flags(demo, source, tmp_path):
    return [
        "--image_file",
        source,
        *demo.models,
        "--example",
        1,
        "--batch_size",
        2,
        "--name",
        "r",
        "--output_dir",
        tmp_path / "o",
    ]


def make_dataset(demo, folder, *words, name="test", people=3, example=2):
    flags = [*demo.models, "--quality_weights", demo.encoder, "--center_feature", demo.vectors, "--batch_size", 4]
    flags += ["--start_end", f"0:{people}", "--example", example, "--output_dir", folder, "--name", name, *words]
    image_generation.main([str(flag) for flag in flags])
    return folder / name
