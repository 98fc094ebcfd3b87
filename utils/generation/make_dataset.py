"""Making a dataset from identities, networks and a recipe: the common final step of the generation scripts."""

import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from tqdm.auto import tqdm

from models.attrop import AttrOP
from models.errors import UserError
from models.weight_files import sha256
from utils.data.mixup import SETTING
from utils.dataset.layout import contact_sheet_path
from utils.dataset.writer import (
    STORES,
    DatasetWriter,
    dataset_size,
    finish_dataset,
    identities_to_keep,
    prepare_dataset,
    read_records,
    unmerged_note,
)
from utils.generation.attrop_progress import AttrOPProgress
from utils.generation.batch_rows import decoded_rows
from utils.generation.cone_noise import lower_bounds
from utils.generation.gate import Gate, Gating
from utils.generation.measure_choice import choose_measures
from utils.generation.networks import Networks
from utils.generation.pipeline import GeneratedImage, generate
from utils.generation.recipe import Identity, Recipe
from utils.generation.reserve import ReserveState, reserve_state, write_replaced
from utils.generation.selection import Selection
from utils.generation.summary import NAMED, attrop_lines, count_records, gate_lines, reserve_lines, selection_lines
from utils.runtime.distributed import Distributed
from utils.runtime.inference import set_up_process
from utils.runtime.precision import Precision


class Source(Protocol):
    """Where identities come from: VectorSource, PhotoSource or PersonSource.

    ``slice``: the rows to generate; ``names``: {row: name of the identity}; ``fingerprint``: SHA-256 of everything that
    determines the vectors; ``origin``: the file or folder; ``note`` and ``warnings``: lines for the user; ``skipped``:
    lines on photos that could not be used, appended while identities are read; ``everyone()``: the rows and the vectors
    of all identities, of the slice or not.
    """

    slice: range
    names: dict[int, str]
    fingerprint: str
    origin: str
    note: str | None
    warnings: list[str]
    skipped: list[str]

    def identities(self, rows: Iterable[int]) -> Iterator[Identity]: ...

    def everyone(self) -> tuple[list[int], np.ndarray]: ...


@dataclass(frozen=True)
class Output:
    """Where a dataset is written, and how.

    ``measure``: whether each image is measured for the manifest, None for only if that is cheap; ``measured_in``: the
    name of the number format to measure in; ``workers``: threads that encode and write images.
    """

    root: Path
    format: Literal["folder", "lmdb"] = "folder"
    jpeg_quality: int = 75
    workers: int = 2
    overwrite: bool = False
    migrate: bool = False
    measure: bool | None = None
    measured_in: str = "fp32"


class Machine(NamedTuple):
    """The hardware of a run: its processes, the device of this one, the number formats, the batch size on a GPU."""

    world: Distributed
    device: torch.device
    precision: Precision
    batch_size: int

    @classmethod
    def alone(cls, device: str = "auto", precision: str = "auto", batch_size: int = 64) -> "Machine":
        """The machine of a run in this process alone, such as a notebook; see ``set_up_process``."""
        return cls(Distributed(), *set_up_process(device, precision, deterministic=True), batch_size)


