"""Face verification: how well features tell same from different (LFW protocol; Huang et al., 2007)."""

import numpy as np
import torch
from sklearn.metrics import roc_curve
from sklearn.model_selection import KFold

FOLDS = 10
FALSE_ACCEPT_RATES = (1e-4, 1e-3, 1e-2, 1e-1)


@torch.inference_mode()
def features_of(encoder, images, batch_size=64, flip=True, show=None):
    """Features (N, D) float32 of images, a sequence of (112, 112, 3) uint8; ``flip``: plus those of the mirror images.

    ``show``: wraps the batches' starts, as tqdm does.
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


def norm_percentiles(encoder, images):
    """{"5%", "50%", "75%", "95%"} of the feature norms of images, a sequence of (112, 112, 3) uint8."""
    norms = np.linalg.norm(features_of(encoder, images, flip=False), axis=1)
    return {f"{share}%": float(np.percentile(norms, share)) for share in (5, 50, 75, 95)}


def pair_similarities(features):
    """(2P, D) -> cosine of each pair, (P,)."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)  # (2P, D)
    return (unit[0::2] * unit[1::2]).sum(1)


def best_threshold(similarities, same):
    """The threshold that puts most pairs right: similar enough from it on; (threshold, accuracy)."""
    order = np.argsort(similarities, kind="stable")
    sorted_same = same[order]
    # With the threshold before place k: below it the different ones are right, from it on the same ones.
    right = np.concatenate([[0], np.cumsum(~sorted_same)]) + same.sum() - np.concatenate([[0], np.cumsum(sorted_same)])
    values = similarities[order]
    ends = np.concatenate([[values[0] - 1e-6], (values[1:] + values[:-1]) / 2, [values[-1] + 1e-6]])
    allowed = np.concatenate([[True], values[1:] > values[:-1], [True]])  # not between equal values
    place = np.flatnonzero(allowed)[right[allowed].argmax()]
    return float(ends[place]), float(right[place] / len(same))


def verify(similarities, same):
    """The 10-fold protocol: accuracy on each fold with the threshold chosen on the others, and TPR at given FPRs.

    ``similarities`` (P,), ``same`` (P,) bool. Returns {accuracy, std, threshold, tpr: {fpr: tpr}}; a rate that
    the number of pairs cannot resolve is None.
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


def equal_error_rate(genuine, impostor):
    """Where as many genuine pairs are refused as impostor pairs are let in; similarities of each, any number."""
    scores = np.concatenate([genuine, impostor])
    same = np.concatenate([np.ones(len(genuine), bool), np.zeros(len(impostor), bool)])
    fpr, tpr, _ = roc_curve(same, scores, drop_intermediate=False)
    place = np.argmin(np.abs(fpr - (1 - tpr)))
    return float((fpr[place] + 1 - tpr[place]) / 2)
