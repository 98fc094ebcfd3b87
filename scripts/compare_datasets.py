"""Compare datasets by what measure_dataset.py found: are the people different, is each one person, do they leak?

    python scripts/compare_datasets.py hsface10k=hsface10k.report/report.json \\
        mine=generated_images/mine.report/report.json

Several reports of one NAME are averaged (mean ± standard deviation). All must have been measured by the same judge in
the same precision; leakage is that into the first --reference. Precision, recall and the Fréchet distance (or FID) are
shown where all reports have them in the same features, with as many neighbours and images, to the same reference.
"""

import json
from pathlib import Path

from utils.cli.command import command

from models.errors import UserError
from scripts.compare_fr import grouped, show, spread
from utils.cli.flags import make_parser

SHARES = {  # column: where it is in a report.json
    "separate people": ("people", "separate_share"),
    "closer to another person": ("identity", "closer_to_another_person"),
    "equal error rate": ("identity", "equal_error_rate"),
    "images above .5 to a known person": ("leakage", 0, "above", "0.5"),
}
COSINES = {
    "similarity of two people": ("people", "mean_similarity"),
    "to the own centre": ("identity", "similarity_to_own_centre", "mean"),
    "to the nearest known person": ("leakage", 0, "mean_of_largest"),
}
SAME = ("reference", "features", "neighbours", "images", "distance_name")  # of a report's fidelity, to be comparable


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("reports", nargs="+", metavar="NAME=FILE", help="report.json of a dataset")
    parser.add_argument("--output", help="also write the table, .md")
    args = parser.parse_args(argv)
    show(table(grouped(args.reports, read)), args.output)


def read(path):
    """A report.json of measure_dataset.py as a dict. Raises UserError when it is none."""
    try:
        report = json.loads(Path(path).read_text())
        report["overview"]["judge"], report["people"]["separate_share"]
        return report
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a report.json of measure_dataset.py ({error}).") from error


def table(reports):
    """Markdown: a dataset a line. ``reports``: {name: [report of each seed]}. UserError when judges differ."""
    overviews = [report["overview"] for runs in reports.values() for report in runs]
    judges = {f"{overview['judge']}, {overview.get('precision', 'precision not said')}" for overview in overviews}
    if len(judges) > 1:
        raise UserError(f"measured by different judges ({'; '.join(sorted(judges))}): measure them with the same one.")
    columns = [(name, place, "{:.2%}") for name, place in SHARES.items()]
    columns += [(name, place, "{:.3f}") for name, place in COSINES.items()]
    columns += fidelity_columns([report for runs in reports.values() for report in runs])
    lines = ["| dataset | " + " | ".join(name for name, *_ in columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, runs in reports.items():
        cells = [cell(runs, place, form) for _, place, form in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fidelity_columns(reports):
    """Columns (title, place in a report, format) of precision, recall and distance; none where they differ in kind."""
    kinds = [[at(report, ("fidelity", key)) for key in SAME] for report in reports]
    if kinds[0][-1] is None or any(kind != kinds[0] for kind in kinds):
        return []
    title = kinds[0][-1]
    distance = ("fidelity", "fid" if title == "FID" else "frechet_distance")
    shares = [(name, ("fidelity", name), "{:.3f}") for name in ("precision", "recall")]
    return [*shares, (title, distance, "{:.4g}")]


def cell(runs, place, form):
    """A column of a dataset's reports; "-" where one of them has not got it."""
    values = [at(run, place) for run in runs]
    return "-" if None in values else spread(values, form)


def at(report, place):
    """The value at a path of keys and positions, or None."""
    for key in place:
        try:
            report = report[key]
        except (KeyError, IndexError, TypeError):
            return None
    return report


if __name__ == "__main__":
    main()
