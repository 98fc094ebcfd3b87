"""Choosing what a generation run measures on its images, and with which networks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn as nn

from utils.dataset.layout import SETTINGS, has_old_layout, read_settings, settings_path
from utils.dataset.migration import measured_by_gate
from utils.generation.identity_sampling import directions
from utils.generation.image_measures import ImageMeasures
from utils.generation.landmark_check import LandmarkCheck
from utils.generation.networks import Networks, load_estimators
from utils.runtime.device import compiled
from utils.runtime.precision import PRECISIONS

CHEAP = 0.1  # of the cost of decoding an image: cheaper measures are taken by default
ROLE_OF = {"id_similarity": "id", "quality": "quality", "yaw": "pose"}  # the network that each measure needs


class Measuring(NamedTuple):
    """How the images of a run are measured.

    ``measures``: None if nothing is measured; ``described``: the entry of settings.json; ``note``: a line for the user.
    """

    measures: ImageMeasures | None = None
    described: dict[str, Any] | None = None
    note: str | None = None


def choose_measures(
    networks: Networks, dataset: Path, device: torch.device, drawn_in: torch.dtype, *, requested: bool | None,
    precision: str, begins_anew: bool, gate_names: list[str], done_by_attrop: bool, avoid: np.ndarray | None = None,
    attributes: Sequence[str] = (),
) -> Measuring:  # fmt: skip
    """Choose what is measured on every image of a ``dataset``.

    ``requested``: True for everything, False for only what the gate needs, None for the measures of an existing
    dataset, or for a new one those that are CHEAP. ``begins_anew``: an existing dataset is overwritten. ``drawn_in``:
    dtype of the networks; ``precision``: name of the number format to measure in. ``gate_names``: the measures that the
    gate needs; ``done_by_attrop``: AttrOP measures every image anyway; ``avoid``: features of people (M, 512) that no
    image may resemble; ``attributes``: those that are measured in any case.
    """
    asked, gate_names = gate_names, [name for name in gate_names if name in ROLE_OF]
    if "avoid_similarity" in asked and "id_similarity" not in gate_names:
        gate_names.append("id_similarity")  # from the same features
    for_gate = [name for name in asked if name not in ROLE_OF]
    if requested is False and not asked and not attributes:
        return Measuring()
    available = [name for name, role in ROLE_OF.items() if role in networks.by_role]
    by_role = networks.by_role
    if PRECISIONS[precision] != drawn_in:  # stored values are in float32 even if images are decoded in 16 bit
        by_role = load_estimators(networks.files, device, PRECISIONS[precision])
        if networks.is_compiled:
            done = {id(model): compiled(model, device, fixed_shapes=True) for model in by_role.values()}
            by_role = {role: done[id(model)] for role, model in by_role.items()}

    def operations(names: list[str]) -> float:
        return measures_of(names, by_role).cost(networks.generator) if names else 0.0

    def cost(names: list[str]) -> float:
        return operations(names) - operations(gate_names)

    names, note = choose_names(requested, available, cost, dataset, gate_names, done_by_attrop, begins_anew)
    described = {"names": [*names, *for_gate, *attributes], "precision": precision}
    if not described["names"]:
        described = None
    measures = measures_of(names, by_role)
    if for_gate or attributes:
        measures = replace(
            measures or ImageMeasures(),
            gate_encoder=by_role["gate"] if "gate_similarity" in for_gate else None,
            avoid=directions(avoid, device) if "avoid_similarity" in for_gate else None,
            landmark_check=LandmarkCheck() if "landmark_error" in for_gate else None,
            attribute_model=by_role.get("attribute"),
            attributes=tuple(attributes),
        )
    return Measuring(measures, described, note)


def measures_of(names: list[str], by_role: dict[str, nn.Module]) -> ImageMeasures | None:
    """ImageMeasures for some names in ROLE_OF; None without names."""
    chosen = {role: by_role[role] if name in names else None for name, role in ROLE_OF.items()}
    return ImageMeasures(chosen["id"], chosen["quality"], chosen["pose"]) if names else None


def choose_names(
    requested: bool | None, available: list[str], cost: Callable[[list[str]], float], dataset: Path,
    gate_names: list[str], done_by_attrop: bool, begins_anew: bool,
) -> tuple[list[str], str | None]:  # fmt: skip
    """(names in ROLE_OF to measure on every image, a note for the user or None).

    ``available``: names whose networks are loaded; ``cost(names)``: cost of measuring these beyond what the gate
    measures anyway, relative to decoding an image; other parameters as in ``choose_measures``.
    """
    if requested:
        return available, None
    if requested is False or done_by_attrop or set(available) == set(gate_names):
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
    """Names of the measures of an existing dataset, in either layout."""
    old = has_old_layout(dataset)
    settings = read_settings(Path(dataset) / SETTINGS if old else settings_path(dataset))["settings"]
    return ((measured_by_gate(settings) if old else settings.get("measured")) or {"names": []})["names"]
