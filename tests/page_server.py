"""A page that is served by a process of its own, and a browser to look at it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from paths import ROOT, Demo

BROWSERS, DRIVERS = ("chromium", "google-chrome", "chromium-browser"), ("chromedriver",)
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1320,1400")


class PageServer:
    """``scripts/web_page.py`` with the demo models, in an empty folder ``home``, with temporary files in ``temporary``.

    Its port is taken, so that it finds the next free one; and its proxy does not answer, as it needs none.
    """

    def __init__(self, folder):
        self.home, self.temporary, self.log = folder / "home", folder / "temporary", folder / "log"
        for path in (self.home, self.temporary):
            path.mkdir()
        flags = [*Demo.models, "--quality_weights", Demo.encoder, "--pose_weights", Demo.pose]
        flags += ["--center_feature", Demo.vectors]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(self.home), "TMPDIR": str(self.temporary)}
        environment |= {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "http_proxy")}
        with socket.create_server(("127.0.0.1", 0)) as taken, self.log.open("w") as log:
            self.wanted_port = taken.getsockname()[1]
            words = [sys.executable, "-u", ROOT / "scripts" / "web_page.py", *flags, "--port", self.wanted_port]
            self.process = subprocess.Popen(
                list(map(str, words)), cwd=self.home, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            while "(Ctrl-C ends it)" not in self.printed():
                assert self.process.poll() is None, self.printed()
                time.sleep(0.05)
        self.url = self.printed().split("page: ")[1].split()[0]

    def printed(self):
        """What it has printed by now."""
        return self.log.read_text()

    def stop(self):
        """End it as Ctrl-C does; its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=120)

    def ask(self, name, *requests, session="one"):
        """Ask a function of the page for each list of values, all at once and as one session.

        [(whether it succeeded, what it returned or why it did not)], in the order of ``requests``.
        """
        with self.open("config") as answer:
            functions = {function["api_name"]: function["id"] for function in json.load(answer)["dependencies"]}
        asked = {}
        for number, values in enumerate(requests):
            request = {"data": values, "fn_index": functions[name], "session_hash": session}
            with self.open("gradio_api/queue/join", json.dumps(request).encode()) as answer:
                asked[json.load(answer)["event_id"]] = number
        found = {}
        with self.open(f"gradio_api/queue/data?session_hash={session}") as answer:
            while len(found) < len(asked):
                message = json.loads(answer.readline().removeprefix(b"data: ").strip() or "{}")
                if message.get("msg") == "process_completed":
                    output = message["output"]
                    found[asked[message["event_id"]]] = (message["success"], output.get("data", output.get("error")))
        return [found[number] for number in range(len(requests))]

    def open(self, path, body=None, kind="application/json"):
        """The answer to a request. ``kind``: content type of the ``body``."""
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind})
        return urllib.request.urlopen(request, timeout=120)


def find_browser():
    """Paths of a Chromium and of its driver. Without them a test is skipped; in CI, where both belong, it fails."""
    found = [next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, DRIVERS)]
    if not all(found):
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say("tests of the page need Chromium and chromedriver: apt-get install chromium chromium-driver")
    return found


@contextmanager
def browser(downloads):
    """A Chromium that saves files in ``downloads``."""
    binary, driver = find_browser()
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for option in OPTIONS:
        options.add_argument(option)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


class Tab:
    """One tab of a browser, with the page in it. Elements are named by CSS selectors."""

    def __init__(self, chrome, url, seconds=120):
        self.chrome, self.seconds = chrome, seconds
        chrome.switch_to.new_window("tab")
        self.handle = chrome.current_window_handle
        chrome.get(url)
        self.wait_for(lambda: "images in" in self.text("#status"))

    def all(self, selector):
        self.chrome.switch_to.window(self.handle)
        return self.chrome.find_elements("css selector", selector)

    def text(self, selector):
        return "\n".join(element.text for element in self.all(selector))

    def wait_for(self, condition):
        """Wait until ``condition()`` holds; elements may be replaced meanwhile."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + self.seconds
        while True:
            try:
                if found := condition():
                    return found
            except WebDriverException as error:
                if time.monotonic() > end:
                    raise AssertionError(f"never came true; the page says:\n{self.text('body')}") from error
            assert time.monotonic() < end, f"never came true; the page says:\n{self.text('body')}"
            time.sleep(0.1)

    def click(self, selector, number=0):
        """Click on an element as soon as it is there."""

        def done():
            element = self.all(selector)[number:][:1]
            if element:
                element[0].click()
            return bool(element)

        self.wait_for(done)

    def enter(self, selector, value):
        """Enter a number into a field."""
        self.wait_for(lambda: self.all(selector) and self.all(selector)[0].is_displayed())
        (field, *_) = self.all(selector)
        self.chrome.execute_script("arguments[0].select()", field)
        field.send_keys(str(value), "\t")

    def command(self):
        """The command that is shown."""
        lines = "return [...document.querySelectorAll('#command .cm-line')].map(line => line.textContent).join('\\n')"
        self.chrome.switch_to.window(self.handle)
        return self.chrome.execute_script(lines)

    def make(self):
        """Make images that differ from those on the page, and return their command."""
        before = self.command()
        self.click("#make")
        self.wait_for(lambda: self.command() not in (before, ""))
        return self.command()
