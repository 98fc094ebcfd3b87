"""scripts/gpu_check.py on a machine without a GPU: the checks on the CPU, and what happens when they fail."""

import json
import signal
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from failing_checks import beyond_its_limit, crashing, good, hanging, raising, refused
from paths import DEMO, PHOTOS
from processes import Script

from scripts import gpu_check
from scripts.gpu_check import Check, run_checks
from scripts.gpu_checks.datasets import NAME, described, difference
from scripts.gpu_checks.decoding import compared
from scripts.gpu_checks.host_waits import SYNCHRONISED, host_waits
from scripts.gpu_checks.isolation import CheckError
from scripts.gpu_checks.memory import largest_batch
from scripts.gpu_checks.processes import kill_script
from scripts.gpu_checks.resuming import weights_row
from scripts.gpu_checks.rows import FAILED, PASSED
from scripts.gpu_checks.setting import Setting
from scripts.gpu_checks.training import losses, waits_a_step


@pytest.fixture
def setting(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return Setting("cpu", True, folder, time.monotonic() + 100)


def report(folder):
    content = json.loads((folder / "gpu_check.json").read_text())
    return content, {f"{row['check']}: {row['item']}": row for row in content["rows"]}


def results(folder):
    return {row["check"]: row["result"] for row in report(folder)[1].values()}


def has_ended(pid, seconds=10):
    """Whether a process ends within some seconds; one that has ended may wait for its new parent to ask for it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_a_check_that_fails_crashes_or_hangs_does_not_end_the_others(setting, tmp_path, capsys):
    checks = [
        Check("limit", beyond_its_limit, 60), Check("raising", raising, 60), Check("crashing", crashing, 60),
        Check("hanging", hanging, 2), Check("refused", refused, 60), Check("good", good, 60),
    ]  # fmt: skip
    assert run_checks(checks, setting, tmp_path) == 1
    content, rows = report(tmp_path)
    assert content["finished"]
    assert rows["limit: number"]["result"] == FAILED
    assert rows["raising: "]["figure"] == "ValueError: no such kernel"
    assert "printed before it failed" in content["printed_by_failed_checks"]["raising"]
    assert rows["crashing: "]["figure"] == "its process ended by itself: SIGSEGV"
    assert rows["crashing: before"]["figure"] == "still there"
    assert rows["hanging: "]["figure"] == "did not end within 2 s"
    assert has_ended(int(rows["hanging: pid"]["figure"]))
    assert rows["refused: "]["figure"].startswith("scripts/inspect_dataset.py: error: nowhere")
    assert rows["good: number"] == {
        "check": "good", "item": "number", "result": PASSED, "figure": "1", "limit": "at most 2",
        "values": {"number": 1},
    }  # fmt: skip
    printed, table = capsys.readouterr().out, (tmp_path / "gpu_check.md").read_text()
    assert "[6/6] good ... 1 passed" in printed
    assert table in printed
    assert "| good: number | passed | 1 | at most 2 |" in table


def test_checks_after_the_time_is_up_are_skipped_and_nothing_failed(setting, tmp_path):
    late = Setting("cpu", True, setting.folder, time.monotonic() - 1)
    assert run_checks([Check("good", good, 60)], late, tmp_path) == 0
    assert "no time left" in report(tmp_path)[1]["good: "]["figure"]


def test_without_a_gpu_it_says_so_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--output_dir", str(tmp_path)])
    assert ended.value.code == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("no CUDA device: nothing to check")
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_tables_of_an_earlier_run_stay_unless_asked(tmp_path, capsys):
    (tmp_path / "gpu_check.md").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--device", "cpu", "--output_dir", str(tmp_path)])
    assert ended.value.code == 2
    assert "gpu_check.md: exists already; give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "gpu_check.md").read_text() == "mine"


def test_ctrl_c_leaves_the_table_of_what_is_done(tmp_path):
    words = ["--device", "cpu", "--quick", "--checks", "memory", "speed", "--output_dir", tmp_path]
    process = Script("scripts/gpu_check.py", *words)
    process.wait_until(lambda: "[2/2]" in process.printed())
    process.signal(signal.SIGINT, group=True)
    result = process.wait()
    assert result.returncode == 130
    assert "Traceback" not in result.stderr
    assert "| memory: largest batch | skipped |" in result.stdout
    assert not report(tmp_path)[0]["finished"]
    assert results(tmp_path)["memory"] == "skipped"


def run_on_cpu(folder, *checks):
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--device", "cpu", "--quick", "--checks", *checks, "--output_dir", str(folder)])
    return ended.value.code


@pytest.mark.slow
def test_models_agree_with_themselves_on_the_cpu(tmp_path):
    assert run_on_cpu(tmp_path, "decoding", "attrop") == 0
    content, rows = report(tmp_path)
    assert rows["decoding: demo weights, fp32 against the CPU's float32"]["values"]["largest"] == 0
    assert rows["attrop: gradient, fp32 against the CPU's float32"]["values"]["lowest_cosine"] > 0.9999
    assert rows["attrop: accepted vectors of 3, fp32"]["values"]["on_cpu"] > 0
    assert {"device", "torch", "date"} <= content["machine"].keys()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_check_passes_on_the_cpu(tmp_path):
    names = [check.name for check in gpu_check.CHECKS if check.name not in ("decoding", "attrop")]
    assert run_on_cpu(tmp_path, *names) == 0
    rows = report(tmp_path)[1]
    assert rows["resumed-training: weights of a training killed and resumed"]["figure"] == "bitwise equal"
    assert rows["ranks: 2 processes equal one, moments of Adam"]["values"]["difference"] < 1e-3
    assert all(row["values"]["unequal"] == 0 for name, row in rows.items() if name.startswith("identical"))
    assert sum("images/s" in row["figure"] for row in rows.values()) == 5


def test_images_beyond_the_limit_or_not_finite_fail():
    expected = torch.rand(2, 3, 4, 4)
    for change, result in ((0, PASSED), (0.03, PASSED), (0.1, FAILED), (float("nan"), FAILED)):
        images = expected.clone()
        images[0, 0, 0, 0] += change  # 0.1 is 12.75 grey levels
        assert compared("images", images, expected, "fp16").result == result, change


def test_a_loss_that_is_not_finite_rises_or_lies_elsewhere_than_the_cpus_fails():
    def result(first, second, expected=0.2, **more):
        lines = ({"pixel": first}, {"pixel": second, "discriminator": 0.5} | more)
        return losses("fp16", *lines, expected).result

    assert result(0.4, 0.2) == PASSED
    assert result(0.4, 0.2, identity=float("nan")) == FAILED
    assert result(0.2, 0.21) == FAILED
    assert result(0.4, 0.3) == FAILED


def test_a_resumed_training_may_differ_as_much_as_two_that_were_left_alone():
    assert weights_row(0, 0).result == PASSED
    assert weights_row(1e-6, 0).result == FAILED
    assert weights_row(2e-4, 1e-4).result == PASSED
    assert weights_row(5e-4, 1e-4).result == FAILED


def test_waits_are_counted_by_the_line_that_waits():
    """PyTorch warns of each wait on a GPU; here the warning is made by hand."""
    with host_waits() as places, warnings.catch_warnings():
        for _ in range(3):
            warnings.warn(SYNCHRONISED, stacklevel=1)
    assert len(places) == 1
    ((place, count),) = places.items()
    assert place.startswith("tests/scripts/test_gpu_check.py:")
    assert count == 3
    rows = list(waits_a_step("fp16", Counter({place: 30}), 10))
    assert rows[0].result == FAILED
    assert rows[1].figure == f"{place} 3.0"
    assert next(waits_a_step("fp16", Counter({place: 10}), 10)).result == PASSED


def test_other_images_of_a_dataset_are_found(tmp_path):
    one, two = (tmp_path / name / NAME / "000000" for name in ("one", "two"))
    photos = sorted((PHOTOS / "person1").glob("*.jpg"))
    for folder, chosen in ((one, photos), (two, [photos[0], photos[2], photos[2]])):
        folder.mkdir(parents=True)
        for number, photo in enumerate(chosen):
            (folder / f"{number}.jpg").write_bytes(photo.read_bytes())
    (two / "3.jpg").write_bytes(photos[0].read_bytes())
    missing, unequal, largest = difference(tmp_path / "one", tmp_path / "two")
    assert (missing, unequal) == (["000000/3.jpg"], 1)
    assert largest > 10
    assert described(unequal, 3, largest).startswith("no: 1 of 3 differ")


def test_the_largest_batch_is_found_and_other_errors_are_told():
    def memory_of(limit, error):
        def use(size):
            if size > limit:
                raise error
            return 10 * size

        return use

    full = torch.OutOfMemoryError("CUDA out of memory")
    assert largest_batch(memory_of(5, full)) == ((4, 40), "")
    assert largest_batch(memory_of(0, full)) == (None, "")
    assert largest_batch(memory_of(99, full), largest=8) == ((8, 80), "")
    assert largest_batch(memory_of(2, RuntimeError("cuDNN: no\nmore"))) == ((2, 20), "batch 4: cuDNN: no")


def test_a_script_that_ends_before_it_is_killed_is_told(tmp_path):
    words = [DEMO / "vec2face_generator.pth", tmp_path / "shrunk.pth"]
    with pytest.raises(CheckError, match="ended before it could be killed"):
        kill_script("scripts/shrink_weights.py", *words, log=tmp_path / "log", when=lambda: False)
