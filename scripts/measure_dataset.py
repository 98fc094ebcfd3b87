"""Measure a dataset of people: are they different, is each one person, does it vary, does it leak? One report.

    python scripts/measure_dataset.py generated_images/test --id_weights weights/arcface-r100-glint360k.pth
    python scripts/measure_dataset.py generated_images/demo --id_weights weights/demo/face_encoder.pth \\
        --quality_weights weights/demo/face_encoder.pth --reference tests/photos --output measured

The dataset is a folder of person/photo or an LMDB; --reference, datasets of (real) people it must not resemble. Writes
OUTPUT/report.html, for a browser, and OUTPUT/report.json. Features are kept there: killed, it goes on where it was.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from models.iresnet import load_face_encoder
from models.perceptual import load_lpips
from models.sixdrepnet import load_pose_estimator
from utils import dataset_metrics as metrics
from utils.checkpoint import sha256
from utils.cli import command, make_parser, not_negative, positive, writing
from utils.demo_weights import use_demo_weights
from utils.device import PRECISIONS, keep_freed_memory, resolve_device, resolve_precision
from utils.errors import UserError
from utils.face_set import FaceSet
from utils.feature_cache import FeatureCache
from utils.image_features import EXTRACTORS, load_extractor
from utils.model_flags import add_device_flags
from utils.report import Report

SHEET = (8, 10)  # people, images each
WORST = 8  # pairs shown
PEOPLE_FOR_LPIPS, IMAGES_FOR_LPIPS = 100, 10


def measure_parser():
    parser = make_parser(__doc__)
    parser.add_argument("data", help="folder of person/photo, or LMDB")
    parser.add_argument("--mask", help=".npy of positions to use (default: all)")
    parser.add_argument("--reference", nargs="*", default=[], help="datasets of people that must not be in it")
    models = parser.add_argument_group("models")
    models.add_argument("--id_weights", default="weights/arcface-r100-glint360k.pth", help="face encoder that judges")
    models.add_argument("--quality_weights", help="quality model: adds a histogram of quality")
    models.add_argument("--pose_weights", help="head pose model: adds histograms of yaw and pitch")
    models.add_argument("--lpips_weights", help="torchvision's VGG16: adds LPIPS between images of a person")
    models.add_argument("--extractor", choices=EXTRACTORS, default="fr", help="features for precision, recall and FID")
    models.add_argument("--extractor_weights", help="torchvision's weight file of --extractor vgg16 or inception")
    work = parser.add_argument_group("work")
    work.add_argument("--batch_size", type=positive, default=64, help="images at a time")
    work.add_argument("--sample", type=positive, default=20_000, help="images or centres for what is sampled")
    work.add_argument("--pairs", type=positive, default=100_000, help="pairs for genuine and impostor curves")
    work.add_argument("--seed", type=not_negative, default=0, help="of the samples")
    work.add_argument("--output", default="measured", help="folder to write")
    work.add_argument("--reference_features", help="folder to keep the references' features in (default: OUTPUT)")
    add_device_flags(parser)
    return parser


@command
def main(argv=None):
    args = measure_parser().parse_args(argv)
    use_demo_weights(args)
    if args.extractor != "fr" and not args.extractor_weights:
        raise UserError(f"--extractor {args.extractor} needs --extractor_weights, torchvision's file.")
    device = resolve_device(args.device)
    keep_freed_memory()
    dtype = PRECISIONS[resolve_precision(args.precision, device)]
    faces, references = FaceSet(args.data, args.mask), [FaceSet(path) for path in args.reference]
    encoder = load_face_encoder(args.id_weights, device, dtype)
    with writing(Path(args.output) / "report.html") as page:
        measure = Measurement(args, device, dtype, faces, encoder)
        measure.overview()
        measure.people_differ()
        measure.each_is_one_person()
        for number, reference in enumerate(references):
            measure.leaks(reference, number)
        measure.varies()
        if references:
            measure.fidelity(references[0])
        (page.parent / "report.json").write_text(json.dumps(measure.results, indent=2) + "\n")
        page.write_text(measure.report.html())
    print(measure.summary())
    print(f"report: {page}, {page.with_suffix('.json')}")


class Measurement:
    """The parts of the report, each of which adds to ``results`` (plain values) and to ``report``."""

    def __init__(self, args, device, dtype, faces, encoder):
        self.args, self.device, self.dtype, self.faces, self.encoder = args, device, dtype, faces, encoder
        self.rng = np.random.default_rng(args.seed)
        self.features, self.good = self._features_of(faces, Path(args.output) / "features")
        self.labels = faces.labels[self.good]
        self.counts = np.bincount(self.labels, minlength=len(faces.people))
        self.sums = metrics.sums_of(self.features, self.labels, len(faces.people))
        self.centres = metrics.normalised(self.sums)
        self.report, self.results = Report(f"Dataset {Path(args.data).name}"), {}

    def _features_of(self, faces, path):
        """Features (N, D) of the readable images, kept at ``path``, and which images these are (N,)."""
        cache = FeatureCache(path, faces, self.encoder, sha256(self.args.id_weights))
        cache.fill(self.args.batch_size)
        if not len(cache.good):
            raise UserError(f"{faces.path}: not one image could be read.")
        return cache.features, cache.good

    def _reference_features(self, reference, number):
        """The same of a reference set, kept where several datasets can share them."""
        folder = Path(self.args.reference_features or self.args.output)
        return self._features_of(reference, folder / f"reference{number}")

    def _images(self, places):
        """(n, 112, 112, 3) uint8 of readable images by their place among these."""
        return np.stack([self.faces.image(int(self.good[place])) for place in places])

    def _sample(self, most):
        return np.sort(self.rng.permutation(len(self.features))[:most])

    def overview(self):
        present = self.counts[self.counts > 0]
        self.results["overview"] = {
            "images": len(self.faces),
            "unreadable_images": len(self.faces) - len(self.features),
            "people": len(self.faces.people),
            "images_per_person": f"{present.min()} to {present.max()}, mean {present.mean():.4g}",
            "judge": f"{Path(self.args.id_weights).name}, SHA-256 {sha256(self.args.id_weights)[:12]}",
        }
        self.report.table([[key.replace("_", " "), value] for key, value in self.results["overview"].items()])
        rows = [np.flatnonzero(self.labels == label)[: SHEET[1]] for label in np.flatnonzero(self.counts)[: SHEET[0]]]
        self.report.pictures([list(self._images(row)) for row in rows], "the first people, a row each")

    def people_differ(self):
        """Inter-class: are they different people?"""
        present = np.flatnonzero(self.counts)
        centres = self.centres[present]
        best, place = metrics.nearest_earlier(centres, self.device, progress("people against people"))
        curve = metrics.separability(best)
        counts, used = metrics.histogram_of_pairs(centres, self.rng, self.args.sample, self.device)
        middle = (metrics.BINS[1:] + metrics.BINS[:-1]) / 2
        self.results["people"] = {
            "separate": curve[-1][1],
            "separate_share": curve[-1][1] / len(centres),
            "separability_curve": curve,
            "mean_similarity": float((counts * middle).sum() / max(counts.sum(), 1)),
            "largest_similarity": float(best.max()) if len(best) > 1 else None,
            "histogram_of_centres": used,
        }
        self.report.heading("Are they different people?")
        self.report.table(
            [
                [
                    f"people without an earlier one more similar than {metrics.SEPARATE}",
                    f"{curve[-1][1]} of {len(best)}",
                ],
                ["mean similarity of two people", self.results["people"]["mean_similarity"]],
                ["largest similarity of two people", self.results["people"]["largest_similarity"]],
            ]
        )
        self.report.chart(lambda axes: draw_lines(axes, curve, "people", "separate people"), "separability curve")
        self.report.chart(
            partial(draw_histogram, counts=counts, x="similarity of two people's centres"), "centres of all pairs"
        )
        if used < len(centres):
            self.report.note(f"Histogram: all pairs of {used} of the {len(centres)} people, at random.")
        pairs = [(i, place[i]) for i in np.argsort(-best)[: min(WORST, len(best) - 1)]]
        self.report.note("The most similar people, a pair a row: " + similarities(best[i] for i, _ in pairs))
        self.report.pictures([self._faces_of(present[a], 5) + self._faces_of(present[b], 5) for a, b in pairs], "pairs")

    def _faces_of(self, label, most):
        return list(self._images(np.flatnonzero(self.labels == label)[:most]))

    def each_is_one_person(self):
        """Intra-class: is everybody one person?"""
        own = metrics.own_similarities(self.features, self.labels, self.sums, self.counts)
        known = own[~np.isnan(own)]
        self.report.heading("Is each of them one person?")
        if not len(known):
            self.results["identity"] = None
            self.report.note("Nobody has two images.")
            return
        wrong, checked = metrics.closer_to_another(
            self.features, self.labels, self.centres, own, self.rng, self.args.sample, self.device
        )
        genuine, impostor = metrics.genuine_and_impostor(self.features, self.labels, self.rng, self.args.pairs)
        percentiles = dict(zip(("1%", "5%", "50%", "95%"), np.percentile(known, (1, 5, 50, 95)).tolist(), strict=True))
        self.results["identity"] = {
            "similarity_to_own_centre": {"mean": float(known.mean())} | percentiles,
            "closer_to_another_person": wrong,
            "images_checked_for_that": checked,
            "equal_error_rate": metrics.error_rate(genuine, impostor),
            "genuine_mean": float(genuine.mean()),
            "impostor_mean": float(impostor.mean()) if len(impostor) else None,
        }
        self.report.table(
            [[f"similarity to the own centre, {k}", v] for k, v in {"mean": float(known.mean()), **percentiles}.items()]
            + [
                [f"closer to another person's centre (of {checked} images)", f"{wrong:.2%}"],
                ["equal error rate of random pairs", self.results["identity"]["equal_error_rate"]],
            ]
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
        others = [np.setdiff1d(np.flatnonzero(self.labels == self.labels[i]), [i])[:5] for i in hardest]
        self.report.pictures(
            [list(self._images([i, *rest])) for i, rest in zip(hardest, others, strict=True)], "hardest"
        )

    def leaks(self, reference, number):
        """Leakage: does an image show a person of the reference set?"""
        features, good = self._reference_features(reference, number)
        sums = metrics.sums_of(features, reference.labels[good], len(reference.people))
        result, worst = metrics.leakage(
            self.features, metrics.normalised(sums), self.rng, max(self.args.sample, self.args.pairs), WORST,
            self.device, progress("leakage"),
        )  # fmt: skip
        self.results.setdefault("leakage", []).append({"reference": str(reference.path)} | result)
        self.report.heading(f"Does it resemble people of {reference.path.name}?")
        above = [
            [f"images more similar than {t} to one of them", f"{share:.2%}"] for t, share in result["above"].items()
        ]
        self.report.table([["largest similarity", result["largest"]], *above])
        self.report.note(f"{result['images']} images against {result['reference_centres']} centres. The worst, beside "
                         "whom they resemble: " + similarities(s for *_, s in worst))  # fmt: skip
        rows = []
        for image, person, _ in worst:
            theirs = np.flatnonzero(reference.labels[good] == person)[:3]
            rows.append([self._images([image])[0], *(reference.image(int(good[i])) for i in theirs)])
        self.report.pictures(rows, "worst pairs")

    def varies(self):
        """Variety: pose, quality, and how much the images of one person differ."""
        self.report.heading("Does it vary?")
        chosen = self._sample(self.args.sample)
        labels, values = self.labels[chosen], {}
        if self.args.quality_weights:
            quality = load_face_encoder(self.args.quality_weights, self.device, self.dtype)
            values["quality"] = self._run(quality, chosen, "quality").norm(dim=1).numpy()
        if self.args.pose_weights:
            angles = self._run(load_pose_estimator(self.args.pose_weights, self.device, self.dtype), chosen, "pose")
            values |= {"pitch": angles[:, 0].numpy(), "yaw": angles[:, 1].numpy()}
        variety = {"images": len(chosen)}
        for name, numbers in values.items():
            low, middle, high = np.percentile(numbers, (5, 50, 95)).tolist()
            spread = metrics.spread_within(numbers, labels)
            variety[name] = {"5%": low, "50%": middle, "95%": high, "spread_within_a_person": spread}
            counts, edges = np.histogram(numbers, 50)
            self.report.chart(partial(draw_histogram, counts=counts, edges=edges, x=name), name)
        variety["between_images_of_a_person"] = self._difference_within()
        self.results["variety"] = variety
        rows = [[name, *(v.values() if isinstance(v, dict) else [v])] for name, v in variety.items() if name in values]
        if rows:
            self.report.table(rows, ["", "5 %", "50 %", "95 %", "spread within a person"])
        within = variety["between_images_of_a_person"]
        if within:
            self.report.table([[within["measure"], within["mean"]]])
        self.report.note(f"Histograms of {len(chosen)} images.")

    @torch.inference_mode()
    def _run(self, model, places, what):
        parts = []
        for start in progress(what)(range(0, len(places), self.args.batch_size)):
            images = torch.from_numpy(self._images(places[start : start + self.args.batch_size])).to(self.device)
            parts.append(model(images.permute(0, 3, 1, 2).float() / 127.5 - 1).float().cpu())  # (B, 3, 112, 112)
        return torch.cat(parts)

    @torch.inference_mode()
    def _difference_within(self):
        """Mean difference of two images of a person, over at most 100 random people (UIFace)."""
        people = self.rng.permutation(np.flatnonzero(self.counts > 1))[:PEOPLE_FOR_LPIPS]
        if not len(people):
            return None
        perceptual = load_lpips(self.args.lpips_weights).to(self.device) if self.args.lpips_weights else None
        means = []
        for label in progress("difference within a person")(people):
            places = np.flatnonzero(self.labels == label)[:IMAGES_FOR_LPIPS]
            a, b = np.triu_indices(len(places), 1)
            if perceptual is None:
                unit = metrics.normalised(self.features[places].astype(np.float32))
                means.append(float((1 - (unit[a] * unit[b]).sum(1)).mean()))
            else:
                images = torch.from_numpy(self._images(places)).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
                means.append(float(perceptual(images[a], images[b]).mean()))
        name = "LPIPS (VGG16)" if perceptual else "1 - similarity of FR features (no LPIPS weights given)"
        return {"measure": name, "mean": float(np.mean(means)), "people": len(people)}

    def fidelity(self, reference):
        """Precision, recall and FID against the first reference set."""
        most = min(self.args.sample, 5000)
        name = self.args.extractor
        if name == "fr":
            theirs, _ = self._reference_features(reference, 0)
            fake, real = self.features[self._sample(most)], theirs[np.sort(self.rng.permutation(len(theirs))[:most])]
        else:
            extractor = load_extractor(name, self.args.extractor_weights, self.device)
            fake = self._run(extractor, self._sample(most), "features").numpy()
            ours, self.faces, good, self.good = self.faces, reference, self.good, np.arange(len(reference))
            real = self._run(extractor, self._sample_of(len(reference), most), "features").numpy()
            self.faces, self.good = ours, good
        self.report.heading("Does it look like the reference?")
        if min(len(fake), len(real)) <= metrics.NEIGHBOURS:
            self.report.note(f"Too few images: precision and recall need more than {metrics.NEIGHBOURS} of each.")
            return
        precision, recall = metrics.precision_and_recall(real, fake)
        comparable = "" if name != "fr" else "; FR features: compare within this project only, not with papers"
        self.results["fidelity"] = {
            "features": name + comparable, "images": [len(fake), len(real)], "precision": precision, "recall": recall,
            "frechet_distance": metrics.frechet_distance(real, fake),
        }  # fmt: skip
        self.report.table([[key.replace("_", " "), value] for key, value in self.results["fidelity"].items()])

    def _sample_of(self, count, most):
        return np.sort(self.rng.permutation(count)[:most])

    def summary(self):
        overview, people, identity = (self.results[name] for name in ("overview", "people", "identity"))
        lines = [
            f"{overview['images']} images of {overview['people']} people, {overview['unreadable_images']} unreadable",
            f"people without an earlier one above {metrics.SEPARATE}: {people['separate']} "
            f"({people['separate_share']:.1%}); mean similarity of two people {people['mean_similarity']:.3f}",
        ]
        if identity:
            mean = identity["similarity_to_own_centre"]["mean"]
            lines.append(
                f"similarity to the own centre {mean:.3f}; {identity['closer_to_another_person']:.2%} closer to "
                f"another person; equal error rate {identity['equal_error_rate'] or 0:.2%}"
            )
        for leak in self.results.get("leakage", []):
            lines.append(
                f"closest to {leak['reference']}: {leak['largest']:.3f}; above 0.4: {leak['above']['0.4']:.2%}"
            )
        return "\n".join(lines)


def progress(what):
    return lambda work: tqdm(work, desc=what, leave=False, delay=2)


def similarities(values):
    return ", ".join(f"{value:.2f}" for value in values)


def draw_lines(axes, points, x, y):
    axes.plot(*zip(*points, strict=True), marker=".")
    axes.plot([0, points[-1][0]], [0, points[-1][0]], color="grey", linestyle=":")
    axes.set(xlabel=x, ylabel=y)


def draw_histogram(axes, counts, x, edges=metrics.BINS):
    axes.stairs(counts, edges, fill=True)
    axes.set(xlabel=x)


if __name__ == "__main__":
    main()
