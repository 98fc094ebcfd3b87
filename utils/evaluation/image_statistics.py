"""Measurements of a dataset's images: how much they vary, and how close their distribution is to a reference's."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from models.perceptual import load_lpips
from models.pixels import to_images
from utils.evaluation import metrics
from utils.evaluation.image_features import Extractor
from utils.evaluation.measured_set import MeasuredSet
from utils.evaluation.measured_values import Reader, read_values
from utils.evaluation.measurement import Measurement, draw_histogram, progress
from utils.evaluation.spread import Spread, is_sure, spread

LPIPS_IDENTITIES, LPIPS_IMAGES = 100, 10  # at most
SETS = ("dataset", "reference")


class MeasuredValues(NamedTuple):
    """Values of some images: ``rows`` (n,) of the features, and by name the values (n,)."""

    rows: np.ndarray
    values: dict[str, np.ndarray]


def measure_variety(
    measurement: Measurement, readers: list[Reader], lpips_weights: Path | str | None, reference: MeasuredSet | None
) -> MeasuredValues:
    """How much quality, pose and attributes of the images vary, and how much the images of one identity differ.

    ``readers``: the models of these values; ``reference``: photos of the same kind, whose spread is the yardstick.
    Returns the values.
    """
    data, report = measurement.data, measurement.report
    report.heading("Does it vary?")
    rows = measurement.random_rows(data, measurement.sample)
    measured = MeasuredValues(rows, read_values(data, rows, readers, measurement.batch_size))
    labels, variety = data.labels[rows], {"images": len(rows)}
    for name, numbers in measured.values.items():
        low, middle, high = np.percentile(numbers, (5, 50, 95)).tolist()
        within = metrics.within_identity_std(numbers, labels)
        variety[name] = {"5%": low, "50%": middle, "95%": high, "spread_within_a_person": within}
        counts, edges = np.histogram(numbers, 50)
        report.chart(partial(draw_histogram, counts=counts, edges=edges, x=name), name)
    if table := [[name, *variety[name].values()] for name in measured.values]:
        report.table(table, ["", "5 %", "50 %", "95 %", "standard deviation within an identity"])
    variety["entropy"] = compare_spread(measurement, measured, readers, reference)
    variety["between_images_of_a_person"] = difference = difference_within_identities(measurement, lpips_weights)
    measurement.results["variety"] = variety
    if difference:
        report.table([[difference["measure"], difference["mean"]]])
    report.note(f"Histograms of {len(rows)} images.")
    return measured


def compare_spread(
    measurement: Measurement, measured: MeasuredValues, readers: list[Reader], reference: MeasuredSet | None
) -> dict[str, dict[str, float]]:
    """The entropy of each value over its range, beside the reference's, with a verdict."""
    limits = {value.name: value.limits for reader in readers for value in reader.values if value.limits}
    if not limits:
        return {}
    sets = [(measurement.data.labels[measured.rows], measured.values)]
    if reference is not None:
        rows = measurement.random_rows(reference, len(measured.rows))
        sets.append((reference.labels[rows], read_values(reference, rows, readers, measurement.batch_size)))
    spreads = {
        name: [spread(values[name], labels, limits[name], measurement.rng) for labels, values in sets]
        for name in limits
    }
    measurement.report.table(
        [[name, *(f"{s.entropy:.3f} ± {s.error:.3f}" for s in pair)] for name, pair in spreads.items()],
        ["entropy over the range of the value (equally often everywhere: 1)", *SETS[: len(sets)]],
    )
    if reference is not None:
        line = verdict_on_spread(spreads, reference.faces.path.name)
        measurement.lines.append(f"verdict: {line}")
        measurement.report.note(line)
    return {name: dict(zip(SETS, (s.entropy for s in pair), strict=False)) for name, pair in spreads.items()}


