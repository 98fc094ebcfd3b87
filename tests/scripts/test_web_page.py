"""The served page: asked without a browser, and looked at in a real Chromium."""

import json
import shutil
import socket
import time
import urllib.error
import urllib.request
import zipfile

import cv2
import numpy as np
import pytest
from commands import refused
from page_server import PageServer, Tab, browser
from paths import DEMO, PHOTOS, ROOT, files_of

from models.errors import UserError
from scripts import web_page
from utils.cli import demo_weights
from utils.data.images import read_image
from utils.web.server import free_port

pytest.importorskip("gradio")

CONTROLS = {
    "source": "From the file", "row": 0, "draw": 1, "photo": None, "share": 0, "second": 1, "targets": [], "yaw": 30,
    "pitch": 0, "quality": 22, "max_iters": 5, "sigma": 0.3, "seed": 0, "count": 1,
    "changed": [], "light_azimuth": 0, "light_elevation": 30, "light_hardness": 0.5, "smile": 0.5, "brow_up": 0,
    "brow_down": 0, "jaw_open": 0, "glasses": 0.5, "age": 40, "skin": 0.5, "blur": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def page_server(tmp_path_factory):
    """The page with the demo models, served by a process of its own. The last test ends it."""
    server = PageServer(tmp_path_factory.mktemp("page"))
    yield server
    server.stop()


def values_of(**values):
    """The values of the controls, some of them given."""
    return list((CONTROLS | values).values())


def test_a_taken_port_is_said_and_the_next_free_one_used(page_server):
    port = int(page_server.url.split(":")[2].strip("/"))
    assert port > page_server.wanted_port
    assert f"note: port {page_server.wanted_port} is taken." in page_server.printed()


def test_a_host_that_is_not_this_machine_is_an_error():
    with pytest.raises(UserError, match=r"--host 203\.0\.113\.1: Cannot assign requested address"):
        free_port("203.0.113.1", 7860)
    with pytest.raises(UserError, match=r"--host no-such-host\.invalid: no such host"):
        free_port("no-such-host.invalid", 7860)


def test_only_this_machine_is_served_and_browsers_load_nothing_from_others(page_server):
    with urllib.request.urlopen(page_server.url) as answer:
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        page = answer.read().decode()
    assert "fonts.googleapis.com" not in page
    assert '"analytics_enabled":false' in page.replace(" ", "")
    port = int(page_server.url.split(":")[2].strip("/"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))
    under_another_name = urllib.request.Request(page_server.url, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(under_another_name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"targets": ["yaw"], "yaw": 400}, "90"),
        ({"sigma": -1}, "0"),
        ({"count": 10**6}, "8"),
        ({"row": 200}, "Person: a whole number from 0 to 199, not 200."),
        ({"share": 0.5, "second": -1}, "Person: a whole number from 0 to 199, not -1."),
        ({"targets": ["age"]}, "age"),
        ({"changed": ["hat"]}, "hat"),
        ({"changed": ["age"], "age": 200}, "75"),
        ({"source": "Your photo"}, "Choose a photo first."),
        ({"source": "nobody"}, "nobody"),
        ({"seed": -1}, "Seed: a whole number from 0 to 4294967295, not -1."),
    ],
)
def test_values_that_the_controls_do_not_have_are_refused_by_the_server(values, message, page_server):
    ((succeeded, data),) = page_server.ask("make", values_of(**values))
    assert not succeeded
    assert message in str(data)


def test_two_requests_of_one_session_are_both_answered(page_server):
    answers = page_server.ask("make", values_of(row=1), values_of(row=2))
    for row, (succeeded, data) in zip((1, 2), answers, strict=True):
        assert succeeded
        assert f"--start_end {row}:{row + 1} " in str(data)


def test_a_file_that_nobody_uploaded_is_neither_read_nor_deleted(page_server, tmp_path):
    mine = tmp_path / "mine.jpg"
    shutil.copy(ROOT / "docs" / "demo.jpg", mine)
    ((succeeded, _),) = page_server.ask("upload", [{"path": str(mine), "meta": {"_type": "gradio.FileData"}}])
    assert not succeeded
    assert mine.exists()


