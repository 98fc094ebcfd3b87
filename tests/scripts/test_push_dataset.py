"""Datasets published on a Hub on this machine, by the real client, and loaded again from the files it received."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import fake_hub
import pytest
from commands import refused, run
from huggingface_hub import DatasetCard, constants, file_download
from paths import PHOTOS, ROOT, Demo
from written_datasets import images, write

from models.errors import UserError
from scripts import measure_dataset, push_dataset
from utils.data.face_set import FaceSet
from utils.dataset import hub as hub_upload
from utils.dataset.image_record import AttrOPVerdict, ImageRecord
from utils.dataset.layout import hub_folder
from utils.dataset.writer import DatasetWriter, finish_dataset, prepare_dataset
from utils.generation.pipeline import GeneratedImage
from utils.generation.recipe import Identity

REPOSITORY = "owner/faces"
PEOPLE = (0, 40, 80)  # numbers of identities, which are red values here, so far apart that no two JPEG files are equal
WORDS = (REPOSITORY, "--license", "cc-by-nc-4.0")


def point_to(url, monkeypatch):
    """What HF_ENDPOINT does when the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    for module in (constants, file_download):  # the second one in old versions
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture
def hub(monkeypatch):
    with fake_hub.serving() as hub:
        point_to(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # the hub here has plain HTTP
        monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
        yield hub


@pytest.fixture
def dataset(tmp_path):
    """Three identities with three images each."""
    write(tmp_path / "test", "folder", PEOPLE)
    return tmp_path / "test"


def push(dataset, *words):
    run(push_dataset.main, dataset, *WORDS, *words)


def push_refused(dataset, words, capsys):
    return refused(push_dataset.main, [dataset, *words], capsys)


def received(hub, folder):
    """A folder of the files that the hub holds."""
    for name, data in hub.repositories[REPOSITORY].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("format", "form"),
    [("folder", "imagefolder"), ("lmdb", "webdataset"), ("lmdb", "parquet"), ("lmdb", "imagefolder")],
)
def test_what_was_pushed_is_loaded_back_image_by_image(format, form, hub, tmp_path):
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "test", format, PEOPLE)
    push(tmp_path / "test", "--form", form)
    folder = received(hub, tmp_path / "received")
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    column = "jpg" if form == "webdataset" else "image"
    rows = list(loaded.cast_column(column, datasets.Image(decode=False)))
    about = [row["json"] if form == "webdataset" else row for row in rows]
    contents = [row[column]["bytes"] or Path(row[column]["path"]).read_bytes() for row in rows]
    faces = FaceSet(tmp_path / "test")
    assert contents == [faces.read(index) for index in range(len(faces))]
    assert [row["label"] for row in about] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [row["identity"] for row in about] == [f"{PEOPLE[label]:06d}" for label in faces.labels]
    assert {row["sigma"] for row in about} == {0.3}
    assert loaded[0][column].size == (112, 112)


def test_a_killed_upload_continues_without_sending_an_image_twice(hub, dataset):
    hub.hold_after = 4
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "scripts/push_dataset.py", str(dataset), *WORDS]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    assert hub.held.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(hub.sent) == 4
    hub.hold_after = None
    push(dataset)
    assert len(hub.sent) == len(set(hub.sent)) == 10  # nine images and the contact sheet
    assert len(hub.repositories[REPOSITORY]) == 14  # with metadata, settings, card and .gitattributes


def test_a_refused_commit_is_told_and_the_commits_before_it_are_kept(hub, dataset, capsys, monkeypatch):
    monkeypatch.setattr(hub_upload, "FILES_PER_COMMIT", 4)
    hub.commits_left = 3
    message = push_refused(dataset, WORDS, capsys)
    assert "Too many commits" in message
    assert "Run the same command again" in message
    before = [name for commit in hub.commits for name in commit]
    assert before[0] == "settings.json"
    assert len(before) == 6  # the contact sheet, and four images
    hub.commits_left = None
    push(dataset)
    committed = [name for commit in hub.commits for name in commit]
    assert len(committed) == len(set(committed)) == 13
    assert committed[-1] == "README.md"
    push(dataset)
    assert [name for commit in hub.commits for name in commit] == committed
    assert "no files uploaded, complete" in capsys.readouterr().out


