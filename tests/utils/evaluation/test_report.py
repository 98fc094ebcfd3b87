"""The page of a report."""

import subprocess
import sys

from paths import ROOT

IN_A_NOTEBOOK = """
import matplotlib
matplotlib.use("svg")  # as a notebook chooses its own
from utils.evaluation.report import Report
report = Report("title")
report.chart(lambda axes: axes.plot([0, 1]), "a line")
assert 'alt="a line" src="data:image/png' in report.html()
print(matplotlib.get_backend())
"""


def test_a_chart_leaves_the_backend_of_matplotlib_as_it_is():
    """In a notebook, another one would keep figures from being shown."""
    command = [sys.executable, "-c", IN_A_NOTEBOOK]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "svg\n"
