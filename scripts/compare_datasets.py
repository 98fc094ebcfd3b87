"""Compare datasets by what measure_dataset.py found: are the people different, is each one person, do they leak?

    python scripts/compare_datasets.py hsface10k=measured/report.json mine=other/report.json

Several reports of one NAME are averaged (mean ± standard deviation). All must have been measured by the same judge;
leakage is that into the first --reference.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json

from scripts.compare_fr import grouped, show, spread
from utils.cli import command, make_parser
from utils.errors import UserError

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
    judges = {report["overview"]["judge"] for runs in reports.values() for report in runs}
    if len(judges) > 1:
        raise UserError(f"measured by different judges ({'; '.join(sorted(judges))}): measure them with the same one.")
    lines = ["| dataset | " + " | ".join([*SHARES, *COSINES]) + " |", "|---" * (1 + len(SHARES) + len(COSINES)) + "|"]
    for name, runs in reports.items():
        cells = [cell(runs, place, "{:.2%}") for place in SHARES.values()]
        cells += [cell(runs, place, "{:.3f}") for place in COSINES.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
