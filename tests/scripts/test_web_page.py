"""The served page, asked without a browser."""

import shutil
import socket
import urllib.error
import urllib.request

import pytest
from commands import refused
from page_server import PageServer
from paths import DEMO, ROOT, files_of

from models.errors import UserError
from scripts import web_page
from utils.cli import demo_weights
from utils.web.server import free_port

pytest.importorskip("gradio")

CONTROLS = {
    "source": "From the file", "row": 0, "draw": 1, "photo": None, "share": 0, "second": 1, "targets": [], "yaw": 30,
    "pitch": 0, "quality": 22, "max_iters": 5, "sigma": 0.3, "seed": 0, "count": 1,
}  # fmt: skip


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"targets": ["yaw"], "yaw": 400}, "90"),
        ({"sigma": -1}, "0"),
        ({"count": 10**6}, "8"),
        ({"row": 200}, "Person: a whole number from 0 to 199, not 200."),
        ({"share": 0.5, "second": -1}, "Person: a whole number from 0 to 199, not -1."),
        ({"targets": ["age"]}, "age"),
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


def test_the_end_is_one_line_and_leaves_nothing_behind(tmp_path):
    server = PageServer(tmp_path)
    server.ask("make", values_of())
    assert any(server.temporary.glob("vec2face-page-*"))
    assert server.stop() == 130
    assert server.printed().splitlines()[-1] == "stopped: the page is closed."
    assert not any(server.temporary.glob("vec2face-page-*"))
    assert files_of(server.temporary) == files_of(server.home) == {}


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
