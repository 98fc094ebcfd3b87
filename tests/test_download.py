"""The real download code against a small Hub on this machine."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from paths import ROOT

import download_vec2face_weights as download


def served_files():
    """{path on the Hub: content} of everything the script may ask for."""
    for group in download.GROUPS.values():
        prefix = "/datasets" if group.repository_type == "dataset" else ""
        for file in group.files:
            yield f"{prefix}/{group.repository}/resolve/main/{file}", file.encode() * 9


FILES = dict(served_files())


class Hub(BaseHTTPRequestHandler):
    """Serves FILES as the Hub does: HEAD with ETag and commit, GET with the content."""

    fetched: list  # set on a subclass for every test
    missing: set

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        content = FILES.get(self.path)
        if content is None or self.path.rsplit("/", 1)[-1] in self.missing:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.fetched.append(self.path)
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    handler = type("ThisHub", (Hub,), {"fetched": [], "missing": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    thread.join()


def run(url, folder, *flags):
    environment = os.environ | {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "home")}
    command = [sys.executable, "download_vec2face_weights.py", "--output_dir", str(folder / "files"), *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_fetches_what_generation_needs_and_nothing_twice(hub, tmp_path):
    result = run(hub.url, tmp_path)
    assert result.returncode == 0, result.stderr
    for file in download.GROUPS["generation"].files:
        assert (tmp_path / "files" / file).read_bytes() == file.encode() * 9
    assert len(hub.fetched) == len(download.GROUPS["generation"].files)
    assert run(hub.url, tmp_path).returncode == 0
    assert len(hub.fetched) == len(download.GROUPS["generation"].files)


def test_a_damaged_file_of_a_dataset_repository_is_fetched_again(hub, tmp_path):
    target = tmp_path / "files" / "HSFaces" / "hsface10k.lmdb"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"half")
    result = run(hub.url, tmp_path, "--what", "hsface", "fr")
    assert result.returncode == 0, result.stderr
    assert target.read_bytes() == b"HSFaces/hsface10k.lmdb" * 9
    assert (tmp_path / "files" / "fr_weights" / "hsface300k.pth").exists()


def test_the_files_of_vec2face_plus_come_from_its_own_repository(hub, tmp_path):
    result = run(hub.url, tmp_path, "--what", "vec2face_plus", "vface")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "files" / "vec2face_plus" / "pose_model.pth").exists()
    assert (tmp_path / "files" / "VFaces" / "vface100k.lmdb").exists()
    assert all(path.startswith("/BooBooWu/Vec2Face_plus/") for path in hub.fetched)
    assert len(hub.fetched) == 9


def test_one_missing_file_does_not_keep_the_others(hub, tmp_path):
    hub.missing.add("magface-r100-glint360k.pth")
    result = run(hub.url, tmp_path)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if "by hand" in line]
    assert line.startswith("weights/magface-r100-glint360k.pth: ")
    assert f"{hub.url}/BooBooWu/Vec2Face/resolve/main/weights/magface-r100-glint360k.pth" in line
    assert str(tmp_path / "files" / "weights" / "magface-r100-glint360k.pth") in line
    assert (tmp_path / "files" / "center_feature_examples.npy").exists()
    assert "Traceback" not in result.stderr


def test_without_a_hub_every_missing_file_is_named_with_where_to_fetch_it_by_hand(tmp_path):
    there = tmp_path / "files" / "weights" / "vec2face_generator.pth"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"put there by hand")
    result = run("http://127.0.0.1:9", tmp_path)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if "by hand" in line]
    assert len(lines) == len(download.GROUPS["generation"].files) - 1
    assert there.read_bytes() == b"put there by hand"
    assert all("cannot be reached" in line for line in lines)
    assert "Traceback" not in result.stderr


def test_the_list_names_every_group_of_files(capsys):
    download.main(["--list"])
    out = capsys.readouterr().out
    for name, group in download.GROUPS.items():
        assert f"{name}: {group.purpose}" in out
        assert all(file in out for file in group.files)