def test_a_file_of_50_mb_is_cut_off_and_not_kept(page_server):
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="large.jpg"\r\n\r\n'
    body = head + b"\xff\xd8" + b"\0" * (50 * 2**20) + b"\r\n--x--\r\n"
    with pytest.raises((urllib.error.HTTPError, urllib.error.URLError)):
        page_server.open("gradio_api/upload", body, "multipart/form-data; boundary=x")
    assert sum(map(len, files_of(page_server.temporary).values())) < 5 * 2**20


def test_without_any_weights_the_page_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_weights, "ROOT", tmp_path)
    monkeypatch.setattr(demo_weights, "DEMO", tmp_path / "weights" / "demo")
    line = refused(web_page.main, [], capsys)
    assert line.startswith(f"error: missing: {tmp_path}/weights/demo/vec2face_generator.pth, ")


def test_half_a_set_of_released_files_is_refused_with_all_that_are_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    shutil.copy(DEMO / "vec2face_generator.pth", tmp_path / "weights" / "vec2face_generator.pth")
    line = refused(web_page.main, [], capsys)
    for name in ("arcface-r100-glint360k.pth", "magface-r100-glint360k.pth", "6DRepNet_300W_LP_AFLW2000.pth"):
        assert name in line
    assert "center_feature_examples.npy" in line
    assert "vec2face_generator.pth" not in line


def test_without_gradio_the_page_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(web_page, "find_spec", lambda name: None)
    assert "pip install -e '.[web]'" in refused(web_page.main, [], capsys)


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


@pytest.mark.slow
def test_a_turn_shows_its_way_and_can_be_stopped(tab):
    tab.click("#targets label", 0)
    tab.enter("#yaw input[type=number]", 45)
    tab.enter("#max_iters input[type=number]", 200)
    tab.click("#make")
    tab.wait_for(lambda: "step 0" in tab.text("#path"))
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


def test_without_a_photo_the_page_asks_for_one(tab):
    tab.click("#source label", 2)
    tab.click("#make")
    told(tab, "Choose a photo first.")


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


def test_a_file_of_50_mb_is_told_and_not_kept(tab, tmp_path, page_server):
    large = tmp_path / "large.jpg"
    large.write_bytes(b"\xff\xd8" + b"\x00" * (50 * 2**20))
    upload(tab, large)
    told(tab, "exceed")
    assert sum(path.stat().st_size for path in page_server.temporary.rglob("*") if path.is_file()) < 5 * 2**20


def test_a_zip_is_saved_and_the_command_copied(tab, downloads):
    tab.enter("#row input", 9)
    tab.enter("#count input[type=number]", 2)
    command = tab.make()
    tab.enter("#zip_count input[type=number]", 3)
    tab.click("#prepare")
    tab.wait_for(lambda: tab.text("#save").startswith("Save person-9-"))
    tab.click("#save")
    tab.wait_for(lambda: list(downloads.glob("*.zip")))
    with zipfile.ZipFile(next(downloads.glob("*.zip"))) as archive:
        assert [name for name in archive.namelist() if name.endswith(".jpg")] == [
            f"000009/00{index}.jpg" for index in range(3)
        ]
        assert archive.read("command.txt").decode().split() == command.replace("--example 2", "--example 3").split()
    permission = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    tab.chrome.execute_cdp_cmd("Browser.grantPermissions", permission)
    tab.click("#command button[title*='Copy' i], #command button[aria-label*='Copy' i]")
    time.sleep(0.2)
    copied = tab.chrome.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied.strip() == command.strip()


@pytest.mark.slow
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
    other.click("#targets label", 0)
    other.enter("#max_iters input[type=number]", 200)
    other.click("#make")
    other.wait_for(lambda: "step 0" in other.text("#path"))
    chrome.close()  # of which the work ends that nobody waits for
    tab.enter("#row input", 6)
    assert "--start_end 6:7 " in tab.make()


def test_the_end_is_one_line_and_leaves_nothing_behind(page_server):
    assert any(page_server.temporary.glob("vec2face-page-*"))
    assert page_server.stop() == 130
    assert page_server.printed().splitlines()[-1] == "stopped: the page is closed."
    assert not any(page_server.temporary.glob("vec2face-page-*"))
    assert files_of(page_server.temporary) == files_of(page_server.home) == {}
