"""Publish a generated dataset on the Hugging Face Hub, with a dataset card.

    python scripts/push_dataset.py generated_images/test OWNER/NAME --license cc-by-nc-4.0 --dry_run
    python scripts/push_dataset.py generated_images/test OWNER/NAME --license cc-by-nc-4.0 --private

The dataset is a folder or an LMDB that the generation scripts wrote. Its images are exported to the folder NAME.hub
beside it, together with a card that says how the dataset was made, with which weights, and what
scripts/measure_dataset.py measured, where there is a report. --dry_run ends there: read and edit NAME.hub/README.md,
then run the command without --dry_run. An edited card is kept.

An interrupted upload continues when the command is run again; files that the Hub has are not sent again. A repository
that holds anything else is refused. The token is read from the environment (HF_TOKEN, or `hf auth login`) or from
--token_file.
"""

import re
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from utils.cli.command import command

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import disable_progress_bars, logging, validate_repo_id
from tqdm.auto import tqdm

from models.errors import UserError
from utils.cli.flags import make_parser
from utils.cli.outputs import output_file, report_folder
from utils.data.face_set import FaceSet
from utils.data.images import CONTACT_SHEET
from utils.dataset.card import ManifestSummary, card_text, summarise
from utils.dataset.hub import check_card, hub_errors, open_repository, upload
from utils.dataset.layout import dataset_root, find_manifest, find_settings, hub_folder, read_settings
from utils.dataset.parts import part_folders
from utils.dataset.staging import CARD, FORMS, stage_card, stage_images
from utils.evaluation.comparison import Report, dataset_table, is_report, read_results

HASH_DIGITS = 12  # of a model's SHA-256 in a report
SMALL = 10_000  # images, up to which the default is a file per image
LARGEST_IMAGEFOLDER = 90_000  # images; the Hub advises against repositories of more than 100,000 files


def push_parser() -> ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("data", help="generated dataset: its folder, or its LMDB")
    parser.add_argument("repository", type=repository_name, help="dataset repository on the Hub, OWNER/NAME")
    parser.add_argument(
        "--license", type=license_name, required=True,
        help="identifier of the dataset's licence, as the Hub lists them: cc-by-4.0, cc-by-nc-4.0, mit, other, ...",
    )  # fmt: skip
    parser.add_argument(
        "--form",
        choices=FORMS,
        help=f"form of the images: a file per image (imagefolder, the default for up to {SMALL:,} images), WebDataset "
        "shards (the default for more), or Parquet files (needs pyarrow)",
    )
    parser.add_argument("--private", action="store_true", help="a repository that only its owner can see")
    parser.add_argument("--token_file", help="file that holds the access token (default: token of the environment)")
    parser.add_argument(
        "--photo_report", help="report.json of measure_dataset.py on photos, to show their figures beside the dataset's"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replacement of whatever the repository holds by this dataset"
    )
    parser.add_argument("--dry_run", action="store_true", help="export and card only, without any upload")
    return parser


@command
def main(argv=None):
    args = push_parser().parse_args(argv)
    root, folder = dataset_root(args.data), hub_folder(dataset_root(args.data))
    settings, manifest = records_of(root)
    token = None if args.dry_run else read_token(args.token_file)
    content, summary, faces = read_settings(settings), summarise(manifest), FaceSet(args.data)
    if len(faces) != summary.images:
        raise UserError(
            f"{root}: has {len(faces)} images, and its manifest names {summary.images}; delete the folders of the "
            "identities that differ, and run the command that made the dataset again."
        )
    form = choose_form(args.form, len(faces))
    report, id_model = report_folder(root) / "report.json", content["settings"].get("id_model")
    figures = describe_figures(report, root, summary, id_model, args.photo_report)
    with output_file(folder):
        if stage_images(folder, faces, form, root, settings, partial(tqdm, total=len(faces), unit="im")):
            print(f"export: {folder}, {len(faces)} images as {form}")
        else:
            print(f"export: {folder}, complete already")
        text = card_text(
            root.resolve().name, args.repository, args.license, form, content["settings"],
            content.get("environment", {}), summary, figures=figures,
            has_contact_sheet=(folder / CONTACT_SHEET).is_file(),
        )  # fmt: skip
        if stage_card(folder, text):
            print(f"card: {folder / CARD}")
        else:
            print(f"card: {folder / CARD} was edited and is kept; delete it to have it written anew")
    if args.dry_run:
        print("--dry_run: nothing was uploaded.")
        return
    push(args.repository, folder, content["settings"], token, args.private, args.overwrite)


