"""Which measures of its images a generation run takes, and with which networks."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn

from utils.dataset.layout import SETTINGS, has_old_layout, read_settings, settings_path
from utils.dataset.migration import measured_by_gate
from utils.generation.image_measures import ImageMeasures
from utils.generation.networks import Networks, load_estimators
from utils.runtime.device import compiled
from utils.runtime.precision import PRECISIONS

CHEAP = 0.1  # of the operations that drawing an image takes: what costs less is measured unasked
ROLE_OF = {"id_similarity": "id", "quality": "quality", "yaw": "pose"}  # the network that each measure needs


class Measuring(NamedTuple):
    """How the images of a run are measured.

    ``measures``: None when nothing is; ``described``: what settings.json says of it; ``note``: a line for the user.
    """

    measures: ImageMeasures | None = None
    described: dict | None = None
    note: str | None = None


def choose_measures(
    networks: Networks, dataset: Path, device: torch.device, drawn_in: torch.dtype, *, wanted: bool | None,
    precision: str, begins_anew: bool, gate_names: list[str], done_by_attrop: bool,
) -> Measuring:  # fmt: skip
    """Decide what is measured of every image of a ``dataset``.

    ``wanted``: True for everything, False for what the gate needs alone, None for what a dataset that is there was
    begun with, or for a new one what is CHEAP. ``drawn_in``: dtype of the networks; ``precision``: name of the number
    format to measure in. ``gate_names``: the measures that the gate needs; ``done_by_attrop``: AttrOP measures every
    image on its way.
    """
    if wanted is False and not gate_names:
        return Measuring()
    available = [name for name, role in ROLE_OF.items() if role in networks.by_role]
    by_role = networks.by_role
    if PRECISIONS[precision] != drawn_in:  # what is stored is measured in float32 where images are drawn in 16 bit
        by_role = load_estimators(networks.files, device, PRECISIONS[precision])
        if networks.is_compiled:
            done = {id(model): compiled(model, device, fixed_shapes=True) for model in by_role.values()}
            by_role = {role: done[id(model)] for role, model in by_role.items()}

    def operations(names):
        return measures_of(names, by_role).cost(networks.generator) if names else 0.0

    def cost(names):
        return operations(names) - operations(gate_names)

    names, note = choose_names(wanted, available, cost, dataset, gate_names, done_by_attrop, begins_anew)
    described = {"names": names, "precision": precision} if names else None
    return Measuring(measures_of(names, by_role), described, note)


def measures_of(names: list[str], by_role: dict[str, nn.Module]) -> ImageMeasures | None:
    """ImageMeasures of some names in ROLE_OF; None without any."""
    chosen = {role: by_role[role] if name in names else None for name, role in ROLE_OF.items()}
    return ImageMeasures(chosen["id"], chosen["quality"], chosen["pose"]) if names else None


def choose_names(
    wanted: bool | None, available: list[str], cost: Callable[[list[str]], float], dataset: Path,
    gate_names: list[str], done_by_attrop: bool, begins_anew: bool,
) -> tuple[list[str], str | None]:  # fmt: skip
    """(names in ROLE_OF to measure of every image, a note for the user or None).

    ``available``: names whose networks are loaded; ``cost(names)``: operations of measuring these, without what the
    gate measures anyway, over those of drawing an image; the others as for ``choose_measures``.
    """
    if wanted:
        return available, None
    if wanted is False or done_by_attrop or set(available) == set(gate_names):
        return gate_names, None
    if not begins_anew and (settings_path(dataset).exists() or has_old_layout(dataset)):
        begun_with = earlier_measures(dataset)
        return [name for name in available if name in begun_with or name in gate_names], None
    if not available:
        return [], (
            "the images are not measured. To have their id similarity and quality in the manifest, begin the dataset "
            "with --measure."
        )
    if (share := cost(available)) < CHEAP:
        return available, None
    left = " and ".join(name.replace("_", " ") for name in available if name not in gate_names)
    return gate_names, (
        f"{left} of the images {'are' if ' and ' in left else 'is'} not measured, as that would cost {share:.0%} of "
        "drawing them. To have it in the manifest, begin the dataset with --measure."
    )


def earlier_measures(dataset: Path) -> list[str]:
    """Names of what is measured of the images of a dataset that is there, of either layout."""
    old = has_old_layout(dataset)
    settings = read_settings(Path(dataset) / SETTINGS if old else settings_path(dataset))["settings"]
    return ((measured_by_gate(settings) if old else settings.get("measured")) or {"names": []})["names"]
