"""A dataset that is being measured: the inputs of all measurements, and what they have found so far."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.axes import Axes
from tqdm.auto import tqdm

from utils.evaluation.measured_set import MeasuredSet
from utils.evaluation.metrics import BINS
from utils.evaluation.report import Report
from utils.runtime.precision import Precision

SHEET = (8, 10)  # identities and images of each that the report shows first
NAMED = 5  # unreadable images that are listed by name


@dataclass
class Measurement:
    """A MeasuredSet and its findings, to which the functions of identity_measures.py and image_measures.py add.

    ``name``: of the dataset; ``model``: name of the FR model that computed the features; ``sample``, ``pairs``: images
    or centroids, and pairs of images, at most, where a random sample stands for all; ``batch_size``: images at a time.

    ``results``: plain values by topic; ``report``: the page for a browser; ``lines``: the summary for the terminal.
    """

    data: MeasuredSet
    name: str
    model: str
    device: torch.device
    precision: Precision
    sample: int
    pairs: int
    batch_size: int
    seed: int
    results: dict = field(init=False, default_factory=dict)
    lines: list[str] = field(init=False, default_factory=list)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)
        faces = self.data.faces
        self.report = Report(f"{self.name}: {len(faces)} images of {len(faces.identities)} identities")

    def overview(self, model_hash: str) -> None:
        """What was measured, by which FR model (``model_hash``: SHA-256 of its file), and the first identities."""
        data, counts = self.data, self.data.counts[self.data.counts > 0]
        images, identities, unreadable = (
            len(data.faces),
            len(data.faces.identities),
            len(data.faces) - len(data.features),
        )
        per_identity = f"{counts.min()} to {counts.max()}, mean {counts.mean():.2f}"
        model = f"{self.model}, SHA-256 {model_hash[:12]}"
        self.results["overview"] = {
            "dataset": self.name, "images": images, "unreadable_images": unreadable, "people": identities,
            "images_per_person": per_identity, "judge": model, "precision": self.precision.name,
        } | self.precision.in_report()  # fmt: skip
        self.report.table(
            [
                ["dataset", self.name], ["images", images], ["unreadable images", unreadable],
                ["identities", identities], ["images per identity", per_identity], ["FR model", model],
                ["precision", self.precision.name],
            ]
        )  # fmt: skip
        self.lines.append(
            f"{images} images of {identities} identities, {unreadable} unreadable; measured by {self.model} in "
            f"{self.precision.name}"
        )
        if unreadable:
            names = [data.faces.name(index) for index in np.setdiff1d(np.arange(images), data.indices)[:NAMED]]
            self.lines.append(f"unreadable: {', '.join(map(str, names))}{', ...' if unreadable > NAMED else ''}")
            self.report.note(self.lines[-1])
        first = np.flatnonzero(data.counts)[: SHEET[0]]
        self.report.pictures([data.images_of(label, SHEET[1]) for label in first], "the first identities, one per row")

    def random_rows(self, data: MeasuredSet, most: int) -> np.ndarray:
        """At most ``most`` random rows of the features of ``data``, ascending."""
        return np.sort(self.rng.permutation(len(data.features))[:most])


def progress(description: str) -> Callable[[Iterable], Iterable]:
    """A function that wraps an iterable in a progress bar, which appears after two seconds."""
    return lambda work: tqdm(work, desc=description, leave=False, delay=2)


def similarities(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def draw_lines(axes: Axes, points: list[tuple[float, float]], x: str, y: str) -> None:
    axes.plot(*zip(*points, strict=True), marker=".")
    axes.plot([0, points[-1][0]], [0, points[-1][0]], color="grey", linestyle=":")
    axes.set(xlabel=x, ylabel=y)


def draw_histogram(axes: Axes, counts: np.ndarray, x: str, edges: np.ndarray = BINS) -> None:
    axes.stairs(counts, edges, fill=True)
    axes.set(xlabel=x)