def make_dataset(
    source: Source, networks: Networks, recipe: Recipe, output: Output, machine: Machine, *,
    extra_settings: dict[str, Any], attrop: AttrOP | None = None,
    attrop_on: Literal["identity", "image"] = "identity", gating: Gating | None = None, warnings: Iterable[str] = (),
) -> None:  # fmt: skip
    """Make a dataset, or the missing rest of it, and print a summary.

    ``attrop`` works on each identity vector before the noise, or with ``attrop_on="image"`` on every noisy vector; its
    ``on_iteration`` may be an AttrOPProgress, which is then shown. ``extra_settings``: further entries of
    settings.json. ``warnings``: further lines for the user. Raises UserError when the folder holds another dataset, or
    no identity could be made.
    """
    world, device, precision, batch_size = machine
    started = time.monotonic()
    on_images = attrop is not None and attrop_on == "image"
    gating = gating or Gating()
    gate, selection = gating.gate, gating.selection
    measuring = choose_measures(
        networks, output.root, device, precision.dtype, requested=output.measure, precision=output.measured_in,
        begins_anew=output.overwrite, gate_names=gating.measures, done_by_attrop=on_images,
        avoid=gating.avoid, attributes=measured_attributes(networks, output, attrop, on_images),
    )  # fmt: skip
    world.barrier()  # every process has looked at the existing dataset
    if world.is_main:
        notes = [source.note, *(f"warning: {warning}" for warning in (*source.warnings, *warnings))]
        for line in [*notes, f"note: {measuring.note}" if measuring.note else None]:
            if line:
                print(line)
        settings = describe(source, networks, recipe, output, gate, precision, {**extra_settings, **gating.settings})
        settings |= {"measured": measuring.described}
        environment = describe_environment(device) | {"number_formats": precision.describe()}
        prepare_dataset(output.root, settings, environment, output.overwrite, output.migrate)
    # No process writes before rank 0 has planned the work from what is stored.
    todo, images_there = world.from_main(lambda: plan_work(output, source, recipe.example))

    def produce(rows: list[int], part: str) -> tuple[int, int]:
        """Make the identities of some rows, this process its share of them: (identities, images) of all processes."""
        mine, bounds = rows[world.rank :: world.size], {}
        if recipe.lower_bound is not None and rows:
            bounds = world.from_main(lambda: bounds_of(source, recipe.lower_bound, rows, device))
        identities = (
            identity._replace(first_image=images_there.get(identity.name, 0), lower_bound=bounds.get(identity.name))
            for identity in source.identities(mine)
        )
        generated = generate(
            networks.generator, identities, recipe, decoded_rows(batch_size, device), attrop, attrop_on,
            measuring.measures, gate, selection,
        )  # fmt: skip
        part = f"{part}-{world.rank:04d}-of-{world.size:04d}"
        with DatasetWriter(output.root, output.format, part, output.jpeg_quality, output.workers) as writer:
            done = drain(generated, writer, len(mine), world.is_main and bool(mine), progress_of(attrop))
        return tuple(map(sum, zip(*world.gather(done), strict=True)))

    if world.is_main and len(todo) < len(source.slice):
        print(f"{len(source.slice) - len(todo)} of {len(source.slice)} identities are there already.")
    if world.is_main and images_there:
        print(f"{len(images_there)} identities have fewer than {recipe.example} images and get the others.")
    part = f"{source.slice.start:08d}-{source.slice.stop:08d}"
    identities_made, images_made = produce(todo, part)
    skipped = [line for lines in world.gather(source.skipped) for line in lines]
    unmerged = finish_dataset(output.root, output.format) if world.is_main else []
    if selection is not None and selection.complete:
        while rows := world.from_main(lambda: state_of(source, output).next_rows(source.reserve_rows)):
            images_made += produce(rows, f"{part}-reserve")[1]
            unmerged = finish_dataset(output.root, output.format) if world.is_main else []
    if world.is_main:
        for line in skipped:
            print(f"skipped {line}")
        text = summary(source, output, recipe, attrop, gate, selection)
        print(f"{images_made} images made in {time.monotonic() - started:.0f} s; {text}")
        if unmerged:
            print(unmerged_note(output.root, unmerged))
    if skipped and not identities_made and len(todo) == len(source.slice):
        world.barrier()  # rank 0 has printed the skipped photos
        raise UserError(f"{source.origin}: none of the {len(skipped)} images could be used.")


def measured_attributes(networks: Networks, output: Output, attrop: AttrOP | None, on_images: bool) -> list[str]:
    """The attributes among AttrOP's targets that have to be measured on each image.

    None are with --no-measure, or where AttrOP itself measures each image.
    """
    if attrop is None or networks.attributes is None or output.measure is False or (on_images and not output.measure):
        return []
    return [target.name for target in attrop.targets if target.model is networks.attributes]


def state_of(source: Source, output: Output) -> ReserveState:
    """Which identities have failed, and which of the reserve have been tried. Called on rank 0 only."""
    return reserve_state(output.root, source.first + source.reserve_rows.start)


def plan_work(output: Output, source: Source, example: int) -> tuple[list[int], dict[str, int]]:
    """(rows of the slice to generate, {name: number of existing images of an identity that needs more}).

    Reads the dataset's index. Called on rank 0 only.
    """
    stored = identities_to_keep(output.root, output.format, [source.names[row] for row in source.slice], example)
    todo = [row for row in source.slice if stored.get(source.names[row], 0) < example]
    return todo, {name: stored[name] for row in todo if (name := source.names[row]) in stored}


def bounds_of(source: Source, lowest: float, todo: list[int], device: torch.device) -> dict[str, float]:
    """{name: the bound of its cone of noise} of the rows ``todo``, against all identities. Called on rank 0 only."""
    rows, vectors = source.everyone()
    wanted = set(todo)
    places = [place for place, row in enumerate(rows) if row in wanted]
    bounds = lower_bounds(vectors, lowest, places, device)
    if (narrowed := bounds > lowest).any():
        print(
            f"note: the cones of {narrowed.sum()} of {len(bounds)} identities are narrower than --lower_bound, because "
            f"another identity is near; their bounds are {bounds[narrowed].min():.3f} to {bounds.max():.3f}."
        )
    if still := [source.names[rows[place]] for place, bound in zip(places, bounds, strict=True) if bound == 1]:
        named = ", ".join(still[:NAMED]) + (", ..." if len(still) > NAMED else "")
        print(
            f"note: {len(still)} identities have a vector that occurs twice, which leaves no room for noise: their "
            f"images will be alike ({named})."
        )
    return {source.names[rows[place]]: bound for place, bound in zip(places, bounds.tolist(), strict=True)}


