"""IJB-B and IJB-C: templates of several photos and video frames, verified (1:1) and identified (1:N).

Files as InsightFace distributes them, ROOT/loose_crop/*.jpg and in ROOT/meta (of IJB-C: ijbc_...):

    ijbb_name_5pts_score.txt        photo, x and y of five landmarks, score of the face detector
    ijbb_face_tid_mid.txt           photo, template, medium (a photo, or the video that a frame is of)
    ijbb_template_pair_label.txt    template, template, 1 for one person and 0 for two
    ijbb_1N_gallery_S1.csv, ijbb_1N_gallery_S2.csv (of IJB-C: G1, G2), ijbb_1N_probe_mixed.csv    TEMPLATE, SUBJECT, ...
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_curve
from torch import nn

from models.errors import UserError
from utils.data.alignment import FaceAligner
from utils.data.images import read_image
from utils.evaluation.identification import identification_rates, match_ranks, rank_rates, unit_rows
from utils.evaluation.protocol_photos import lines_of, photo_features

FALSE_ACCEPT_RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FALSE_IDENTIFICATION_RATES = (0.01, 0.1)
RANKS = (1, 5, 10)
BLOCK = 100_000  # pairs


class Templates(NamedTuple):
    """What the lists say of N photos."""

    prefix: str  # ijbb or ijbc
    photos: list[tuple[Path, np.ndarray]]  # file and landmarks (5, 2)
    scores: np.ndarray  # (N,) of the face detector
    templates: np.ndarray  # (N,) number of the template
    media: np.ndarray  # (N,) number of the medium
    pairs: np.ndarray  # (P, 3): template, template, 1 for one person and 0 for two


def evaluate_ijb(encoder: nn.Module, root: Path, batch_size: int = 64, workers: int | None = None) -> dict:
    """{tpr: {fpr: rate}, rank: {k: rate}, tpir: {fpir: rate}, ...}; the last two only where the 1:N lists are.

    As InsightFace evaluates: landmarks are warped to the template, the features of a photo and its mirror image are
    added and weighted by the detector's score. Raises UserError when files are missing or do not fit together.
    """
    data = read_templates(root)
    galleries = read_identification(root, data)  # before any work
    features = photo_features(encoder, data.photos, batch_size, workers, data.prefix, read=LandmarkCrop())
    known, unit = template_features(features * data.scores[:, None], data.templates, data.media)
    similarities = similarities_of(unit, np.searchsorted(known, data.pairs[:, :2]))
    result = {
        "tpr": true_accept_rates(similarities, data.pairs[:, 2] == 1),
        "templates": len(known),
        "pairs": len(data.pairs),
    }
    if galleries:
        gallery, probes = (
            (unit[np.searchsorted(known, numbers)], subjects) for numbers, subjects in galleries
        )  # ((T, D), (T,)) each
        ranks, _ = match_ranks(*probes, *gallery)
        result["rank"] = rank_rates(ranks, len(gallery[0]), RANKS)
        result["tpir"] = identification_rates(*probes, *gallery, FALSE_IDENTIFICATION_RATES)
    return result


class LandmarkCrop:
    """Reads (file, landmarks) as an aligned crop."""

    def __call__(self, item: tuple[Path, np.ndarray]) -> np.ndarray:
        """(112, 112, 3) uint8. Raises ValueError or OSError."""
        path, landmarks = item
        return FaceAligner().warp(read_image(path), landmarks)


def template_features(features: np.ndarray, templates: np.ndarray, media: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(template numbers (T,) sorted, their features (T, D) of length 1).

    The photos (N, D) of a medium are averaged first, so that a long video has the weight of one photo.
    """
    order = np.lexsort((media, templates))
    features, templates, media = features[order], templates[order], media[order]
    new_template = np.concatenate([[True], templates[1:] != templates[:-1]])
    new_medium = new_template | np.concatenate([[True], media[1:] != media[:-1]])
    starts = np.flatnonzero(new_medium)  # (M,) first photo of each medium
    counts = np.diff([*starts, len(features)])
    means = np.add.reduceat(features, starts) / counts[:, None]  # (M, D)
    sums = np.add.reduceat(means, np.flatnonzero(new_template[starts]))  # (T, D)
    return templates[new_template], unit_rows(sums)


