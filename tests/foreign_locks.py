"""Locks as processes on other machines hold them."""

import json
import os
import time

from utils.runtime.locks import read_holder


def make_foreign(path, age=0.0, **changes):
    """Make a lock file look like that of a process on another machine, last touched ``age`` seconds ago."""
    holder = read_holder(path)._replace(host="node7", machine="another boot", **changes)
    path.write_text(json.dumps(holder._asdict()))
    os.utime(path, (time.time() - age, time.time() - age))
