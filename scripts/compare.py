"""Compare FR models trained on different data, or datasets, in one table.

    python scripts/compare.py real=real/test.json hsface10k=fr/test.json --real real
    python scripts/compare.py hsface10k=hsface10k.report/report.json \\
        mine=generated_images/mine.report/report.json --output comparison.md

A file is either what evaluate_fr.py --output wrote, which gives the accuracy on each verification set, their average
and the gap to real data, (REAL - SYN) / SYN of the averages as in UIFace; or a report.json of measure_dataset.py, which
gives how many identities are separate, how consistent each is, and how much they resemble the first --reference.
Several files of one NAME, for example of several seeds, are averaged (mean ± standard deviation).

Reports must have been measured by the same FR model in the same precision. Precision, recall and the Fréchet distance
(or FID) are shown where all reports have them in the same features, with equal numbers of neighbours and images, and to
the same reference.
"""

from utils.cli.command import command

from models.errors import UserError
from utils.cli.flags import make_parser
from utils.cli.outputs import output_file
from utils.evaluation.comparison import accuracy_table, dataset_table, is_report, read_results


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("results", nargs="+", metavar="NAME=FILE", help="name for the table and a JSON file of results")
    parser.add_argument(
        "--real", metavar="NAME", help="name of the FR model trained on real data, to which the table adds the gap"
    )
    parser.add_argument("--output", help="Markdown file for the table (default: the table is only printed)")
    args = parser.parse_args(argv)
    results = {}
    for item in args.results:
        name, separator, path = item.partition("=")
        if not separator:
            raise UserError(f"{item}: write it as NAME=FILE.")
        results.setdefault(name, []).append(read_results(path))
    table = make_table(results, args.real)
    print(table)
    if args.output:
        with output_file(args.output) as path:
            path.write_text(table + "\n")


def make_table(results: dict[str, list[dict]], real: str | None) -> str:
    """Markdown. Raises UserError when the results are of different kinds, or ``real`` is given for datasets."""
    kinds = {is_report(run) for runs in results.values() for run in runs}
    if len(kinds) > 1:
        raise UserError("reports on datasets and accuracies of FR models do not fit into one table.")
    if kinds == {False}:
        return accuracy_table(results, real)
    if real is not None:
        raise UserError("--real: only for FR models; these are reports on datasets.")
    return dataset_table(results)


if __name__ == "__main__":
    main()
