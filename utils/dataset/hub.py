"""Uploading an export to the Hugging Face Hub in commits of many files, so that a second run sends what is missing.

The library's own upload of large folders was removed with its version 2, and its successor resumes only where the
package hf_xet is installed; commits of a list of files are the same in all versions.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_session, hf_raise_for_status
from tqdm.auto import tqdm

from models.errors import UserError
from utils.dataset.layout import SETTINGS, read_settings
from utils.dataset.staging import DATA, staged_files

FILES_PER_COMMIT = 500
BYTES_PER_COMMIT = 2 * 10**9
NOT_COMPARED = ("format", "example")  # settings that may differ between two states of one dataset
HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")  # by version of huggingface_hub
BLOCK = 1 << 20
Files = dict[str, RepoFile]  # the files of a repository by their paths


def settings_hash(settings: dict) -> str:
    """Hexadecimal SHA-256 of the settings that a dataset keeps when images are added to it."""
    kept = {name: value for name, value in settings.items() if name not in NOT_COMPARED}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def check_card(api: HfApi, path: Path) -> None:
    """Raise UserError when the Hub would refuse a card, before the images are uploaded."""
    body = {"repoType": "dataset", "content": path.read_text()}
    response = get_session().post(f"{api.endpoint}/api/validate-yaml", json=body)
    if response.status_code == 400:
        reasons = " ".join(str(error.get("message")) for error in response.json().get("errors", []))
        raise UserError(f"{path}: the Hub refuses the head of this card; mend it, or give another --license: {reasons}")
    hf_raise_for_status(response)


def open_repository(api: HfApi, repository: str, settings: dict, private: bool, overwrite: bool) -> Files:
    """Create a dataset repository, or check that the one that is there may be written to; its files.

    ``settings``: of the dataset to upload. Raises UserError when the repository holds another dataset and there is no
    ``overwrite``, or is public though ``private`` is asked for.
    """
    visibility = {"private": True} if private else {}  # otherwise what the owner has chosen as the default
    api.create_repo(repository, repo_type="dataset", exist_ok=True, **visibility)
    if private and not api.repo_info(repository, repo_type="dataset").private:
        raise UserError(f"--private: {repository} exists and is public; make it private on the Hub first.")
    entries = api.list_repo_tree(repository, repo_type="dataset", recursive=True)
    files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    if not overwrite and files.keys() - {".gitattributes"}:
        if SETTINGS not in files:
            raise UserError(refusal(repository, "holds files that this script did not upload"))
        with tempfile.TemporaryDirectory() as folder:
            path = api.hf_hub_download(repository, SETTINGS, repo_type="dataset", local_dir=folder)
            try:
                there = read_settings(Path(path))["settings"]
            except UserError:
                there = {}
        if settings_hash(there) != settings_hash(settings):
            raise UserError(refusal(repository, "holds a dataset with other settings"))
    return files


def refusal(repository: str, reason: str) -> str:
    return f"{repository}: {reason}; choose another name, or give --overwrite to replace what is there."


def upload(api: HfApi, repository: str, folder: Path, there: Files, overwrite: bool) -> int:
    """Upload the files of ``folder`` that the repository lacks; their number.

    ``there``: the files of the repository. Files that the export lacks are deleted with ``overwrite``. Raises UserError
    when images on the Hub would be replaced or deleted without ``overwrite``.
    """
    names = staged_files(folder)
    missing = [name for name in names if name not in there or not is_same(folder / name, there[name])]
    images = [name for name in missing if name in there and name.startswith(f"{DATA}/") and not name.endswith(".jsonl")]
    others = sorted(there.keys() - {*names, ".gitattributes"})
    if not overwrite and (images or any(name.startswith(f"{DATA}/") for name in others)):
        example = (images or others)[0]
        raise UserError(refusal(repository, f"holds other images of a dataset with these settings ({example})"))
    deletions = [CommitOperationDelete(name, is_folder=False) for name in others] if overwrite else []
    if deletions:
        api.create_commit(repository, deletions, commit_message="Delete former files", repo_type="dataset")
    with tqdm(total=len(names), initial=len(names) - len(missing), unit="file") as bar:
        for batch in batches(folder, missing):
            additions = [CommitOperationAdd(name, str(folder / name)) for name in batch]
            message = f"Add {batch[0]}" + (f" and {len(batch) - 1} more files" if len(batch) > 1 else "")
            api.create_commit(repository, additions, commit_message=message, repo_type="dataset")
            bar.update(len(batch))
    return len(missing)


def batches(folder: Path, names: list[str]) -> Iterator[list[str]]:
    """The files of each commit. Those outside ``data/`` have commits of their own."""
    batch, size = [], 0
    for name in names:
        length = (folder / name).stat().st_size
        alone = not name.startswith(f"{DATA}/")
        if batch and (alone or len(batch) == FILES_PER_COMMIT or size + length > BYTES_PER_COMMIT):
            yield batch
            batch, size = [], 0
        batch, size = [*batch, name], size + length
        if alone:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def is_same(path: Path, entry: RepoFile) -> bool:
    """Whether a file on the Hub has the content of a local one; large files are known by SHA-256, others as in git."""
    size = path.stat().st_size
    if size != entry.size:
        return False
    digest = hashlib.sha256() if entry.lfs else hashlib.sha1(f"blob {size}\0".encode())
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest() == (entry.lfs.sha256 if entry.lfs else entry.blob_id)


@contextmanager
def hub_errors(endpoint: str, repository: str, folder: Path) -> Iterator[None]:
    """Raise UserError with what to do in place of the errors of the Hub and of the network."""
    try:
        yield
    except Exception as error:
        cause = error
        while cause is not None and not isinstance(cause, HfHubHTTPError) and not is_network_error(cause):
            cause = cause.__cause__
        if cause is None:
            raise
        raise UserError(advice(cause, endpoint, repository, folder)) from error


def is_network_error(error: BaseException) -> bool:
    known = isinstance(error, (ConnectionError, TimeoutError, OfflineModeIsEnabled))
    return known or type(error).__module__.split(".")[0] in HTTP_CLIENTS


def advice(error: BaseException, endpoint: str, repository: str, folder: Path) -> str:
    """One line on an error of the Hub or of the network: what is wrong, and what to do."""
    response = getattr(error, "response", None)
    if not isinstance(error, HfHubHTTPError) or response is None:
        return (
            f"the Hub at {endpoint} cannot be reached ({type(error).__name__}). {folder} is complete: run the same "
            f"command again to upload what is missing, or copy the folder to a machine with a network and run there "
            f"`hf upload {repository} {folder.name} . --repo-type dataset`."
        )
    if response.status_code == 401:
        return "the Hub refused the token (401): make one with write access at https://huggingface.co/settings/tokens."
    if response.status_code == 403:
        return f"the token may not write to {repository} (403): use one with write access to it, or another owner."
    text = " ".join(str(error).split())
    return f"the Hub refused {repository}: {text[:300]}. Run the same command again to upload what is missing."
