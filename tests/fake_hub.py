"""A Hugging Face Hub on this machine that the library's real client can create repositories on and upload to."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TOKEN = "hf_right"
LARGE = (".jpg", ".tar", ".parquet")  # stored as LFS objects
COMMIT = "a" * 40


class FakeHub:
    """What the Hub holds, and how it behaves.

    ``repositories``: {OWNER/NAME: {path: content}}; ``private``: names; ``objects``: {SHA-256: content} of LFS objects;
    ``sent``: SHA-256 of each object in the order of their arrival; ``commits``: the paths of each commit;
    ``commits_left``: how many more commits are accepted, None for any number; ``hold_after``: number of objects after
    which uploads wait, None for never; ``held``: set when one waits.
    """

    def __init__(self):
        self.repositories, self.private, self.objects = {}, set(), {}
        self.sent, self.commits = [], []
        self.commits_left = self.hold_after = None
        self.held, self.released, self.lock = threading.Event(), threading.Event(), threading.Lock()
        self.url = ""


@contextmanager
def serving():
    """A FakeHub that answers at its ``url`` until the end of the block."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_POST(self):
        path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/validate-yaml":
            known = re.search(r"^license: (cc-by-nc-4.0|mit|other)$", json.loads(body)["content"], re.M)
            errors = [] if known else [{"message": '"license" must be one of'}]
            self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif self.is_refused():
            return
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self.answer({"transfer": "basic", "objects": [self.action(item) for item in json.loads(body)["objects"]]})
        elif "/preupload/" in path:
            files = [
                {"path": name, "uploadMode": "lfs" if name.endswith(LARGE) else "regular", "shouldIgnore": False}
                for name in (file["path"] for file in json.loads(body)["files"])
            ]
            self.answer({"files": files})
        elif "/commit/" in path:
            self.commit(self.repository(path), [json.loads(line) for line in body.splitlines()])
        else:
            self.answer({"error": path}, 404)

    def is_refused(self):
        """Answer a request that has not the right token, as the Hub does; whether that was so."""
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return False
        self.answer({"error": "refused"}, 401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        return True

    def create(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.hub.repositories:
            there = {"error": "You already created this dataset repo", "url": f"{self.hub.url}/datasets/{name}"}
            self.answer(there, 409)
            return
        self.hub.repositories[name] = {".gitattributes": b"*.jpg filter=lfs\n"}
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(name)
        self.answer({"url": f"{self.hub.url}/datasets/{name}"})

    def action(self, wanted):
        actions = {"upload": {"href": f"{self.hub.url}/objects/{wanted['oid']}"}}
        return wanted | ({} if wanted["oid"] in self.hub.objects else {"actions": actions})

    def commit(self, name, lines):
        if self.hub.commits_left == 0:
            self.answer({"error": "Too many commits."}, 400)
            return
        if self.hub.commits_left is not None:
            self.hub.commits_left -= 1
        files = self.hub.repositories[name]
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                del files[value["path"]]
        self.hub.commits.append([line["value"]["path"] for line in lines[1:]])
        self.answer({"commitUrl": f"{self.hub.url}/datasets/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_PUT(self):
        length = int(self.headers.get("Content-Length", 0))
        data = self.rfile.read(length) if length else self.read_chunks()
        with self.hub.lock:
            waits = self.hub.hold_after is not None and len(self.hub.sent) >= self.hub.hold_after
            if not waits:
                self.hub.sent.append(hashlib.sha256(data).hexdigest())
                self.hub.objects[self.hub.sent[-1]] = data
        if waits:
            self.hub.held.set()
            self.hub.released.wait()
            return
        self.answer({})

    def read_chunks(self):
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path
        if self.is_refused():
            return
        if "/resolve/main/" in path:
            name, file = path.removeprefix("/datasets/").split("/resolve/main/")
            content = self.hub.repositories[name][file]
            self.answer(content, headers={"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        elif "/tree/" in path:
            self.answer([entry(name, data) for name, data in self.hub.repositories[self.repository(path)].items()])
        else:
            name = self.repository(path)
            self.answer({"id": name, "sha": COMMIT, "private": name in self.hub.private, "tags": [], "siblings": []})

    def repository(self, path):
        return "/".join(path.removeprefix("/api/datasets/").split("/")[:2])

    def answer(self, content, status=200, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def entry(name, data):
    """A file in a listing: large ones with their SHA-256, others with the hash that git gives them."""
    listed = {"type": "file", "path": name, "size": len(data)}
    if name.endswith(LARGE):
        large = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return listed | {"oid": "0" * 40, "lfs": large}
    return listed | {"oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