def similarities_of(unit: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Cosine similarity (P,) of pairs of rows (P, 2) of unit vectors (T, D)."""
    blocks = [pairs[start : start + BLOCK] for start in range(0, len(pairs), BLOCK)]
    return np.concatenate([(unit[block[:, 0]] * unit[block[:, 1]]).sum(1) for block in blocks])


def true_accept_rates(similarities: np.ndarray, same: np.ndarray) -> dict[str, float | None]:
    """{fpr: tpr} at the threshold whose false accept rate is nearest to the wanted one, as InsightFace has it.

    None for a rate at which less than one pair would be accepted.
    """
    fpr, tpr, _ = roc_curve(same, similarities)
    rates = {}
    for wanted in FALSE_ACCEPT_RATES:
        distance = np.abs(fpr - wanted)
        resolved = wanted * (~same).sum() >= 1
        rates[f"{wanted:g}"] = float(tpr[distance == distance.min()].max()) if resolved else None
    return rates


def read_templates(root: Path) -> Templates:
    """The lists of 1:1 verification. Raises UserError when they are missing, odd or do not fit together."""
    found = sorted((root / "meta").glob("*_face_tid_mid.txt"))
    if not found:
        raise UserError(f"{root}: no meta/ijbb_face_tid_mid.txt or meta/ijbc_face_tid_mid.txt in it.")
    prefix = found[0].name.removesuffix("_face_tid_mid.txt")
    listed = lines_of(found[0], "templates")
    path = root / "meta" / f"{prefix}_name_5pts_score.txt"
    described = lines_of(path, "landmarks")
    for name, lines, width in ((found[0], listed, 3), (path, described, 12)):
        wrong = next((number for number, words in enumerate(lines, 1) if len(words) != width), None)
        if wrong:
            raise UserError(f"{name}, line {wrong}: has {len(lines[wrong - 1])} columns, and {width} are needed.")
    if [words[0] for words in listed] != [words[0] for words in described]:
        raise UserError(f"{path}: names other photos than {found[0].name}, or in another order.")
    templates, media = numbers_of(found[0], [words[1:] for words in listed], np.int64).T
    values = numbers_of(path, [words[1:] for words in described], np.float32)  # (N, 11)
    landmarks = values[:, :10].reshape(-1, 5, 2)  # (N, 5, 2)
    photos = [(root / "loose_crop" / words[0], points) for words, points in zip(listed, landmarks, strict=True)]
    return Templates(prefix, photos, values[:, 10], templates, media, read_pairs(root, prefix, templates))


def read_pairs(root: Path, prefix: str, templates: np.ndarray) -> np.ndarray:
    """(P, 3) int64. Raises UserError when the list is odd, or a template in it has no photos."""
    path = root / "meta" / f"{prefix}_template_pair_label.txt"
    if not path.is_file():
        raise UserError(f"{path}: no such list of pairs.")
    try:  # not as lines: IJB-C has 15 million
        pairs = np.loadtxt(path, np.int64, ndmin=2)
    except ValueError as error:
        raise UserError(f"{path}: no list of pairs: {str(error).splitlines()[0]}") from error
    if pairs.shape[1:] != (3,) or not np.isin(pairs[:, 2], (0, 1)).all():
        raise UserError(f"{path}: a pair is two templates and 1 or 0, for one person or two.")
    if len(np.unique(pairs[:, 2])) < 2:
        raise UserError(f"{path}: needs pairs of one person and pairs of two.")
    check_templates(path, pairs[:, :2], templates)
    return pairs


def read_identification(root: Path, data: Templates) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """[(templates, subjects) of the gallery, (templates, subjects) of the probes], or None without the 1:N lists.

    The two galleries are one, as InsightFace has it. Raises UserError when a list is odd, or a template has no photos.
    """
    galleries = sorted((root / "meta").glob(f"{data.prefix}_1N_gallery_*.csv"))
    probes = root / "meta" / f"{data.prefix}_1N_probe_mixed.csv"
    if not galleries or not probes.is_file():
        return None
    return [read_subjects(paths, data) for paths in (galleries, [probes])]


def read_subjects(paths: list[Path], data: Templates) -> tuple[np.ndarray, np.ndarray]:
    """(templates (T,), subjects (T,)) of CSV files whose first columns these are, each template once."""
    rows = []
    for path in paths:
        words = [line.split(",")[:2] for line in path.read_text().splitlines()[1:] if line.strip()]
        own = numbers_of(path, words, np.int64)
        check_templates(path, own[:, 0], data.templates)
        rows.append(own)
    rows = np.unique(np.concatenate(rows), axis=0)  # (T, 2)
    if len(np.unique(rows[:, 0])) < len(rows):
        raise UserError(f"{paths[0]}: a template of two subjects.")
    return rows[:, 0], rows[:, 1]


def check_templates(path: Path, used: np.ndarray, templates: np.ndarray) -> None:
    """Raise UserError when a template in a list has no photos."""
    if len(missing := np.setdiff1d(used, templates)):
        raise UserError(f"{path}: template {missing[0]} has no photos (nor have {len(missing) - 1} others).")


def numbers_of(path: Path, lines: list[list[str]], dtype: type) -> np.ndarray:
    """The words of all lines as numbers, (lines, words). Raises UserError when there are others."""
    try:
        numbers = np.array(lines, dtype)
    except ValueError as error:
        raise UserError(f"{path}: a column that should be a number is not ({error}).") from error
    if numbers.ndim != 2 or not len(numbers):
        raise UserError(f"{path}: no rows of numbers in it.")
    return numbers