def describe(
    source: Source, networks: Networks, recipe: Recipe, output: Output, gate: Gate | None, precision: Precision,
    extra_settings: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Everything that determines the images, for settings.json.

    ``extra_settings``: the entries that the script knows, such as "mode", "start_class_id" and "attrop".
    """
    rates = recipe.mask_rates
    settings = {
        "mode": extra_settings["mode"],
        "format": output.format,
        "generator": sha256(networks.files.generator),
        "identities": source.fingerprint,
        "start_class_id": extra_settings["start_class_id"],
        "seed": recipe.seed,
        "example": recipe.example,
        "sigma": list(recipe.sigmas),
        "mask_ratio": rates and [rates.minimum, rates.maximum, rates.mu, rates.std],
        "precision": precision.name,
        "jpeg_quality": output.jpeg_quality,
    }
    if rates is None:
        del settings["mask_ratio"]
    if recipe.lower_bound is not None:
        del settings["sigma"]
        settings |= {"noise": "cone", "lower_bound": recipe.lower_bound}
    if recipe.mixup is not None:
        settings[SETTING] = recipe.mixup.setting
    settings |= {name: value for name, value in extra_settings.items() if name not in (*settings, "attrop")}
    settings |= networks.files.hashes()
    if "attrop" in extra_settings:
        settings["attrop"] = extra_settings["attrop"]
    if gate is not None:
        settings["gate"] = [gate.minimums.get("id_similarity"), gate.minimums.get("quality"), gate.max_tries]
    if networks.is_compiled:  # compiled code rounds differently; named only if so, because earlier datasets lack it
        settings["compile"] = True
    return settings


def describe_environment(device: torch.device) -> dict[str, str]:
    """Device and library versions, which may affect the last bits: recorded, not compared."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": version("timm"),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def progress_of(attrop: AttrOP | None) -> AttrOPProgress | None:
    """The AttrOPProgress that an AttrOP reports to, if any."""
    reports_to = attrop.on_iteration if attrop is not None else None
    return reports_to if isinstance(reports_to, AttrOPProgress) else None


def drain(
    generated: Iterable[tuple[Identity, list[GeneratedImage]]], writer: DatasetWriter, count: int, show: bool,
    progress: AttrOPProgress | None = None,
) -> tuple[int, int]:  # fmt: skip
    """Write generated identities under a progress bar; returns (number of identities, number of images)."""
    identities = made = 0
    with tqdm(total=count, unit="id", disable=not show, smoothing=0.05) as bar:
        started = time.monotonic()
        if show and progress is not None:
            progress.bar = bar
        for identity, images in generated:
            writer.write(identity, images)
            identities, made = identities + 1, made + sum(image.pixels is not None for image in images)
            bar.update()
            speed = f"{made / (time.monotonic() - started):.1f} images/s"
            bar.set_postfix_str(speed if progress is None else str(progress), refresh=False)
    return identities, made


def summary(
    source: Source, output: Output, recipe: Recipe, attrop: AttrOP | None, gate: Gate | None,
    selection: Selection | None,
) -> str:  # fmt: skip
    """Lines for the user on the dataset and on the rows of this run, from the manifest."""
    limits = gate.limits if gate else []
    counts = count_records(read_records(output.root, {source.names[row] for row in source.slice}), limits)
    images, identities = dataset_size(output.root)
    lines = [f"the dataset has {images} images of {identities} identities."]
    if attrop is not None:
        progress = progress_of(attrop)
        quality = None if progress is None or progress.hinted else progress.quality
        lines += attrop_lines(counts, quality, attrop.target_names)
    if gate is not None:
        lines += gate_lines(counts, limits, gate.max_tries)
    if selection is not None:
        lines += selection_lines(counts, selection.keep, recipe.example, selection.score is not None)
        if selection.complete:
            state = state_of(source, output)
            path = write_replaced(output.root, state, selection.keep)
            lines += reserve_lines(len(state.failed), len(state.filled), path)
    lmdb_name = f" ({STORES['lmdb'].path(output.root).name})" if output.format == "lmdb" else ""
    lines.append(f"dataset: {output.root}{lmdb_name}")
    if contact_sheet_path(output.root).exists():
        lines.append(f"contact sheet: {contact_sheet_path(output.root)}")
    return "\n".join(lines)