def push(repository: str, folder: Path, settings: dict, token: str, private: bool, overwrite: bool) -> None:
    """Upload an export and print where it is. Raises UserError when the Hub refuses or cannot be reached."""
    disable_progress_bars()
    logging.set_verbosity_error()
    endpoint = constants.ENDPOINT
    api = HfApi(endpoint=endpoint, token=token)
    with hub_errors(endpoint, repository, folder):
        check_card(api, folder / CARD)
        there = open_repository(api, repository, settings, private, overwrite)
        count = upload(api, repository, folder, there, overwrite)
    print(f"{endpoint}/datasets/{repository}: {count or 'no'} files uploaded, complete")


def repository_name(text: str) -> str:
    """argparse type: OWNER/NAME as the Hub accepts it."""
    try:
        if text.count("/") != 1:
            raise UserError(f"{text!r}: name the repository as OWNER/NAME.")
        validate_repo_id(text)
    except HFValidationError as error:
        better = re.sub(r"[^\w./-]+|-{2,}|\.{2,}", "-", text)
        raise UserError(
            f"{text!r} is no name of a repository: letters, digits, -, _ and . are allowed, for example {better}."
        ) from error
    return text


def license_name(text: str) -> str:
    """argparse type: an identifier of a licence, in lower case without spaces."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise UserError(
            f"--license {text!r}: give an identifier such as cc-by-nc-4.0, or other and describe it in the card."
        )
    return text


def records_of(root: Path) -> tuple[Path, Path]:
    """(settings.json, manifest.jsonl) of a dataset that the generation scripts wrote and finished."""
    settings, manifest = find_settings(root), find_manifest(root)
    if settings is None or manifest is None:
        raise UserError(
            f"{root}: has no settings and manifest beside it; only datasets of the generation scripts can be published."
        )
    if any(part_folders(root)):
        raise UserError(
            f"{root}: images of unfinished runs are not merged yet; let them end, then run `python "
            f"scripts/convert_dataset.py {root} --compact`."
        )
    return settings, manifest


def read_token(path: str | None) -> str:
    """The access token, from a file or from the environment. Raises UserError when there is none."""
    try:
        token = Path(path).read_text().strip() if path else get_token()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--token_file {path}: cannot be read: {getattr(error, 'strerror', error)}.") from error
    if not token or not re.fullmatch(r"[!-~]+", token):
        where = f"--token_file {path} holds no token" if path else "no access token"
        raise UserError(
            f"{where}: make one with write access at https://huggingface.co/settings/tokens, and set HF_TOKEN or write "
            "it to a file for --token_file."
        )
    return token


def choose_form(form: str | None, images: int) -> str:
    """The form of the export. Raises UserError when there are too many images for a file each."""
    if form == "imagefolder" and images > LARGEST_IMAGEFOLDER:
        raise UserError(f"--form imagefolder: {images:,} files are too many for a repository; use webdataset.")
    return form or ("imagefolder" if images <= SMALL else "webdataset")


def describe_figures(
    report: Path, root: Path, summary: ManifestSummary, id_model: str | None, photo_report: str | None
) -> str:
    """Markdown on the figures of a report, beside those of photos; empty where there is no report.

    ``id_model``: SHA-256 of the FR model that took part in the generation.

    Raises UserError when a report cannot be read, is on another number of images, or by another FR model.
    """
    if not report.is_file():
        if photo_report:
            raise UserError(f"--photo_report: there is no {report} to compare with; run scripts/measure_dataset.py.")
        return ""
    reports = {root.resolve().name: [read_report(report)]}
    overview = reports[root.resolve().name][0]["overview"]
    if overview.get("images") != summary.images:
        raise UserError(
            f"{report}: is on {overview.get('images')} images, and the dataset has {summary.images}; run "
            "scripts/measure_dataset.py again, or move the report away."
        )
    if photo_report:
        reports["photos"] = [read_report(Path(photo_report))]
    measured = f"Measured with the FR model {overview['judge']}, in {overview.get('precision', 'unknown precision')}."
    if id_model and id_model[:HASH_DIGITS] in overview["judge"]:
        measured += " It took part in the generation, and a held-out model may give less favourable figures."
    return "\n\n".join([measured, dataset_table(reports), *comparisons(reports[root.resolve().name][0])])


def read_report(path: Path) -> Report:
    content = read_results(path)
    if not is_report(content):
        raise UserError(f"{path}: is no report of scripts/measure_dataset.py on a dataset.")
    return content


def comparisons(report: Report) -> Iterator[str]:
    """A sentence on every reference set that a report compares the dataset's separability with."""
    rows: Iterable[dict] = report["people"].get("compared_with") or ()
    for row in rows:
        yield (
            f"Of {row['people']} random identities, {row['separate']} have no preceding one that is too similar; of as "
            f"many identities of the photos `{Path(row['reference']).name}`, {row['separate_in_reference']} "
            f"(p = {row['p_value']:.2g} for no difference)."
        )


if __name__ == "__main__":
    main()
