"""Tables that compare FR models by their verification accuracy, or datasets by their reports, over several seeds."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from models.errors import UserError

Accuracies = dict[str, float]  # verification set -> accuracy, of one FR model
Report = dict  # the content of a report.json of scripts/measure_dataset.py

SHARES = {  # title of a column -> keys that lead to its value in a report, shown as a percentage
    "separate identities": ("people", "separate_share"),
    "misassigned images": ("identity", "closer_to_another_person"),
    "equal error rate": ("identity", "equal_error_rate"),
    "images above 0.5 to a reference identity": ("leakage", 0, "above", "0.5"),
}
COSINES = {
    "similarity of two identities": ("people", "mean_similarity"),
    "similarity to the class centroid": ("identity", "similarity_to_own_centre", "mean"),
    "similarity to the nearest reference identity": ("leakage", 0, "mean_of_largest"),
}
# Two distances are comparable only where these entries of the reports' fidelity are equal.
FIDELITY_SETTING = ("reference", "features", "neighbours", "images", "distance_name")


def read_results(path: Path | str) -> Accuracies | Report:
    """Read what ``evaluate_fr.py --output`` or ``measure_dataset.py`` wrote; ``is_report`` tells the two apart.

    Raises UserError when the file cannot be read or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text())
        if is_report(content):
            content["overview"]["judge"], content["people"]["separate_share"]
            return content
        accuracies = {name: float(result["accuracy"]) for name, result in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: not a report.json of measure_dataset.py, and not written by evaluate_fr.py --output ({error})."
        ) from error
    if not accuracies:
        raise UserError(f"{path}: holds no results.")
    return accuracies


def is_report(content: Accuracies | Report) -> bool:
    """Whether results are a report on a dataset; otherwise they are the accuracies of an FR model."""
    return "overview" in content


def accuracy_table(results: dict[str, list[Accuracies]], real: str | None = None) -> str:
    """Markdown with one line per training set: the accuracy on each verification set, and their average.

    ``results``: the accuracies of each seed by the name of the training set. ``real``: a name in ``results``, the
    training on real photos; it adds the gap (REAL - SYN) / SYN of the averages, as UIFace defines it. Raises UserError
    when the models were evaluated on different sets, or ``real`` is not among the names.
    """
    if real is not None and real not in results:
        raise UserError(f"--real {real}: no such name; there are {', '.join(results)}.")
    sets = list(next(iter(results.values()))[0])
    for name, runs in results.items():
        for run in runs:
            if list(run) != sets:
                raise UserError(f"{name}: was tested on {', '.join(run)}, another on {', '.join(sets)}.")
    averages = {name: [float(np.mean(list(run.values()))) for run in runs] for name, runs in results.items()}
    head = ["training data", *sets, "average"] + ([f"gap to {real}, (REAL - SYN) / SYN as in UIFace"] if real else [])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, runs in results.items():
        cells = [name, *(mean_and_std([run[column] for run in runs]) for column in sets), mean_and_std(averages[name])]
        if real:
            gap = np.mean(averages[real]) / np.mean(averages[name]) - 1
            cells.append("-" if name == real else f"{gap:.2%}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def dataset_table(reports: dict[str, list[Report]]) -> str:
    """Markdown with one line per dataset: whether its identities differ, are consistent, and resemble a reference.

    ``reports``: the reports of each seed by the name of the dataset. Raises UserError when they were measured by
    different FR models or in different precisions.
    """
    overviews = [report["overview"] for runs in reports.values() for report in runs]
    models = {f"{overview['judge']}, {overview.get('precision', 'unknown precision')}" for overview in overviews}
    if len(models) > 1:
        raise UserError(f"measured by different FR models ({'; '.join(sorted(models))}): use the same one for all.")
    columns = [(title, keys, "{:.2%}") for title, keys in SHARES.items()]
    columns += [(title, keys, "{:.3f}") for title, keys in COSINES.items()]
    columns += fidelity_columns([report for runs in reports.values() for report in runs])
    lines = ["| dataset | " + " | ".join(title for title, *_ in columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, runs in reports.items():
        cells = [cell([value_at(run, keys) for run in runs], form) for _, keys, form in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fidelity_columns(reports: list[Report]) -> list[tuple[str, tuple, str]]:
    """Columns (title, keys, format) of precision, recall and distance; none where they are not comparable."""
    settings = [[value_at(report, ("fidelity", key)) for key in FIDELITY_SETTING] for report in reports]
    title = settings[0][-1]
    if title is None or any(setting != settings[0] for setting in settings):
        return []
    distance = ("fidelity", "fid" if title == "FID" else "frechet_distance")
    return [*((name, ("fidelity", name), "{:.3f}") for name in ("precision", "recall")), (title, distance, "{:.4g}")]


def cell(values: list[float | None], form: str) -> str:
    """The values of one dataset as text; "-" where one of its reports lacks the value."""
    return "-" if None in values else mean_and_std(values, form)


def value_at(report: Report, keys: Iterable) -> float | None:
    """The value that a path of keys and positions leads to, or None."""
    for key in keys:
        try:
            report = report[key]
        except (KeyError, IndexError, TypeError):
            return None
    return report


def mean_and_std(values: list[float], form: str = "{:.2%}") -> str:
    """The mean as text, followed by the standard deviation where there are several values."""
    text = form.format(np.mean(values))
    return text if len(values) == 1 else f"{text} ± {form.format(np.std(values, ddof=1))}"