def test_a_dry_run_writes_the_export_and_contacts_nobody(dataset, monkeypatch, capsys):
    point_to("http://127.0.0.1:9", monkeypatch)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    push(dataset, "--dry_run")
    folder = hub_folder(dataset)
    assert len(list(folder.glob("data/*/*.jpg"))) == 9
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")}
    push(dataset, "--dry_run")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")} == times
    assert "complete already" in capsys.readouterr().out
    with pytest.raises(UserError, match="name one of them: test\\."):  # and not test.hub
        FaceSet(dataset.parent)


def test_an_edited_card_is_kept_and_uploaded(hub, dataset, capsys):
    push(dataset, "--dry_run")
    card = hub_folder(dataset) / "README.md"
    card.write_text(card.read_text() + "\nMade for a test.\n")
    push(dataset, "--form", "webdataset")
    assert hub.repositories[REPOSITORY]["README.md"].endswith(b"Made for a test.\n")
    assert "was edited and is kept" in capsys.readouterr().out


def test_a_dataset_that_grew_is_exported_again_and_only_the_new_images_are_sent(hub, dataset):
    push(dataset)
    write(dataset, "folder", [120])
    push(dataset)
    assert len(hub.sent) == len(set(hub.sent)) == 14  # 12 images, and two contact sheets
    assert b"12 generated face images of 4 identities" in hub.repositories[REPOSITORY]["README.md"]


def test_a_repository_of_another_dataset_is_refused_until_told_to_overwrite_it(hub, dataset, tmp_path, capsys):
    push(dataset)
    before = dict(hub.repositories[REPOSITORY])
    write(tmp_path / "other", "folder", [160], seed=1)
    assert "holds a dataset with other settings" in push_refused(tmp_path / "other", WORDS, capsys)
    write(tmp_path / "slice", "folder", [200])
    assert "holds other images" in push_refused(tmp_path / "slice", WORDS, capsys)
    assert "holds other images" in push_refused(dataset, [*WORDS, "--form", "webdataset"], capsys)
    assert hub.repositories[REPOSITORY] == before
    hub.repositories["owner/mine"] = {".gitattributes": b"", "thesis.pdf": b"years"}
    assert "did not upload" in push_refused(dataset, ["owner/mine", *WORDS[1:]], capsys)
    push(tmp_path / "other", "--overwrite")
    images = {name for name in hub.repositories[REPOSITORY] if name.endswith(".jpg")}
    assert images == {"contact_sheet.jpg", *(f"data/000000/{index:03d}.jpg" for index in range(3))}


def test_a_public_repository_is_not_used_for_a_private_dataset(hub, dataset, capsys):
    run(push_dataset.main, dataset, "owner/hidden", *WORDS[1:], "--private")
    assert hub.private == {"owner/hidden"}
    push(dataset)
    assert "--private: owner/faces exists and is public" in push_refused(dataset, [*WORDS, "--private"], capsys)


def test_a_token_that_is_refused_missing_or_empty_is_told_and_never_shown(hub, dataset, tmp_path, capsys, monkeypatch):
    (tmp_path / "token").write_text("hf_wrong\n")
    message = push_refused(dataset, [*WORDS, "--token_file", tmp_path / "token"], capsys)
    assert "the Hub refused the token (401)" in message
    assert "hf_wrong" not in message
    (tmp_path / "token").write_text("\n")
    assert "holds no token" in push_refused(dataset, [*WORDS, "--token_file", tmp_path / "token"], capsys)
    assert "cannot be read" in push_refused(dataset, [*WORDS, "--token_file", tmp_path / "nowhere"], capsys)
    monkeypatch.setattr(push_dataset, "get_token", lambda: None)  # whoever runs the tests may be logged in
    assert "no access token" in push_refused(dataset, WORDS, capsys)
    assert hub.repositories == {}
    (tmp_path / "token").write_text(fake_hub.TOKEN + "\n")
    push(dataset, "--token_file", tmp_path / "token")


