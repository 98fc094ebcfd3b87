"""The summary that a generation run prints at its end, from the manifest."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from utils.dataset.image_record import ImageRecord

NAMED = 10  # number of identities named in the summary
PASSING_SHARE = 0.9  # fraction of the images that pass at a suggested threshold


@dataclass
class DatasetCounts:
    """Counts over a manifest. ``images``: {name of an identity: number of images}, also of identities without any."""

    images: Counter = field(default_factory=Counter)
    attrop_rows: int = 0
    attrop_iterations: int = 0
    accepted: int = 0
    missed: Counter = field(default_factory=Counter)  # {target: rows that missed it}
    best_quality: float = -np.inf
    left_out: int = 0
    gate_missed: Counter = field(default_factory=Counter)  # {measure: images left out that missed it at every try}
    best_values: dict = field(default_factory=lambda: defaultdict(partial(array, "f")))  # {measure: best values}


def count_records(records: Iterable[ImageRecord], minimums: dict[str, float]) -> DatasetCounts:
    """Count in one pass over a manifest. ``minimums``: those of the gate."""
    counts = DatasetCounts()
    for record in records:
        counts.images[record.name] += record.passed is not False
        verdict = record.attrop
        if verdict is not None:
            counts.attrop_rows += 1
            counts.attrop_iterations += verdict.iterations
            counts.accepted += verdict.accepted
            counts.missed.update(verdict.missed)
            quality = verdict.values.get("quality", record.measured.get("quality", -np.inf))
            counts.best_quality = max(counts.best_quality, quality)
        counts.left_out += record.passed is False
        for name, lowest in minimums.items():
            values = [values[name] for values in (*record.tries, record.measured) if name in values]
            counts.best_values[name].append(max(values))
            counts.gate_missed[name] += record.passed is False and max(values) < lowest
    return counts


def attrop_lines(counts: DatasetCounts, wanted_quality: float | None, targets: list[str]) -> Iterator[str]:
    """Lines on AttrOP. ``targets``: their names; ``wanted_quality``: target for the hint that no image came near it."""
    if not counts.attrop_rows:
        return
    rows = counts.attrop_rows
    line = f"AttrOP: {counts.accepted / rows:.0%} accepted, {counts.attrop_iterations / rows:.1f} iterations on average"
    if counts.accepted < rows:
        line += "; missed: " + ", ".join(f"{name} {counts.missed[name]}" for name in targets)
    yield line + "."
    if wanted_quality is not None and not counts.accepted and counts.best_quality < wanted_quality - 1:
        yield (
            f"hint: no image came near quality {wanted_quality:g}, the best had {counts.best_quality:.1f}; lower "
            "--image_quality."
        )


def gate_lines(counts: DatasetCounts, minimums: dict[str, float], max_tries: int) -> Iterator[str]:
    """Lines on the images that the gate left out, why, and the threshold at which most of the images would pass."""
    if not counts.left_out:
        return
    total = sum(counts.images.values()) + counts.left_out
    yield f"gate: {counts.left_out} of {total} images passed in none of {max_tries} tries and are left out."
    for name, lowest in minimums.items():
        passing = np.quantile(counts.best_values[name], 1 - PASSING_SHARE)
        line = f"  {name} below {lowest:g} at every try: {counts.gate_missed[name]} images"
        if passing < lowest:
            reached = np.floor(passing * 100) / 100
            line += f"; {PASSING_SHARE:.0%} of the images would pass at --min_{name} {reached:g}"
        yield line + "."
    empty = [name for name, count in counts.images.items() if not count]
    if empty:
        named = ", ".join(empty[:NAMED]) + (", ..." if len(empty) > NAMED else "")
        yield f"  Without a single image, and so without a folder or class: {len(empty)} identities ({named})."
    most = max(counts.images.values())
    few = [(name, count) for name, count in counts.images.most_common()[::-1] if 0 < count < most][:NAMED]
    if few:
        yield "  Fewest images: " + ", ".join(f"{name} ({count})" for name, count in few) + "."
