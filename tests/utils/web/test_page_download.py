"""Zip files of images, and the commands that make the same images."""

import zipfile
from importlib import import_module

import numpy as np
import pytest
from commands import run
from documented_commands import commands_of
from paths import PHOTOS, ROOT, files_of
from web_session import last

from models.errors import UserError
from utils.cli.attribute_flags import WantedAttribute
from utils.data.images import read_image
from utils.web.commands import command_of
from utils.web.download import make_zip
from utils.web.making import make
from utils.web.order import Drawn, Mix, Order, Sampled
from utils.web.uploads import read_photo


def photo_of(page_session, tmp_path, name="anna.jpg"):
    """The person in a test photo, and a copy of the photo where its owner has it."""
    data = (PHOTOS / "person1" / "0.jpg").read_bytes()
    (tmp_path / name).write_bytes(data)
    (tmp_path / "upload").write_bytes(data)
    return read_photo(page_session, tmp_path / "upload", name)


def contents(path):
    """{name: bytes} of a zip."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def run_commands(text, folder, monkeypatch):
    """Run commands as if ``folder`` were the project's, with its weights."""
    (folder / "weights").symlink_to(ROOT / "weights")
    monkeypatch.chdir(folder)
    commands = commands_of("page", text)
    assert len(commands) == text.count("python ")
    for command in commands:
        run(import_module(command.script.removesuffix(".py").replace("/", ".")).main, *command.words)


ORDERS = {
    "a person of the file": lambda *_: Order(Sampled(3), sigma=0.35, seed=5, count=3),
    "a draw": lambda *_: Order(Drawn(17), count=2),
    "a quality": lambda *_: Order(Sampled(1), quality=20.5, count=2, max_iters=1),
    "a smile": lambda *_: Order(Sampled(5), count=1, max_iters=1, attributes=(WantedAttribute("smile", 0.5),)),
    "a turned mix of a draw": lambda *_: Order(Mix(Drawn(4), 7, 0.15), yaw=-30, pitch=10, count=2, max_iters=2),
    "a turned photo": lambda *place: Order(
        photo_of(*place, "an na.jpg"),
        yaw=20,
        quality=18,
        count=1,
        max_iters=1,
        attributes=(WantedAttribute("age", 40), WantedAttribute("glasses", 1.0)),
    ),
    "a mix of a photo": lambda *place: Order(Mix(photo_of(*place), 2, 0.5), count=1),
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_command_makes_the_dataset_in_the_zip_byte_for_byte(name, page_session, tmp_path, monkeypatch):
    order = ORDERS[name](page_session, tmp_path)
    archive = contents(last(make_zip(page_session, order, order.count, "dataset", tmp_path)))
    text = archive.pop("command.txt").decode()
    assert text == command_of(page_session, order) + "\n"
    run_commands(text, tmp_path, monkeypatch)
    (folder,) = (
        tmp_path / kind for kind in ("generated_images", "generated_pose_images") if (tmp_path / kind).exists()
    )
    made = files_of(folder)
    assert {path for path in made if path.endswith(".jpg")} >= {path for path in archive if path.endswith(".jpg")}
    assert made == archive


def test_the_images_in_the_zip_are_those_on_the_page(page_session, tmp_path):
    order = Order(Sampled(2), count=2)
    view = last(make(page_session, order))
    archive = contents(last(make_zip(page_session, order, 3, "images", tmp_path)))
    assert sorted(archive) == ["000002/000.jpg", "000002/001.jpg", "000002/002.jpg", "command.txt", "manifest.jsonl"]
    assert "--example 3" in archive["command.txt"].decode()
    for index, face in enumerate(view.images):
        path = tmp_path / "image.jpg"
        path.write_bytes(archive[f"000002/00{index}.jpg"])
        assert np.abs(read_image(path).astype(float) - face.pixels).mean() < 4  # but for JPEG
    assert len(archive["manifest.jsonl"].splitlines()) == 3


def test_nothing_but_the_zip_is_left(page_session, tmp_path):
    path = last(make_zip(page_session, Order(Sampled(0)), 1, "dataset", tmp_path))
    assert list(tmp_path.iterdir()) == [path]


def test_a_zip_that_nobody_waits_for_leaves_nothing(page_session, tmp_path):
    steps = make_zip(page_session, Order(Sampled(0), yaw=90, max_iters=200), 8, "images", tmp_path)
    next(steps)
    steps.close()
    page_session.worker.call(lambda: None)  # the worker is free again
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, 201, 2.5, None, "9"])
def test_a_wrong_number_of_images_is_refused(count, page_session, tmp_path):
    with pytest.raises(UserError, match="Number of images: a whole number from 1 to 200"):
        list(make_zip(page_session, Order(Sampled(0)), count, "images", tmp_path))
