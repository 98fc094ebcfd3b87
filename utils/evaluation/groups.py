"""Figures of groups of identities, such as the young and the old, or dark and light skin."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.errors import UserError
from utils.evaluation import metrics
from utils.evaluation.image_statistics import MeasuredValues
from utils.evaluation.measured_values import Reader
from utils.evaluation.measurement import Measurement
from utils.evaluation.report import percent

PARTS = 3  # equal parts of an attribute's range
BY_DEFAULT = ("age", "skin")
FEW = 10  # identities below which a group's figures mean little


class Group(NamedTuple):
    """The identities whose value lies in a part of its range. ``images``: the rows of their features."""

    name: str
    identities: np.ndarray
    images: np.ndarray


def grouping_values(readers: list[Reader], asked: Sequence[str] | None) -> dict[str, tuple[float, float]]:
    """The ranges of the values to group by. ``asked``: None for age and skin, as far as a model reads them.

    Raises UserError for a value that no model reads, or that has no range.
    """
    limits = {value.name: value.limits for reader in readers for value in reader.values if value.limits}
    for name in asked or ():
        if name not in limits:
            known = f"those with a range are {', '.join(limits)}" if limits else "give --attribute_weights"
            raise UserError(f"--group_by {name}: no model here reads it; {known}.")
    return {name: limits[name] for name in (BY_DEFAULT if asked is None else asked) if name in limits}


def measure_groups(measurement: Measurement, measured: MeasuredValues, by: dict[str, tuple[float, float]]) -> None:
    """Consistency and error rate within each group, for each of the values with ranges in ``by``."""
    measurement.results["groups"] = results = {}
    if by:
        measurement.report.heading("Are all groups equally good?")
    for name, limits in by.items():
        groups = groups_of(measurement, measured.values[name], measured.rows, name, limits)
        results[name] = {group.name: figures_of(measurement, group) for group in groups}
        measurement.report.table(
            [[group, *show(figures)] for group, figures in results[name].items()],
            ["identities with a mean " + name, "identities", "images", "consistency", "similarity of two identities",
             "equal error rate within the group"],
        )  # fmt: skip
        measurement.lines.append(f"by {name}: " + "; ".join(f"{g} {sentence(f)}" for g, f in results[name].items()))
    if by:
        measurement.report.note(
            "The groups are the equal parts of the range of the attribute, by its mean over the images of an identity. "
            f"With fewer than {FEW} identities the figures of a group mean little."
        )


def groups_of(
    measurement: Measurement, values: np.ndarray, rows: np.ndarray, name: str, limits: tuple[float, float]
) -> list[Group]:
    """The groups of identities by the mean of ``values`` (n,) over those of their images that are in ``rows`` (n,)."""
    labels = measurement.data.labels
    known, position = np.unique(labels[rows], return_inverse=True)
    means = np.bincount(position, values) / np.bincount(position)  # (identities,)
    edges = np.linspace(*limits, PARTS + 1)
    part = np.digitize(means, edges[1:-1])  # (identities,) in [0, PARTS)
    result = []
    for index in range(PARTS):
        identities = known[part == index]
        title = f"{edges[index]:.3g} to {edges[index + 1]:.3g}"
        result.append(Group(title, identities, np.flatnonzero(np.isin(labels, identities))))
    return result


def figures_of(measurement: Measurement, group: Group) -> dict[str, float | int | None]:
    """How many there are, how consistent, and how well they are told from each other."""
    data = measurement.data
    figures = {"identities": len(group.identities), "images": len(group.images)}
    consistency = metrics.consistency(data.sums[group.identities], data.counts[group.identities])
    genuine = impostor = np.zeros(0)
    if len(group.images):
        features, labels = data.features[group.images], data.labels[group.images]
        genuine, impostor = metrics.genuine_and_impostor(features, labels, measurement.rng, measurement.pairs)
    return figures | {
        "consistency": float(consistency.mean()) if len(consistency) else None,
        "impostor_mean": float(impostor.mean()) if len(impostor) else None,
        "equal_error_rate": metrics.error_rate(genuine, impostor),
    }


def show(figures: dict) -> list:
    """The cells of a row of the table."""
    *values, error_rate = figures.values()
    return [*values, percent(error_rate)]


def sentence(figures: dict) -> str:
    """The figures of a group in the summary."""
    few = ", too few to compare" if figures["identities"] < FEW else ""
    if figures["consistency"] is None:
        return f"({figures['identities']} identities{few})"
    return (
        f"({figures['identities']} identities{few}): consistency {figures['consistency']:.3f}, equal error rate "
        f"{percent(figures['equal_error_rate'])}"
    )