def test_without_a_network_the_message_says_what_to_do_by_hand(dataset, monkeypatch, capsys):
    point_to("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    message = push_refused(dataset, WORDS, capsys)
    assert "the Hub at http://127.0.0.1:9 cannot be reached" in message
    assert "`hf upload owner/faces test.hub . --repo-type dataset`" in message
    assert (hub_folder(dataset) / "README.md").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["owner/my faces", "--license", "mit"], "for example owner/my-faces"),
        (["faces", "--license", "mit"], "as OWNER/NAME"),
        (["owner/faces", "--license", "My License"], "give an identifier such as"),
        (["owner/faces"], "required: --license"),
    ],
)
def test_names_that_the_hub_would_refuse_are_refused_at_once(words, message, dataset, capsys):
    assert message in push_refused(dataset, words, capsys)
    assert not hub_folder(dataset).exists()


def test_a_licence_that_the_hub_does_not_know_is_told_before_anything_is_uploaded(hub, dataset, capsys):
    message = push_refused(dataset, [REPOSITORY, "--license", "my-own"], capsys)
    assert '"license" must be one of' in message
    assert hub.repositories == {}


def test_what_is_no_finished_generated_dataset_is_refused(dataset, tmp_path, capsys):
    photo = tmp_path / "photos" / "person" / "0.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(next(dataset.rglob("*.jpg")).read_bytes())
    assert "has no settings and manifest" in push_refused(tmp_path / "photos", WORDS, capsys)
    assert "nowhere" in push_refused(tmp_path / "nowhere", WORDS, capsys)
    write(dataset, "folder", [120], part="b", finish=False)
    assert "--compact" in push_refused(dataset, WORDS, capsys)
    finish_dataset(dataset, "folder")
    (dataset / "000120" / "000.jpg").unlink()
    assert "has 11 images, and its manifest names 12" in push_refused(dataset, [*WORDS, "--dry_run"], capsys)


def test_a_folder_of_something_else_where_the_export_would_go_is_left_alone(dataset, capsys):
    hub_folder(dataset).mkdir()
    (hub_folder(dataset) / "notes.txt").write_text("mine")
    assert "no export for the Hub" in push_refused(dataset, [*WORDS, "--dry_run"], capsys)
    assert [path.name for path in hub_folder(dataset).iterdir()] == ["notes.txt"]


def test_the_names_of_photos_that_identities_come_from_stay_out(tmp_path):
    root = tmp_path / "test"
    prepare_dataset(root, {"format": "folder", "mode": "reference"}, {})
    with DatasetWriter(root, "folder", "a") as writer:
        record = ImageRecord(0, "jane_doe_0", 0, 0.3, source="people/jane_doe/0.jpg")
        writer.write(Identity(0, "jane_doe_0", None), [GeneratedImage(images(0)[0].pixels, record)])
    finish_dataset(root, "folder")
    push(root, "--dry_run")
    texts = [path for path in hub_folder(root).rglob("*") if path.suffix in (".jsonl", ".json", ".md")]
    assert len(texts) >= 3
    assert not any("jane_doe" in str(path) or "jane_doe" in path.read_text() for path in texts)
    assert "The identity vectors were taken from photos" in (hub_folder(root) / "README.md").read_text()


def test_an_export_that_fails_leaves_nothing_that_looks_complete(dataset, capsys):
    image = dataset / "000040" / "001.jpg"
    content = image.read_bytes()
    image.write_bytes(b"no image")
    assert "photo 1 of 000040" in push_refused(dataset, [*WORDS, "--dry_run"], capsys)
    assert not hub_folder(dataset).exists()
    image.write_bytes(content)
    push(dataset, "--dry_run")
    assert [path.name for path in dataset.parent.glob("*.hub")] == ["test.hub"]


