"""Compare recognisers trained on different data: accuracy on each set, the average, the gap to real data.

    python scripts/compare_fr.py real=real/test.json hsface10k=fr/test.json --real real

Each NAME=FILE is what test_fr.py --output wrote; several files of one name are averaged (mean ± standard deviation over
seeds). The gap is defined as in UIFace, (REAL - SYN) / SYN of the averages.
"""

import json
from pathlib import Path

from utils.cli.command import command

import numpy as np

from models.errors import UserError
from utils.cli.flags import make_parser
from utils.cli.outputs import writing


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("results", nargs="+", metavar="NAME=FILE", help="figures of a recogniser")
    parser.add_argument(
        "--real", help="the NAME that was trained on real data: adds the gap, (REAL - SYN) / SYN as in UIFace"
    )
    parser.add_argument("--output", help="also write the table, .md")
    args = parser.parse_args(argv)
    results = grouped(args.results, read)
    if args.real is not None and args.real not in results:
        raise UserError(f"--real {args.real}: no such name; there are {', '.join(results)}.")
    show(table(results, args.real), args.output)


def show(text, output):
    """Print a table, and write it to a file where one is named."""
    print(text)
    if output:
        with writing(output) as target:
            target.write_text(text + "\n")


def grouped(items, read):
    """{name: [read(file) of each]} of words NAME=FILE. Raises UserError for another word."""
    results = {}
    for item in items:
        name, found, path = item.partition("=")
        if not found:
            raise UserError(f"{item}: write it as NAME=FILE.")
        results.setdefault(name, []).append(read(path))
    return results


def read(path):
    """{set: accuracy} of a file of test_fr.py. Raises UserError when it is none."""
    try:
        return {name: float(result["accuracy"]) for name, result in json.loads(Path(path).read_text()).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not written by test_fr.py --output ({error}).") from error


def table(results, real=None):
    """Markdown: a recogniser a line. ``results``: {name: [{set: accuracy} of each seed]}."""
    sets = list(next(iter(results.values()))[0])
    for name, runs in results.items():
        for run in runs:
            if list(run) != sets:
                raise UserError(f"{name}: was tested on {', '.join(run)}, another on {', '.join(sets)}.")
    averages = {name: [float(np.mean(list(run.values()))) for run in runs] for name, runs in results.items()}
    head = ["training data", *sets, "average"] + ([f"gap to {real}, (REAL - SYN) / SYN as in UIFace"] if real else [])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, runs in results.items():
        cells = [name, *(spread([run[column] for run in runs]) for column in sets), spread(averages[name])]
        if real:
            gap = np.mean(averages[real]) / np.mean(averages[name]) - 1
            cells.append("-" if name == real else f"{gap:.2%}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values, form="{:.2%}"):
    """The mean and, of several values, their standard deviation."""
    text = form.format(np.mean(values))
    return text if len(values) == 1 else f"{text} ± {form.format(np.std(values, ddof=1))}"


if __name__ == "__main__":
    main()
