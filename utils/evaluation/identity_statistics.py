"""Measurements of a dataset's identities: separability, consistency, and leakage of reference identities."""

from functools import partial

import numpy as np
from scipy.stats import mannwhitneyu

from utils.evaluation import metrics
from utils.evaluation.measured_set import MeasuredSet
from utils.evaluation.measurement import Measurement, draw_histogram, draw_lines, progress, similarities
from utils.evaluation.report import percent, shown

WORST = 8  # pairs shown
CHANCE = 0.05  # p-value below which a difference is reported
ENOUGH = 20  # identities below which its absence says nothing
MEANING_OF_SIMILARITY = (
    "An identity is represented here by the mean FR feature of its images, by {model}. A bound on the similarity of "
    "sampled identity vectors holds for those vectors, not for the images made from them."
)
NO_REFERENCE = (
    "none without --reference: how many identities count as separate depends on the FR model and on the number of "
    "identities, so it takes as many identities of photos to compare with."
)


def measure_separability(measurement: Measurement, references: list[MeasuredSet]) -> None:
    """How many identities differ from all preceding ones, alone and in comparison with the reference sets."""
    data, rng, device = measurement.data, measurement.rng, measurement.device
    present = np.flatnonzero(data.counts)
    centroids = data.centroids[present]
    similarity, nearest = metrics.nearest_preceding(centroids, device, progress("identities against identities"))
    curve = metrics.separability(similarity)
    counts, used = metrics.histogram_of_pairs(centroids, rng, measurement.sample, device)
    middle = (metrics.BINS[1:] + metrics.BINS[:-1]) / 2
    separate = curve[-1][1]
    measurement.results["people"] = result = {
        "separate": separate,
        "separate_share": separate / len(centroids),
        "separability_curve": curve,
        "mean_similarity": float((counts * middle).sum() / counts.sum()) if counts.sum() else None,
        "largest_similarity": float(similarity.max()) if len(similarity) > 1 else None,
        "histogram_of_centres": used,
    }
    meaning = MEANING_OF_SIMILARITY.format(model=measurement.model)
    part = f"{separate} of {len(similarity)} ({percent(result['separate_share'])})"
    report, lines = measurement.report, measurement.lines
    report.heading("Are the identities different?")
    report.note(meaning)
    report.table(
        [
            [f"identities without a preceding one more similar than {metrics.SEPARATE}", part],
            ["mean similarity of two identities", result["mean_similarity"]],
            ["largest similarity of two identities", result["largest_similarity"]],
        ]
    )
    lines.append(
        f"separate identities: {part} have no preceding identity more similar than {metrics.SEPARATE}; mean similarity "
        f"of two identities {shown(result['mean_similarity'])}"
    )
    lines.append("  " + meaning)
    report.chart(lambda axes: draw_lines(axes, curve, "identities", "separate identities"), "separability curve")
    report.chart(partial(draw_histogram, counts=counts, x="similarity of two class centroids"), "centroids, all pairs")
    if used < len(centroids):
        report.note(f"Histogram: all pairs of {used} random identities of {len(centroids)}.")
    pairs = [(i, nearest[i]) for i in np.argsort(-similarity)[: min(WORST, len(similarity) - 1)]]
    report.note("The most similar identities, one pair per row: " + similarities(similarity[i] for i, _ in pairs))
    report.pictures([data.images_of(present[a], 5) + data.images_of(present[b], 5) for a, b in pairs], "pairs")
    compare_separability(measurement, references)


def compare_separability(measurement: Measurement, references: list[MeasuredSet]) -> None:
    """Separability among equally many identities of the dataset and of each reference set, with a verdict."""
    rows, measurement.results["people"]["compared_with"] = [], []
    for reference in references:
        both = [data.centroids[data.counts > 0] for data in (measurement.data, reference)]
        count = min(*map(len, both), measurement.sample)
        separate = [metrics.separate_among(c, count, measurement.rng, measurement.device) for c in both]
        chance = metrics.chance_of_difference(*separate, count)
        measurement.results["people"]["compared_with"].append(
            {
                "reference": str(reference.faces.path), "people": count, "separate": separate[0],
                "separate_in_reference": separate[1], "p_value": chance,
            }
        )  # fmt: skip
        name = reference.faces.path.name
        parts = [f"{number} ({percent(number / count)})" for number in separate]
        verdict = verdict_on(separate, count, chance, name)
        rows.append([name, count, *parts, verdict])
        measurement.lines.append(
            f"  of {count} random identities: {parts[0]}; of as many identities of {name}: {parts[1]}"
        )
        measurement.lines.append(f"verdict: {verdict}")
    if rows:
        head = ["reference", "identities of each", "separate", "separate in the reference", "verdict"]
        measurement.report.table(rows, head)
    else:
        measurement.report.note(NO_REFERENCE)
        measurement.lines.append(f"verdict: {NO_REFERENCE}")


def verdict_on(separate: tuple[int, int], count: int, chance: float, name: str) -> str:
    """What the separate identities out of ``count``, of the dataset and of the reference, show and no more."""
    if chance >= CHANCE and count < ENOUGH:
        return f"{count} identities are too few to tell them from identities of {name} (p = {chance:.2g})"
    if chance >= CHANCE:
        return f"{count} identities show no difference from identities of {name} (p = {chance:.2g})"
    word = "less" if separate[0] < separate[1] else "more"
    return f"they are separate {word} often than identities of {name} (p = {chance:.2g})"


