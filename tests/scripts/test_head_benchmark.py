"""scripts/head_benchmark.py at toy size."""

from commands import run

from scripts import head_benchmark


def test_it_measures_each_form_of_a_head_at_each_number_of_identities(capsys):
    words = ["--classes", 50, 60, "--batch_size", 4, "--steps", 1, "--head", "adaface", "--device", "cpu"]
    run(head_benchmark.main, *words)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[:2] for row in rows] == [[n, form] for n in ("50", "60") for form in head_benchmark.FORMS]
