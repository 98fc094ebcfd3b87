"""The parts of the report on a dataset of people, see scripts/measure_dataset.py."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.iresnet import load_face_encoder
from models.perceptual import load_lpips
from models.pixels import to_images
from models.sixdrepnet import load_pose_estimator
from utils.evaluation import metrics as metrics
from utils.evaluation.report import Report, percent, shown

SHEET = (8, 10)  # people, images each
WORST = 8  # pairs shown
NAMED = 5  # unreadable images named
PEOPLE_FOR_LPIPS, IMAGES_FOR_LPIPS = 100, 10
CHANCE = 0.05  # below it a difference is taken to be one


class Measurement:
    """Each method measures one thing of a MeasuredSet, into ``results`` (plain values), ``report`` and ``lines``.

    ``args``: the flags of scripts/measure_dataset.py; ``judge``: what to call the FR model the features are of.
    """

    def __init__(self, args, data, judge, device, dtype):
        self.args, self.data, self.judge, self.device, self.dtype = args, data, judge, device, dtype
        self.rng = np.random.default_rng(args.seed)
        self.name = dataset_name(args)
        images, people = len(data.faces), len(data.faces.people)
        self.report = Report(f"{self.name}: {images} images of {people} people")
        self.results, self.lines = {}, []

    def overview(self, judge_hash, precision):
        """What was measured, by whom; the first people."""
        data, counts = self.data, self.data.counts[self.data.counts > 0]
        unreadable = len(data.faces) - len(data.features)
        self.results["overview"] = {
            "dataset": self.name,
            "images": len(data.faces),
            "unreadable_images": unreadable,
            "people": len(data.faces.people),
            "images_per_person": f"{counts.min()} to {counts.max()}, mean {counts.mean():.2f}",
            "judge": f"{self.judge}, SHA-256 {judge_hash[:12]}",
            "precision": precision.name,
        }
        self.lines.append(
            f"{len(data.faces)} images of {len(data.faces.people)} people, {unreadable} unreadable; measured by "
            f"{self.judge} in {precision.name}"
        )
        if unreadable:
            names = [data.faces.name(index) for index in np.setdiff1d(np.arange(len(data.faces)), data.good)[:NAMED]]
            self.lines.append(f"unreadable: {', '.join(map(str, names))}{', ...' if unreadable > NAMED else ''}")
        self.report.table([[key.replace("_", " "), value] for key, value in self.results["overview"].items()])
        self.results["overview"] |= precision.in_report()
        if unreadable:
            self.report.note(self.lines[-1])
        shown = np.flatnonzero(data.counts)[: SHEET[0]]
        self.report.pictures([data.images_of(label, SHEET[1]) for label in shown], "the first people, a row each")

    def people_differ(self):
        """Inter-class: are they different people?"""
        present = np.flatnonzero(self.data.counts)
        centres = self.data.centres[present]
        best, place = metrics.nearest_earlier(centres, self.device, progress("people against people"))
        curve = metrics.separability(best)
        counts, used = metrics.histogram_of_pairs(centres, self.rng, self.args.sample, self.device)
        middle = (metrics.BINS[1:] + metrics.BINS[:-1]) / 2
        separate = curve[-1][1]
        self.results["people"] = result = {
            "separate": separate,
            "separate_share": separate / len(centres),
            "separability_curve": curve,
            "mean_similarity": float((counts * middle).sum() / counts.sum()) if counts.sum() else None,
            "largest_similarity": float(best.max()) if len(best) > 1 else None,
            "histogram_of_centres": used,
        }
        self.report.heading("Are they different people?")
        self.report.note(MEANING_OF_SIMILARITY.format(judge=self.judge))
        self.report.table(
            [
                [
                    f"people without an earlier one more similar than {metrics.SEPARATE}",
                    f"{separate} of {len(best)} ({percent(result['separate_share'])})",
                ],
                ["mean similarity of two people", result["mean_similarity"]],
                ["largest similarity of two people", result["largest_similarity"]],
            ]
        )
        self.lines.append(
            f"people whose images lie apart: {separate} of {len(best)} ({percent(result['separate_share'])}) have no "
            f"earlier person more similar than {metrics.SEPARATE}; mean similarity of two people "
            f"{shown(result['mean_similarity'])}"
        )
        self.lines.append("  " + MEANING_OF_SIMILARITY.format(judge=self.judge))
        self.report.chart(lambda axes: draw_lines(axes, curve, "people", "separate people"), "separability curve")
        self.report.chart(
            partial(draw_histogram, counts=counts, x="similarity of two people's centres"), "centres of all pairs"
        )
        if used < len(centres):
            self.report.note(f"Histogram: all pairs of {used} of the {len(centres)} people, at random.")
        pairs = [(i, place[i]) for i in np.argsort(-best)[: min(WORST, len(best) - 1)]]
        self.report.note("The most similar people, a pair a row: " + similarities(best[i] for i, _ in pairs))
        self.report.pictures(
            [self.data.images_of(present[a], 5) + self.data.images_of(present[b], 5) for a, b in pairs], "pairs"
        )

    def people_differ_as_in(self, references):
        """The same of as many people of each reference set, without which the figure says little; and a verdict."""
        rows, self.results["people"]["compared_with"] = [], []
        for reference in references:
            ours, theirs = (data.centres[data.counts > 0] for data in (self.data, reference))
            count = min(len(ours), len(theirs), self.args.sample)
            separate = [metrics.separate_among(c, count, self.rng, self.device) for c in (ours, theirs)]
            chance = metrics.chance_of_difference(*separate, count)
            self.results["people"]["compared_with"].append(
                {
                    "reference": str(reference.faces.path), "people": count, "separate": separate[0],
                    "separate_in_reference": separate[1], "p_value": chance,
                }
            )  # fmt: skip
            name = reference.faces.path.name
            told = [f"{number} ({percent(number / count)})" for number in separate]
            verdict = verdict_on(separate, count, chance, name)
            rows.append([name, count, *told, verdict])
            self.lines.append(f"  of {count} people at random: {told[0]}; of as many people of {name}: {told[1]}")
            self.lines.append(f"verdict: {verdict}")
        if rows:
            self.report.table(rows, ["reference", "people of each", "separate", "separate in the reference", "verdict"])
        else:
            self.report.note(NO_REFERENCE)
            self.lines.append(f"verdict: {NO_REFERENCE}")

    def each_is_one_person(self):
        """Intra-class: is everybody one person?"""
        data = self.data
        own = metrics.own_similarities(data.features, data.labels, data.sums, data.counts)
        known = own[~np.isnan(own)]
        self.report.heading("Is each of them one person?")
        if not len(known):
            self.results["identity"] = None
            self.report.note("Nobody has two images.")
            return
        wrong, checked = metrics.closer_to_another(
            data.features, data.labels, data.centres, own, self.rng, self.args.sample, self.device
        )
        genuine, impostor = metrics.genuine_and_impostor(data.features, data.labels, self.rng, self.args.pairs)
        percentiles = dict(zip(("1%", "5%", "50%", "95%"), np.percentile(known, (1, 5, 50, 95)).tolist(), strict=True))
        error_rate = metrics.error_rate(genuine, impostor)
        self.results["identity"] = {
            "similarity_to_own_centre": {"mean": float(known.mean())} | percentiles,
            "closer_to_another_person": wrong,
            "images_checked_for_that": checked,
            "equal_error_rate": error_rate,
            "genuine_mean": float(genuine.mean()),
            "impostor_mean": float(impostor.mean()) if len(impostor) else None,
        }
        self.report.table(
            [[f"similarity to the own centre, {k}", v] for k, v in {"mean": float(known.mean()), **percentiles}.items()]
            + [
                [f"closer to another person's centre (of {checked} images)", percent(wrong)],
                ["equal error rate of random pairs", percent(error_rate)],
            ]
        )
        self.lines.append(
            f"similarity to the own centre {known.mean():.3f}; {percent(wrong)} closer to another person; equal error "
            f"rate {percent(error_rate)}"
        )
        self.report.note("The own centre is that of the person's other images.")

        def draw(axes):
            for name, values in (("one person", genuine), ("two people", impostor)):
                if not len(values):
                    continue
                axes.hist(values, metrics.BINS, density=True, histtype="stepfilled", alpha=0.6, label=name)
            axes.set(xlabel="similarity of two images")
            axes.legend()

        self.report.chart(draw, "genuine and impostor pairs")
        hardest = np.argsort(np.where(np.isnan(own), np.inf, own))[:WORST]
        self.report.note(
            "Least like their own person, beside other images of that person: " + similarities(own[hardest])
        )
        others = [np.setdiff1d(np.flatnonzero(data.labels == data.labels[i]), [i])[:5] for i in hardest]
        self.report.pictures(
            [list(data.images([i, *rest])) for i, rest in zip(hardest, others, strict=True)], "hardest"
        )

    def leaks(self, reference):
        """Leakage: does an image show a person of the reference set?"""
        result, worst = metrics.leakage(
            self.data.features, reference.centres, self.rng, max(self.args.sample, self.args.pairs), WORST,
            self.device, progress("leakage"),
        )  # fmt: skip
        self.results.setdefault("leakage", []).append({"reference": str(reference.faces.path)} | result)
        self.report.heading(f"Does it resemble people of {reference.faces.path.name}?")
        above = [
            [f"images more similar than {t} to one of them", percent(share)] for t, share in result["above"].items()
        ]
        self.report.table([["largest similarity", result["largest"]], *above])
        self.lines.append(
            f"closest to {reference.faces.path}: {result['largest']:.3f}; above 0.4: {percent(result['above']['0.4'])}"
        )
        self.report.note(f"{result['images']} images against {result['reference_centres']} centres. The worst, beside "
                         "whom they resemble: " + similarities(s for *_, s in worst))  # fmt: skip
        rows = [[self.data.images([image])[0], *reference.images_of(person, 3)] for image, person, _ in worst]
        self.report.pictures(rows, "worst pairs")

    def varies(self):
        """Variety: pose, quality, and how much the images of one person differ."""
        self.report.heading("Does it vary?")
        chosen = self._sample(self.data, self.args.sample)
        labels, values = self.data.labels[chosen], {}
        if self.args.quality_weights:
            quality = load_face_encoder(self.args.quality_weights, self.device, self.dtype)
            values["quality"] = self._run(quality, self.data, chosen, "quality").norm(dim=1).numpy()
        if self.args.pose_weights:
            pose = load_pose_estimator(self.args.pose_weights, self.device, self.dtype)
            angles = self._run(pose, self.data, chosen, "pose")
            values |= {"pitch": angles[:, 0].numpy(), "yaw": angles[:, 1].numpy()}
        variety = {"images": len(chosen)}
        for name, numbers in values.items():
            low, middle, high = np.percentile(numbers, (5, 50, 95)).tolist()
            spread = metrics.spread_within(numbers, labels)
            variety[name] = {"5%": low, "50%": middle, "95%": high, "spread_within_a_person": spread}
            counts, edges = np.histogram(numbers, 50)
            self.report.chart(partial(draw_histogram, counts=counts, edges=edges, x=name), name)
        variety["between_images_of_a_person"] = within = self._difference_within()
        self.results["variety"] = variety
        rows = [[name, *(v.values() if isinstance(v, dict) else [v])] for name, v in variety.items() if name in values]
        if rows:
            self.report.table(rows, ["", "5 %", "50 %", "95 %", "spread within a person"])
        if within:
            self.report.table([[within["measure"], within["mean"]]])
        self.report.note(f"Histograms of {len(chosen)} images.")

    @torch.inference_mode()
    def _difference_within(self):
        """Mean difference of two images of a person, over at most 100 random people (UIFace)."""
        people = self.rng.permutation(np.flatnonzero(self.data.counts > 1))[:PEOPLE_FOR_LPIPS]
        if not len(people):
            return None
        perceptual = load_lpips(self.args.lpips_weights).to(self.device) if self.args.lpips_weights else None
        means = []
        for label in progress("difference within a person")(people):
            places = np.flatnonzero(self.data.labels == label)[:IMAGES_FOR_LPIPS]
            a, b = np.triu_indices(len(places), 1)
            if perceptual is None:
                unit = metrics.normalised(self.data.features[places])
                means.append(float((1 - (unit[a] * unit[b]).sum(1)).mean()))
            else:
                images = to_images(torch.from_numpy(self.data.images(places)).to(self.device))  # (n, 3, 112, 112)
                means.append(float(perceptual(images[a], images[b]).mean()))
        name = "LPIPS (VGG16)" if perceptual else "1 - similarity of FR features (no LPIPS weights given)"
        return {"measure": name, "mean": float(np.mean(means)), "people": len(people)}

    def fidelity(self, reference, extractor=None):
        """Precision, recall and the Fréchet distance, or FID, against a reference set.

        ``extractor``: an Extractor, of which the features are taken; without one they are those of the judge.
        """
        sets, most = (self.data, reference), self.args.fidelity_images
        chosen = [self._sample(data, most) for data in sets]
        self.report.heading(f"Does it look like {reference.faces.path.name}?")
        if min(map(len, chosen)) <= self.args.neighbours:
            self.report.note(f"Too few images: precision and recall need more than {self.args.neighbours} of each.")
            return
        if extractor is None:
            name, is_fid = f"the FR model {self.judge}", False
            fake, real = (data.features[places] for data, places in zip(sets, chosen, strict=True))
        else:
            network, name, is_fid = extractor
            fake, real = (
                self._run(network, data, places, "features").numpy() for data, places in zip(sets, chosen, strict=True)
            )
        precision, recall = metrics.precision_and_recall(real, fake, self.args.neighbours)
        distance = metrics.frechet_distance(real, fake)
        title = "FID" if is_fid else f"Fréchet distance (features of {name})"
        self.results["fidelity"] = {
            "reference": str(reference.faces.path), "features": name, "images": [len(fake), len(real)],
            "neighbours": self.args.neighbours, "precision": precision, "recall": recall, "distance_name": title,
            ("fid" if is_fid else "frechet_distance"): distance,
        }  # fmt: skip
        self.report.table(
            [
                ["images of the dataset, of the reference", f"{len(fake)}, {len(real)}"],
                [f"precision (features of {name}, {self.args.neighbours} neighbours)", precision],
                [f"recall (features of {name}, {self.args.neighbours} neighbours)", recall],
                [title, f"{distance:.4g}"],
            ]
        )
        self.report.note(
            "FID falls with the number of images: compare it at equal numbers." if is_fid else
            "This distance is not the FID. It falls with the number of images: compare it at equal numbers and in "
            "the same features."
        )  # fmt: skip
        self.lines.append(
            f"{len(fake)} images against {len(real)} of {reference.faces.path.name}: precision {precision:.3f}, recall "
            f"{recall:.3f}, {title} {distance:.4g}"
        )

    def _sample(self, data, most):
        return np.sort(self.rng.permutation(len(data.features))[:most])

    def _run(self, model, data, places, what):
        return data.outputs(model, places, self.args.batch_size, what)


def dataset_name(args):
    """What to call the dataset in its report."""
    name = Path(args.data).resolve().name
    return f"{name} with mask {Path(args.mask).name}" if args.mask else name


MEANING_OF_SIMILARITY = (
    "A person here is the mean FR feature of the person's images, by {judge}. Identity vectors sampled below a "
    "similarity bound only those vectors, not the images made from them."
)
NO_REFERENCE = (
    "none without --reference: how many people pass as separate depends on the FR model and on how many there are, so "
    "it takes as many people on photos to compare with."
)


def verdict_on(separate, count, chance, name):
    """What the numbers show, and no more: how many of ``count`` people are separate, ours and the reference's."""
    if chance >= CHANCE:
        return f"{count} people show no difference from people of {name} (p = {chance:.2g})"
    word = "less" if separate[0] < separate[1] else "more"
    return f"they lie apart {word} often than people of {name} (p = {chance:.2g})"


def progress(what):
    return lambda work: tqdm(work, desc=what, leave=False, delay=2)


def similarities(values):
    return ", ".join(f"{value:.3f}" for value in values)


def draw_lines(axes, points, x, y):
    axes.plot(*zip(*points, strict=True), marker=".")
    axes.plot([0, points[-1][0]], [0, points[-1][0]], color="grey", linestyle=":")
    axes.set(xlabel=x, ylabel=y)


def draw_histogram(axes, counts, x, edges=metrics.BINS):
    axes.stairs(counts, edges, fill=True)
    axes.set(xlabel=x)
