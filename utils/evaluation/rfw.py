"""RFW: verification in four groups of people (Wang et al., 2019)."""

from pathlib import Path

import numpy as np
from torch import nn

from models.errors import UserError
from utils.evaluation.protocol_photos import lines_of, photo_features
from utils.evaluation.verification import pair_similarities, verify

GROUPS = ("African", "Asian", "Caucasian", "Indian")


def evaluate_rfw(encoder: nn.Module, root: Path, batch_size: int = 64, workers: int | None = None) -> dict:
    """{group: what ``verify`` returns, average, spread, error_ratio} of ROOT/txts/GROUP/GROUP_pairs.txt.

    ``spread``: standard deviation of the groups' accuracies; ``error_ratio``: the highest error over the lowest one.
    Photos are ROOT/data/GROUP/ID/ID_0001.jpg, aligned crops. Raises UserError when files are missing or damaged.
    """
    lists = {group: read_pairs(root, group) for group in GROUPS}  # all of them before any work
    results = {}
    for group, (photos, numbers, same) in lists.items():
        features = photo_features(encoder, photos, batch_size, workers, f"RFW {group}")
        results[group] = verify(pair_similarities(features[numbers]), same)
    accuracies = np.array([results[group]["accuracy"] for group in GROUPS])
    errors = 1 - accuracies
    return results | {
        "average": float(accuracies.mean()),
        "spread": float(accuracies.std()),
        "error_ratio": float(errors.max() / errors.min()) if errors.min() > 0 else None,
    }


def read_pairs(root: Path, group: str) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """(photos, number of each photo of each pair (2P,), same (P,) bool) of a group.

    A line is "ID n m", two photos of one person, or "ID n ID m". Raises UserError that names a line that is neither.
    """
    path = root / "txts" / group / f"{group}_pairs.txt"
    numbers, photos, same = [], {}, []
    for number, words in enumerate(lines_of(path, "the pairs of RFW"), 1):
        if len(words) == 3:
            words = [words[0], words[1], words[0], words[2]]
            same.append(True)
        elif len(words) == 4:
            same.append(False)
        else:
            raise UserError(f"{path}, line {number}: a pair is 'ID n m' or 'ID n ID m', not {' '.join(words)!r}.")
        for person, photo in (words[:2], words[2:]):
            if not photo.isdigit():
                raise UserError(f"{path}, line {number}: {photo!r} is no number of a photo.")
            file = root / "data" / group / person / f"{person}_{int(photo):04d}.jpg"
            numbers.append(photos.setdefault(file, len(photos)))
    if len(set(same)) < 2:
        raise UserError(f"{path}: needs pairs of one identity and pairs of two.")
    return list(photos), np.array(numbers), np.array(same)