def measure_consistency(measurement: Measurement, references: list[MeasuredSet]) -> None:
    """Whether the images of an identity show one person, also in comparison with the reference sets."""
    data, report = measurement.data, measurement.report
    own = metrics.own_similarities(data.features, data.labels, data.sums, data.counts)
    known = own[~np.isnan(own)]
    report.heading("Is each identity one person?")
    if not len(known):
        measurement.results["identity"] = None
        report.note("No identity has two images.")
        return
    misassigned, checked = metrics.misassigned_fraction(
        data.features, data.labels, data.centroids, own, measurement.rng, measurement.sample, measurement.device
    )
    genuine, impostor = metrics.genuine_and_impostor(data.features, data.labels, measurement.rng, measurement.pairs)
    percentiles = dict(zip(("1%", "5%", "50%", "95%"), np.percentile(known, (1, 5, 50, 95)).tolist(), strict=True))
    error_rate = metrics.error_rate(genuine, impostor)
    consistency = metrics.consistency(data.sums, data.counts)
    measurement.results["identity"] = {
        "consistency": float(consistency.mean()),
        "similarity_to_own_centre": {"mean": float(known.mean())} | percentiles,
        "closer_to_another_person": misassigned,
        "images_checked_for_that": checked,
        "equal_error_rate": error_rate,
        "genuine_mean": float(genuine.mean()),
        "impostor_mean": float(impostor.mean()) if len(impostor) else None,
    }
    figures = {"mean": float(known.mean()), **percentiles}
    report.table(
        [["intra-class identity consistency", float(consistency.mean())]]
        + [[f"similarity to the class centroid, {name}", value] for name, value in figures.items()]
        + [
            [f"images closer to the centroid of another class (of {checked})", percent(misassigned)],
            ["equal error rate of random pairs", percent(error_rate)],
        ]
    )
    measurement.lines.append(
        f"intra-class identity consistency {consistency.mean():.3f}; similarity to the class centroid "
        f"{known.mean():.3f}; {percent(misassigned)} closer to that of another class; equal error rate "
        f"{percent(error_rate)}"
    )
    report.note(
        "Consistency: the mean similarity of two images of an identity, averaged over identities. The class centroid "
        "of an image is the mean direction of the other images of its identity."
    )
    compare_consistency(measurement, consistency, references)

    def draw(axes):
        for name, values in (("one identity", genuine), ("two identities", impostor)):
            if len(values):
                axes.hist(values, metrics.BINS, density=True, histtype="stepfilled", alpha=0.6, label=name)
        axes.set(xlabel="similarity of two images")
        axes.legend()

    report.chart(draw, "genuine and impostor pairs")
    hardest = np.argsort(np.where(np.isnan(own), np.inf, own))[:WORST]
    report.note(
        "Least similar to their class centroid, beside other images of the identity: " + similarities(own[hardest])
    )
    others = [np.setdiff1d(np.flatnonzero(data.labels == data.labels[i]), [i])[:5] for i in hardest]
    report.pictures([list(data.images([i, *rest])) for i, rest in zip(hardest, others, strict=True)], "hardest")


def compare_consistency(measurement: Measurement, own: np.ndarray, references: list[MeasuredSet]) -> None:
    """The consistency of the dataset's identities (C,) beside that of each reference's, with a verdict."""
    rows, measurement.results["identity"]["compared_with"] = [], []
    for reference in references:
        other, name = metrics.consistency(reference.sums, reference.counts), reference.faces.path.name
        if not len(other):
            measurement.report.note(f"No identity of {name} has two images to compare with.")
            continue
        chance = float(mannwhitneyu(own, other).pvalue)
        if chance >= CHANCE:
            verdict = f"the identities are as consistent as those of {name}, as far as {len(own)} and {len(other)} show"
        else:
            verdict = (
                f"the identities are {'less' if own.mean() < other.mean() else 'more'} consistent than those of {name}"
            )
        verdict += f" ({own.mean():.3f} against {other.mean():.3f}, p = {chance:.2g})"
        measurement.results["identity"]["compared_with"].append(
            {
                "reference": str(reference.faces.path), "consistency_of_reference": float(other.mean()),
                "p_value": chance,
            }
        )  # fmt: skip
        rows.append([name, float(own.mean()), float(other.mean()), verdict])
        measurement.lines.append(f"verdict: {verdict}")
    if rows:
        measurement.report.table(rows, ["reference", "consistency", "consistency of the reference", "verdict"])


def measure_leakage(measurement: Measurement, reference: MeasuredSet) -> None:
    """Whether images resemble identities of a reference set."""
    data, report = measurement.data, measurement.report
    result, worst = metrics.leakage(
        data.features, reference.centroids, measurement.rng, max(measurement.sample, measurement.pairs), WORST,
        measurement.device, progress("leakage"),
    )  # fmt: skip
    measurement.results.setdefault("leakage", []).append({"reference": str(reference.faces.path)} | result)
    report.heading(f"Does it resemble identities of {reference.faces.path.name}?")
    above = [[f"images more similar than {t} to one of them", percent(part)] for t, part in result["above"].items()]
    report.table([["largest similarity", result["largest"]], *above])
    measurement.lines.append(
        f"closest to {reference.faces.path}: {result['largest']:.3f}; above 0.4: {percent(result['above']['0.4'])}"
    )
    report.note(
        f"{result['images']} images against {result['reference_centres']} class centroids. The most similar ones, "
        "each beside the identity it resembles: " + similarities(similarity for *_, similarity in worst)
    )
    rows = [[data.images([image])[0], *reference.images_of(identity, 3)] for image, identity, _ in worst]
    report.pictures(rows, "worst pairs")