def test_the_card_has_the_figures_of_the_report_beside_those_of_photos(dataset, tmp_path, capsys):
    flags = ["--id_weights", Demo.encoder, "--device", "cpu", "--precision", "fp32"]
    run(measure_dataset.main, dataset, *flags, "--reference", PHOTOS)
    run(measure_dataset.main, PHOTOS, *flags, "--output", tmp_path / "photos.report")
    push(dataset, "--dry_run", "--photo_report", tmp_path / "photos.report" / "report.json")
    card = (hub_folder(dataset) / "README.md").read_text()
    for name, report in (("test", dataset.parent / "test.report"), ("photos", tmp_path / "photos.report")):
        people = json.loads((report / "report.json").read_text())["people"]
        (line,) = [
            line for line in card.splitlines() if line.startswith(f"| {name} | {people['separate_share']:.2%} |")
        ]
        assert f"| {people['mean_similarity']:.3f} |" in line
    assert "Of 3 random identities" in card
    assert str(PHOTOS.parent) not in card
    write(dataset, "folder", [120])
    message = push_refused(dataset, [*WORDS, "--dry_run"], capsys)
    assert "is on 9 images, and the dataset has 12" in message


def test_the_card_says_how_the_dataset_was_made_and_what_the_manifest_counts(tmp_path):
    root, about = tmp_path / "test", {"mode": "identity", "generator": "ab12", "id_model": "cd34", "seed": 7}
    attrop = {True: AttrOPVerdict("check image", True, 3), False: AttrOPVerdict("check image", False, 9, ("quality",))}
    prepare_dataset(root, {"format": "folder", **about, "attrop": {"image_quality": 26.0}}, {"torch": "2.9"})
    with DatasetWriter(root, "folder", "a") as writer:
        for number, quality in ((0, 20.0), (1, 30.0), (2, None)):
            name, passed = f"{number:06d}", quality is not None
            measured = {"quality": quality} if passed else {}
            record = ImageRecord(number, name, 0, 0.3, None, measured, attrop[number == 0], passed)
            pixels = images(number)[0].pixels if passed else None
            writer.write(Identity(number, name, None), [GeneratedImage(pixels, record)])
    finish_dataset(root, "folder")
    push(root, "--dry_run")
    card = (hub_folder(root) / "README.md").read_text()
    head = DatasetCard(card).data
    assert head.license == "cc-by-nc-4.0"
    assert head.size_categories == ["n<1K"]
    for line in (
        "2 generated face images of 2 identities, 112x112 pixels",
        "| seed | 7 |",
        "| AttrOP | image_quality 26.0 |",
        "| generator | `ab12` |",
        "| FR model that reads the identity | `cd34` |",
        "| identities of which no image passed the gate, left out | 1 |",
        "| vectors that reached the targets of AttrOP | 1 of 3 (33.3%) |",
        "| norm of the quality model's feature, mean of 2 images | 25.000 |",
        'load_dataset("owner/faces", split="train")',
    ):
        assert line in card


def test_the_card_of_a_dataset_by_uiface_names_it_and_its_sampler(tmp_path):
    about = {"mode": "uiface", "generator": "ab12", "autoencoder": ["cd34", "ef56"], "partition": "adaptive"}
    prepare_dataset(tmp_path / "test", {"format": "folder", **about}, {})
    with DatasetWriter(tmp_path / "test", "folder", "a") as writer:
        writer.write(Identity(0, "000000", None), images(0))
    finish_dataset(tmp_path / "test", "folder")
    push(tmp_path / "test", "--dry_run")
    card = (hub_folder(tmp_path / "test") / "README.md").read_text()
    assert "made with UIFace (Lin et al., ICLR 2025)" in card
    assert "with [Vec2Face]" not in card
    for line in (
        "adaptive |",
        "| autoencoder | `cd34` |",
        "| autoencoder | `ef56` |",
        "first a face without an identity",
    ):
        assert line in card
