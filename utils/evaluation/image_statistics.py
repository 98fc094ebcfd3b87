"""Measurements of a dataset's images: how much they vary, and how close their distribution is to a reference's."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from models.iresnet import load_face_encoder
from models.perceptual import load_lpips
from models.pixels import to_images
from models.sixdrepnet import load_pose_estimator
from utils.evaluation import metrics
from utils.evaluation.image_features import Extractor
from utils.evaluation.measured_set import MeasuredSet
from utils.evaluation.measurement import Measurement, draw_histogram, progress

LPIPS_IDENTITIES, LPIPS_IMAGES = 100, 10  # at most


def measure_variety(
    measurement: Measurement, quality_weights: Path | str | None, pose_weights: Path | str | None,
    lpips_weights: Path | str | None,
) -> None:  # fmt: skip
    """Quality and pose of the images, and how much the images of one identity differ; each only with its model."""
    data, report = measurement.data, measurement.report
    device, dtype, batch_size = measurement.device, measurement.precision.dtype, measurement.batch_size
    report.heading("Does it vary?")
    chosen = measurement.random_rows(data, measurement.sample)
    labels, values = data.labels[chosen], {}
    if quality_weights:
        quality = load_face_encoder(quality_weights, device, dtype)
        values["quality"] = data.outputs(quality, chosen, batch_size, "quality").norm(dim=1).numpy()
    if pose_weights:
        pose = load_pose_estimator(pose_weights, device, dtype)
        angles = data.outputs(pose, chosen, batch_size, "pose")
        values |= {"pitch": angles[:, 0].numpy(), "yaw": angles[:, 1].numpy()}
    variety = {"images": len(chosen)}
    for name, numbers in values.items():
        low, middle, high = np.percentile(numbers, (5, 50, 95)).tolist()
        within = metrics.within_identity_std(numbers, labels)
        variety[name] = {"5%": low, "50%": middle, "95%": high, "spread_within_a_person": within}
        counts, edges = np.histogram(numbers, 50)
        report.chart(partial(draw_histogram, counts=counts, edges=edges, x=name), name)
    variety["between_images_of_a_person"] = difference = difference_within_identities(measurement, lpips_weights)
    measurement.results["variety"] = variety
    rows = [[name, *variety[name].values()] for name in values]
    if rows:
        report.table(rows, ["", "5 %", "50 %", "95 %", "standard deviation within an identity"])
    if difference:
        report.table([[difference["measure"], difference["mean"]]])
    report.note(f"Histograms of {len(chosen)} images.")


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
