"""Face verification: whether two photos show the same identity (protocol of LFW; Huang et al., 2007)."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from sklearn.metrics import roc_curve
from sklearn.model_selection import KFold
from torch import nn

FOLDS = 10
FALSE_ACCEPT_RATES = (1e-4, 1e-3, 1e-2, 1e-1)


@torch.inference_mode()
def features_of(
    encoder: nn.Module,
    images: Sequence[np.ndarray],
    batch_size: int = 64,
    flip: bool = True,
    show: Callable[[Iterable], Iterable] | None = None,
) -> np.ndarray:
    """Features (N, D) float32 of images, a sequence of (112, 112, 3) uint8.

    ``flip``: add the features of the mirror images; ``show``: wraps the batches in a progress bar, as tqdm does.
    """
    device, features = next(encoder.parameters()).device, []
    starts = range(0, len(images), batch_size)
    for start in show(starts) if show else starts:
        batch = np.stack([images[i] for i in range(start, min(start + batch_size, len(images)))])
        batch = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2)  # (B, 112, 112, 3) -> (B, 3, 112, 112)
        batch = (batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        feature = encoder(batch).float()  # (B, D)
        if flip:
            feature = feature + encoder(batch.flip(3)).float()
        features.append(feature.cpu().numpy())
    return np.concatenate(features)


def norm_percentiles(encoder: nn.Module, images: Sequence[np.ndarray]) -> dict[str, float]:
    """{"5%", "50%", "75%", "95%"} of the feature norms of images, a sequence of (112, 112, 3) uint8."""
    norms = np.linalg.norm(features_of(encoder, images, flip=False), axis=1)
    return {f"{rank}%": float(np.percentile(norms, rank)) for rank in (5, 50, 75, 95)}


def pair_similarities(features: np.ndarray) -> np.ndarray:
    """Cosine similarity (P,) of each pair of consecutive rows of features (2P, D)."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)  # (2P, D)
    return (unit[0::2] * unit[1::2]).sum(1)


def best_threshold(similarities: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """(the threshold of the highest accuracy, that accuracy); pairs at or above the threshold count as the same.

    ``similarities`` (P,), ``same`` (P,) bool.
    """
    order = np.argsort(similarities, kind="stable")
    sorted_same = same[order]
    # correct[k]: with the threshold before pair k, the different pairs below it and the same ones from it on.
    different_below, same_below = (np.concatenate([[0], np.cumsum(kind)]) for kind in (~sorted_same, sorted_same))
    correct = different_below + same.sum() - same_below  # (P + 1,)
    values = similarities[order]
    thresholds = np.concatenate([[values[0] - 1e-6], (values[1:] + values[:-1]) / 2, [values[-1] + 1e-6]])
    allowed = np.concatenate([[True], values[1:] > values[:-1], [True]])  # not between equal values
    best = np.flatnonzero(allowed)[correct[allowed].argmax()]
    return float(thresholds[best]), float(correct[best] / len(same))


def verify(similarities: np.ndarray, same: np.ndarray) -> dict:
    """The 10-fold protocol: accuracy on each fold with the threshold chosen on the others, and TPR at given FPRs.

    ``similarities`` (P,), ``same`` (P,) bool. Returns {accuracy, std, threshold, tpr: {fpr: tpr}}, with None for a rate
    that the number of pairs cannot resolve.
    """
    accuracies, thresholds = [], []
    for train, test in KFold(min(FOLDS, len(same))).split(similarities):
        threshold, _ = best_threshold(similarities[train], same[train])
        accuracies.append(float(((similarities[test] >= threshold) == same[test]).mean()))
        thresholds.append(threshold)
    fpr, tpr, _ = roc_curve(same, similarities, drop_intermediate=False)
    rates = {
        f"{rate:g}": float(tpr[fpr <= rate].max()) if rate * (~same).sum() >= 1 else None for rate in FALSE_ACCEPT_RATES
    }
    return {
        "accuracy": float(np.mean(accuracies)),
        "std": float(np.std(accuracies)),
        "threshold": float(np.mean(thresholds)),
        "tpr": rates,
    }


def equal_error_rate(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """The rate at which false rejects equal false accepts, from the similarities of genuine and impostor pairs."""
    scores = np.concatenate([genuine, impostor])
    same = np.concatenate([np.ones(len(genuine), bool), np.zeros(len(impostor), bool)])
    fpr, tpr, _ = roc_curve(same, scores, drop_intermediate=False)
    nearest = np.argmin(np.abs(fpr - (1 - tpr)))
    return float((fpr[nearest] + 1 - tpr[nearest]) / 2)