def verdict_on_spread(spreads: dict[str, list[Spread]], name: str) -> str:
    """Which values spread less, or more, than those of the reference ``name`` by more than chance."""
    told = {word: [] for word in ("less", "more")}
    for value, (own, other) in spreads.items():
        if is_sure(own, other):
            word = "less" if own.entropy < other.entropy else "more"
            told[word].append(f"{value} ({own.entropy:.2f} against {other.entropy:.2f})")
    parts = [f"{word} than those of {name} in {', '.join(values)}" for word, values in told.items() if values]
    return f"the images vary {'; '.join(parts)}" if parts else f"the images vary as those of {name} do"


@torch.inference_mode()
def difference_within_identities(measurement: Measurement, lpips_weights: Path | str | None) -> dict | None:
    """Mean difference of two images of an identity, over at most 100 random identities, as in UIFace.

    None when no identity has two images.
    """
    data, device = measurement.data, measurement.device
    identities = measurement.rng.permutation(np.flatnonzero(data.counts > 1))[:LPIPS_IDENTITIES]
    if not len(identities):
        return None
    perceptual = load_lpips(lpips_weights).to(device) if lpips_weights else None
    means = []
    for label in progress("difference within an identity")(identities):
        rows = np.flatnonzero(data.labels == label)[:LPIPS_IMAGES]
        a, b = np.triu_indices(len(rows), 1)
        if perceptual is None:
            unit = metrics.normalised(data.features[rows])
            means.append(float((1 - (unit[a] * unit[b]).sum(1)).mean()))
        else:
            images = to_images(torch.from_numpy(data.images(rows)).to(device))  # (n, 3, 112, 112)
            means.append(float(perceptual(images[a], images[b]).mean()))
    name = "LPIPS (VGG16)" if perceptual else "1 - similarity of FR features (no LPIPS weights given)"
    return {"measure": name, "mean": float(np.mean(means)), "people": len(identities)}


def measure_fidelity(
    measurement: Measurement, reference: MeasuredSet, extractor: Extractor | None, neighbours: int, most: int
) -> None:
    """Precision, recall and the Fréchet distance, or FID, against a reference set.

    ``extractor``: computes the features; without one they are those of the FR model. ``most``: images of either set.
    """
    report, sets = measurement.report, (measurement.data, reference)
    chosen = [measurement.random_rows(data, most) for data in sets]
    report.heading(f"Does it look like {reference.faces.path.name}?")
    if min(map(len, chosen)) <= neighbours:
        report.note(f"Too few images: precision and recall need more than {neighbours} of each.")
        return
    if extractor is None:
        name, is_fid = f"the FR model {measurement.model}", False
        fake, real = (data.features[rows] for data, rows in zip(sets, chosen, strict=True))
    else:
        network, name, is_fid = extractor
        fake, real = (
            data.outputs(network, rows, measurement.batch_size, "features").numpy()
            for data, rows in zip(sets, chosen, strict=True)
        )
    precision, recall = metrics.precision_and_recall(real, fake, neighbours)
    distance = metrics.frechet_distance(real, fake)
    title = "FID" if is_fid else f"Fréchet distance (features of {name})"
    measurement.results["fidelity"] = {
        "reference": str(reference.faces.path), "features": name, "images": [len(fake), len(real)],
        "neighbours": neighbours, "precision": precision, "recall": recall, "distance_name": title,
        ("fid" if is_fid else "frechet_distance"): distance,
    }  # fmt: skip
    report.table(
        [
            ["images of the dataset, of the reference", f"{len(fake)}, {len(real)}"],
            [f"precision (features of {name}, {neighbours} neighbours)", precision],
            [f"recall (features of {name}, {neighbours} neighbours)", recall],
            [title, f"{distance:.4g}"],
        ]
    )
    report.note(
        "FID falls with the number of images: compare it at equal numbers." if is_fid else
        "This distance is not the FID. It falls with the number of images: compare it at equal numbers and in "
        "the same features."
    )  # fmt: skip
    measurement.lines.append(
        f"{len(fake)} images against {len(real)} of {reference.faces.path.name}: precision {precision:.3f}, recall "
        f"{recall:.3f}, {title} {distance:.4g}"
    )
