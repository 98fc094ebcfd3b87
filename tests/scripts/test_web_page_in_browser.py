"""The page in a real Chromium: open, make, turn, mix, upload, take away, two tabs."""

import json
import time
import zipfile

import cv2
import numpy as np
import pytest
from page_server import Tab, browser
from paths import PHOTOS

from utils.data.images import read_image

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def chrome(downloads):
    with browser(downloads) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def opened(chrome, page_server):
    """A tab with the page, whose first images are there."""
    return Tab(chrome, page_server.url)


@pytest.fixture
def tab(opened):
    """That tab, with a person of the file, no targets and no mix."""
    opened.click("#source label", 0)
    for box in opened.all("#targets input:checked"):
        box.click()
    if (share := opened.all("#share input[type=number]")) and share[0].get_property("value") != "0":
        opened.enter("#share input[type=number]", 0)
    opened.enter("#count input[type=number]", 1)
    return opened


def photo(folder, name="anna.jpg"):
    """A photo of a person with a border, so that the face has to be found."""
    crop = cv2.resize(read_image(PHOTOS / "person1" / "0.jpg"), (160, 160))
    image = cv2.copyMakeBorder(crop, 30, 30, 30, 30, cv2.BORDER_CONSTANT, value=(128, 128, 128))
    if name.endswith(".heic"):
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_bytes("RGB", image.shape[1::-1], image.tobytes()).save(folder / name)
    else:
        cv2.imwrite(str(folder / name), image[..., ::-1])
    return folder / name


def upload(tab, path):
    tab.click("#source label", 2)
    tab.wait_for(lambda: tab.all("input[type=file]"))
    tab.all("input[type=file]")[0].send_keys(str(path))


def told(tab, message):
    """Wait for a message on the page."""
    tab.wait_for(lambda: message in tab.text(".toast-body"))


def test_the_page_opens_with_images_and_asks_nobody_else(opened):
    tab = opened
    tab.wait_for(lambda: len(tab.all("#people img")) == 12)
    assert len(tab.all("#images figure")) == 4
    assert all(word in tab.text("#images figure") for word in ("similarity", "quality", "yaw", "pitch"))
    requests = [json.loads(entry["message"])["message"] for entry in tab.chrome.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in requests if m["method"] == "Network.requestWillBeSent"]
    assert len(urls) > 5
    assert [url for url in urls if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "chrome:"))] == []


def test_a_click_on_a_face_chooses_the_person(tab):
    tab.wait_for(lambda: len(tab.all("#people img")) == 12)
    tab.click("#people button", 2)
    tab.wait_for(lambda: tab.all("#row input")[0].get_property("value") == "2")
    assert "--start_end 2:3 " in tab.make()
    assert len(tab.all("#images figure")) == 1


def test_a_turn_shows_its_way_and_can_be_stopped(tab):
    tab.click("#targets label", 0)
    tab.enter("#yaw input[type=number]", 45)
    tab.enter("#max_iters input[type=number]", 200)
    tab.click("#make")
    tab.wait_for(lambda: "after 0 steps" in tab.text("#path"))
    tab.click("#stop")
    tab.wait_for(lambda: tab.text("#status") == "Stopped.")
    tab.enter("#max_iters input[type=number]", 5)
    assert "--pose 45 --signed_pose --max_iters 5 " in tab.make()
    assert "missed" in tab.text("#path")


def test_a_mix_of_a_draw_and_a_person_of_the_file(tab):
    tab.click("#source label", 1)
    tab.enter("#draw input", 17)
    tab.click("#mix button")
    tab.wait_for(lambda: "person 1" in tab.text("#second_face"))
    tab.enter("#second input", 7)
    tab.wait_for(lambda: "person 7" in tab.text("#second_face"))
    tab.enter("#share input[type=number]", 0.4)
    command = tab.make()
    assert "scripts/sample_identities.py" in command
    assert "--seed 17 --output drawn-17.npy" in command
    assert "--first drawn-17.npy 0" in command
    assert "--share 0.4 " in command


@pytest.mark.parametrize("name", ["anna.jpg", "phone.heic"])
def test_a_photo_is_aligned_and_its_file_deleted(name, tab, tmp_path, page_server):
    upload(tab, photo(tmp_path, name))
    tab.wait_for(lambda: f"{name}: the face as the encoder sees it" in tab.text("#crop"))
    assert f"scripts/extract_features.py --data {name} --align" in tab.make()
    kept = [path.name for path in page_server.temporary.rglob("*") if path.is_file() and path.stat().st_size]
    assert name not in kept


def test_broken_and_faceless_photos_are_told(tab, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo(tmp_path).read_bytes()[:900])
    upload(tab, broken)
    told(tab, "broken.jpg: truncated JPEG.")
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((200, 200, 3), 90, np.uint8))
    upload(tab, tmp_path / "wall.png")
    told(tab, "wall.png: no face found.")
    tab.click("#make")
    told(tab, "Choose a photo first.")


def test_a_file_of_50_mb_is_told_and_not_kept(tab, tmp_path, page_server):
    large = tmp_path / "large.jpg"
    large.write_bytes(b"\xff\xd8" + b"\x00" * (50 * 2**20))
    upload(tab, large)
    told(tab, "exceed")
    assert sum(path.stat().st_size for path in page_server.temporary.rglob("*") if path.is_file()) < 5 * 2**20


def test_a_zip_is_saved_and_the_command_copied(tab, downloads):
    tab.enter("#seed input", 3)
    tab.enter("#count input[type=number]", 2)
    command = tab.make()
    tab.enter("#zip_count input[type=number]", 3)
    tab.click("#prepare")
    tab.wait_for(lambda: tab.text("#save").startswith("Save person-0-"))
    tab.click("#save")
    tab.wait_for(lambda: list(downloads.glob("*.zip")))
    with zipfile.ZipFile(next(downloads.glob("*.zip"))) as archive:
        assert [name for name in archive.namelist() if name.endswith(".jpg")] == [
            f"000000/00{index}.jpg" for index in range(3)
        ]
        assert archive.read("command.txt").decode().split() == command.replace("--example 2", "--example 3").split()
    permission = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    tab.chrome.execute_cdp_cmd("Browser.grantPermissions", permission)
    tab.click("#command button[title*='Copy' i], #command button[aria-label*='Copy' i]")
    time.sleep(0.2)
    copied = tab.chrome.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied.strip() == command.strip()


def test_two_tabs_at_once_get_their_own_images(tab, chrome, page_server):
    other = Tab(chrome, page_server.url)
    for number, one in ((4, tab), (5, other)):
        one.enter("#row input", number)
    before = [one.command() for one in (tab, other)]
    for one in (tab, other):
        one.click("#make")
    for number, one, first in zip((4, 5), (tab, other), before, strict=True):
        one.wait_for(lambda one=one, first=first: one.command() != first)
        assert f"--start_end {number}:{number + 1} " in one.command()
