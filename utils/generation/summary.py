"""The summary that a generation run prints at its end, from the manifest."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from utils.dataset.image_record import INCOMPLETE, NOT_BEST, ImageRecord
from utils.generation.gate import Limit

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
    not_best: int = 0
    incomplete: int = 0
    gate_missed: Counter = field(default_factory=Counter)  # {limit: images left out that missed it at every try}
    best_values: dict = field(default_factory=lambda: defaultdict(partial(array, "f")))  # {limit: best values}


def count_records(records: Iterable[ImageRecord], limits: list[Limit]) -> DatasetCounts:
    """Count in one pass over a manifest. ``limits``: those of the gate."""
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
        reason = record.tries[-1]["reason"] if record.passed is False else ""
        counts.not_best += reason.startswith(NOT_BEST)
        counts.incomplete += reason.startswith(INCOMPLETE)
        left_out = record.passed is False and not reason.startswith((NOT_BEST, INCOMPLETE))
        counts.left_out += left_out
        for limit in limits:
            values = [values[limit.name] for values in (*record.tries, record.measured) if limit.name in values]
            best = limit.best(values) if values else (-np.inf if limit.is_minimum else np.inf)
            counts.best_values[limit].append(best)
            counts.gate_missed[limit] += left_out and not limit.passes(best)
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


def gate_lines(counts: DatasetCounts, limits: list[Limit], max_tries: int) -> Iterator[str]:
    """Lines on the images that the gate left out, why, and the threshold at which most of the images would pass."""
    if not counts.left_out:
        return
    total = sum(counts.images.values()) + counts.left_out + counts.not_best + counts.incomplete
    are = "is" if counts.left_out == 1 else "are"
    yield f"gate: {counts.left_out} of {total} images {are} left out, as no try of {max_tries} passed."
    for limit in limits:
        if limit.name == "faces" and not counts.gate_missed[limit]:
            continue
        line = f"  {limit.name} {limit} at every try: {counts.gate_missed[limit]} images"
        if (reached := within_reach(counts.best_values[limit], limit)) is not None and limit.name != "faces":
            flag = f"--{'min' if limit.is_minimum else 'max'}_{limit.name}"
            line += f"; {PASSING_SHARE:.0%} of the images would pass at {flag} {reached:g}"
        yield line + "."
    empty = [name for name, count in counts.images.items() if not count]
    if empty:
        named = ", ".join(empty[:NAMED]) + (", ..." if len(empty) > NAMED else "")
        yield f"  Without a single image, and so without a folder or class: {len(empty)} identities ({named})."
    most = max(counts.images.values())
    few = [(name, count) for name, count in counts.images.most_common()[::-1] if 0 < count < most][:NAMED]
    if few:
        yield "  Fewest images: " + ", ".join(f"{name} ({count})" for name, count in few) + "."


def within_reach(best_values: Iterable[float], limit: Limit) -> float | None:
    """The value that PASSING_SHARE of the images reach, to two places; None where that passes, or there is none."""
    values = np.asarray(best_values)
    if limit.is_minimum:
        lowest = np.quantile(values, 1 - PASSING_SHARE, method="lower") if np.isfinite(values).all() else np.nan
        passing = np.floor(lowest * 100) / 100
    else:
        passing = np.ceil(np.quantile(values, PASSING_SHARE, method="higher") * 100) / 100
    return None if limit.passes(passing) or not np.isfinite(passing) else float(passing)


def selection_lines(counts: DatasetCounts, keep: int, drawn: int, is_scored: bool) -> Iterator[str]:
    """Lines on the images that passed and are not kept."""
    if is_scored:
        yield f"selection: of {drawn} images of an identity the best {keep} are kept; {counts.not_best} others passed."
    if counts.incomplete:
        yield f"  {counts.incomplete} images passed and are left out, because their identities could not fill {keep}."


def reserve_lines(failed: int, filled: int, path: Path) -> Iterator[str]:
    """Lines on identities that could not fill their images. ``path``: the list of them."""
    if not failed:
        return
    yield f"reserve: {failed} identities could not fill their images, {min(failed, filled)} are replaced: {path}"
    if filled < failed:
        yield f"  the reserve is used up; {failed - filled} identities are missing."
