"""TinyFace: identification of native low-resolution faces among 157,871 (Cheng et al., 2018)."""

from pathlib import Path

import numpy as np
from scipy.io import loadmat
from torch import nn

from models.errors import UserError
from utils.data.images import list_images
from utils.evaluation.identification import match_ranks, rank_rates, unit_rows
from utils.evaluation.protocol_photos import photo_features

RANKS = (1, 5, 20)
DISTRACTOR = -1  # identity of the photos in Gallery_Distractor
LISTS = {"Probe": ("probe_img_ID_pairs.mat", "probe"), "Gallery_Match": ("gallery_match_img_ID_pairs.mat", "gallery")}


def evaluate_tinyface(
    encoder: nn.Module, root: Path, crops: Path | None = None, batch_size: int = 64, workers: int | None = None
) -> dict:
    """{rank: {k: rate}, probes, gallery}. ``root``: the published folder, with Testing_Set in it.

    ``crops``: folder with Probe, Gallery_Match and Gallery_Distractor of aligned crops, by default Testing_Set itself.
    Raises UserError when files are missing or do not fit together.
    """
    lists = root / "Testing_Set" if (root / "Testing_Set").is_dir() else root
    crops = crops or lists
    probes, probe_ids = read_list(lists, crops, "Probe")
    matches, match_ids = read_list(lists, crops, "Gallery_Match")
    if without := np.setdiff1d(probe_ids, match_ids).tolist():
        raise UserError(f"{lists}: identity {without[0]} has probes, and no photo in the gallery.")
    distractors = list_images(crops / "Gallery_Distractor")
    gallery_ids = np.concatenate([match_ids, np.full(len(distractors), DISTRACTOR)])  # (G,)
    features = photo_features(encoder, [*probes, *matches, *distractors], batch_size, workers, "TinyFace")
    unit = unit_rows(features)
    ranks, _ = match_ranks(unit[: len(probes)], probe_ids, unit[len(probes) :], gallery_ids)
    return {
        "rank": rank_rates(ranks, len(gallery_ids), RANKS),
        "probes": len(probes),
        "gallery": len(gallery_ids),
    }


def read_list(lists: Path, crops: Path, folder: str) -> tuple[list[Path], np.ndarray]:
    """(photos, their identities (N,)) of one of LISTS. Raises UserError when the file is missing or damaged."""
    file, name = LISTS[folder]
    path = lists / file
    if not path.is_file():
        raise UserError(f"{path}: no such list; give the folder of TinyFace, with Testing_Set in it.")
    try:
        content = loadmat(path, squeeze_me=True)
        names = [str(photo).strip() for photo in np.atleast_1d(content[f"{name}_set"])]
        identities = np.atleast_1d(content[f"{name}_ids"]).astype(np.int64)
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path}: no list of TinyFace, or damaged ({error}).") from error
    if len(names) != len(identities):
        raise UserError(f"{path}: {len(names)} photos and {len(identities)} identities; it is damaged.")
    return [crops / folder / photo for photo in names], identities
