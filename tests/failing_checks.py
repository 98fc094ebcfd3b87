"""Checks that fail in every way a check can, for test_gpu_check.py; the processes they run in import them from here."""

import os
import signal
import subprocess
import sys
import time

from scripts.gpu_checks.processes import run_script
from scripts.gpu_checks.rows import judged, measured


def good(setting):
    yield judged("number", True, "1", "at most 2", number=1)


def beyond_its_limit(setting):
    yield judged("number", False, "3", "at most 2", number=3)


def raising(setting):
    yield measured("before", "still there")
    print("printed before it failed")
    raise ValueError("no such kernel\nsecond line")


def crashing(setting):
    yield measured("before", "still there")
    os.kill(os.getpid(), signal.SIGSEGV)


def hanging(setting):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield measured("pid", str(process.pid))
    time.sleep(100)


def refused(setting):
    yield measured("before", "still there")
    run_script("scripts/inspect_dataset.py", "nowhere", log=setting.folder / "log")
