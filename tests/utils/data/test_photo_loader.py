"""Photos are read by worker processes, and everything that comes of them stays as it was."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch
from commands import run
from paths import PHOTOS, ROOT, files_of

from models.errors import UserError
from scripts import extract_features, prepare_training_set, test_fr
from utils.data.alignment import FaceAligner
from utils.data.face_set import FaceSet
from utils.data.images import encode_jpeg, read_image
from utils.data.photo_loader import CHUNK, FEW, Unreadable, read_ahead, read_faces
from utils.evaluation.feature_cache import FeatureCache
from utils.evaluation.measured_set import MeasuredSet
from utils.generation.photo_source import CropReader

BROKEN = ("person3/1.jpg", "person1/2.jpg", "person4/0.jpg")


@pytest.fixture
def photos(tmp_path):
    """Nine photos, three of them broken."""
    folder = shutil.copytree(PHOTOS, tmp_path / "photos")
    for name in BROKEN:
        (folder / name).write_bytes((folder / name).read_bytes()[:800])
    return folder


def process_of(item):
    if item % 5 == 3:
        raise ValueError(f"no {item}")
    return item, os.getpid()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_is_kept_and_what_cannot_be_read_is_in_its_place(workers):
    items = list(range(3 * CHUNK + 1))
    read = list(read_ahead(process_of, items, workers))
    assert [item for item, _ in read] == items
    assert [item for item, result in read if isinstance(result, Unreadable)] == [i for i in items if i % 5 == 3]
    assert read[3][1].reason == "no 3"
    assert all(result[0] == item for item, result in read if not isinstance(result, Unreadable))
    here = {result[1] == os.getpid() for _, result in read if not isinstance(result, Unreadable)}
    assert here == {not workers}


def test_few_photos_start_no_processes_and_many_do():
    few, many = ({result[1] for _, result in read_ahead(process_of, [0] * count)} for count in (FEW - 1, FEW))
    assert few == {os.getpid()}
    assert os.getpid() not in many


def threads(item):
    return torch.get_num_threads(), cv2.getNumThreads(), signal.getsignal(signal.SIGINT)


def test_a_worker_has_one_thread_and_leaves_ctrl_c_to_the_script():
    torch.set_num_threads(2)
    try:
        assert {told for _, told in read_ahead(threads, range(4), 1)} == {(1, 1, signal.SIG_IGN)}
    finally:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def touch(path):
    path.touch()


def test_the_next_batch_is_read_while_the_caller_works_on_this_one(tmp_path):
    paths = [tmp_path / str(number) for number in range(20 * CHUNK)]
    photos, batch = read_ahead(touch, paths, 2, ahead=6 * CHUNK), 6 * CHUNK
    for _ in range(batch):
        next(photos)
    deadline = time.monotonic() + 20
    while not all(path.exists() for path in paths[: 2 * batch]) and time.monotonic() < deadline:
        time.sleep(0.01)  # the caller is busy
    assert all(path.exists() for path in paths[: 2 * batch])
    assert not paths[-1].exists()  # not all of a large dataset is held in memory


def test_no_random_number_of_the_process_is_used_up():
    before = torch.get_rng_state()
    list(read_ahead(process_of, range(3), 1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("script", ["features", "training set", "listed training set"])
def test_workers_change_nothing_of_what_is_stored(script, demo, photos, tmp_path, capsys):
    printed, stored = [], []
    for workers in (0, 2):
        folder = tmp_path / f"workers{workers}"
        if script == "listed training set":
            good = [path for path in sorted(photos.rglob("*.jpg")) if str(path.relative_to(photos)) not in BROKEN]
            for number, path in enumerate(good):
                np.save(path.with_suffix(".npy"), np.full(512, number, np.float32))
            lists = {"-im": good, "-f": [path.with_suffix(".npy") for path in good], "-l": range(len(good))}
            words = []
            for flag, lines in lists.items():
                (tmp_path / f"{flag}.txt").write_text("".join(f"{line}\n" for line in lines))
                words += [flag, tmp_path / f"{flag}.txt"]
            run(prepare_training_set.main, *words, "-d", folder, "-n", "x", "-w", workers)
        else:
            main = extract_features.main if script == "features" else prepare_training_set.main
            name = [] if script == "features" else ["-n", "x"]
            run(main, "--images", photos, "--encoder", demo.encoder, "-d", folder, *name, "--workers", workers,
                "--device", "cpu", "--batch_size", "4")  # fmt: skip
        printed.append(capsys.readouterr().out.replace(str(folder), "folder"))
        stored.append(files_of(folder) if script == "features" else records(folder / "x.lmdb"))
    assert printed[0] == printed[1]
    assert stored[0] == stored[1]
    if script != "listed training set":
        skipped = [line.split(":")[0] for line in printed[1].splitlines() if line.startswith("skipped")]
        assert skipped == [f"skipped {photos / name}" for name in sorted(BROKEN)]


def records(path):
    with lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False) as env, env.begin() as transaction:
        return dict(transaction.cursor())


def test_a_broken_photo_of_a_list_ends_the_run_with_its_name(photos, tmp_path, capsys):
    names = sorted(photos.rglob("*.jpg"))
    for flag, lines in (("im", names), ("f", names), ("l", range(9))):
        (tmp_path / f"{flag}.txt").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(SystemExit):
        run(prepare_training_set.main, "-im", tmp_path / "im.txt", "-f", tmp_path / "f.txt", "-l", tmp_path / "l.txt",
            "-d", tmp_path, "-n", "x", "-w", 1)  # fmt: skip
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {photos / 'person1' / '0.jpg'}: cannot be read: ")  # a JPEG is no feature


@pytest.mark.parametrize("kind", ["folder", "LMDB"])
def test_measured_features_are_the_same_with_workers(kind, demo, photos, encoder, tmp_path):
    if kind == "LMDB":  # with a record that is no image
        run(prepare_training_set.main, "--images", PHOTOS, "--encoder", demo.encoder, "-d", tmp_path, "-n", "x")
        photos = tmp_path / "x.lmdb"
        with lmdb.open(str(photos), subdir=photos.is_dir()) as env, env.begin(write=True) as transaction:
            record = transaction.get(b"4")
            transaction.put(b"4", record.replace(b"\xff\xd8\xff", b"\x00\x00\x00", 1))
    caches = []
    for workers in (0, 2):
        faces = FaceSet(photos)
        faces.image(0)  # as when a report shows some of them: an LMDB is open now
        caches.append(FeatureCache(tmp_path / f"cache{workers}", faces, encoder, "hash", "fp32").fill(4, workers))
        faces.close()
    assert len(caches[0].indices) == {"folder": 6, "LMDB": 8}[kind]
    assert np.array_equal(caches[0].indices, caches[1].indices)
    assert np.array_equal(caches[0].values, caches[1].values)


def test_what_a_model_says_of_measured_images_is_the_same_with_workers(encoder, photos, tmp_path):
    outputs = []
    for workers in (0, 2):
        data = MeasuredSet(FaceSet(photos), tmp_path / str(workers), encoder, "hash", "fp32", 4, workers)
        outputs.append(data.outputs(encoder, np.array([1, 3, 4, 5, 0]), 2, "x"))
        assert np.allclose(outputs[-1].numpy(), data.features[[1, 3, 4, 5, 0]], atol=1e-4)
    assert torch.equal(*outputs)
    data.faces.store.paths[0].write_text("spoilt meanwhile")
    with pytest.raises(UserError, match=r"person1/0.jpg: not an image, or damaged; it could be read"):
        data.outputs(encoder, np.array([1, 0]), 2, "x")


def test_verification_pairs_are_the_same_with_workers_and_a_broken_photo_is_named(demo, photos, tmp_path, capsys):
    words = ("--weights", demo.encoder, "--pair_count", 16, "--device", "cpu", "--pairs")
    for workers in (0, 2):
        run(test_fr.main, *words, PHOTOS, "--workers", workers, "--output", tmp_path / f"{workers}.json")
    assert (tmp_path / "0.json").read_text() == (tmp_path / "2.json").read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(test_fr.main, *words, photos, "--workers", 2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert any(error.startswith(f"error: {photos / name}: cannot be used: truncated JPEG") for name in BROKEN)


def test_faces_are_aligned_by_workers_as_in_the_script_itself(tmp_path):
    photo = read_image(PHOTOS / "person1" / "0.jpg")
    matrix = cv2.getRotationMatrix2D((56, 56), 20, 2.2)
    matrix[:, 2] += (150, 120)
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(cv2.warpAffine(photo, matrix, (420, 400)), 95))
    (tmp_path / "b.jpg").write_bytes(encode_jpeg(np.full((300, 300, 3), 90, np.uint8), 95))
    paths, read = [tmp_path / "a.jpg", tmp_path / "b.jpg"], CropReader(FaceAligner())
    ((_, here), (_, no_face)), ((_, there), (_, none_there)) = (
        list(read_ahead(read, paths, workers)) for workers in (0, 1)
    )
    assert np.array_equal(here.image, there.image)
    assert no_face == none_there == Unreadable("no face found")


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_ctrl_c_ends_the_script_and_its_workers_with_one_line(demo, tmp_path):
    for number in range(600):
        (tmp_path / "many" / str(number)).mkdir(parents=True)
        os.link(PHOTOS / "person1" / "0.jpg", tmp_path / "many" / str(number) / "0.jpg")
    words = [
        "scripts/extract_features.py", "--images", tmp_path / "many", "--encoder", demo.encoder, "-d",
        tmp_path / "features", "--device", "cpu", "--workers", "2", "--batch_size", "4",
    ]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as script:  # Python itself, as it ends its own children when it ends
        while script.poll() is None and not list(tmp_path.glob("features/*/*.npy")):
            time.sleep(0.01)
        children = Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text().split()
        os.killpg(script.pid, signal.SIGINT)
        error = script.communicate()[1]
    assert script.returncode == 130
    assert error.replace("\r", "\n").splitlines()[-1].startswith("stopped. What is finished stays")
    assert "Traceback" not in error
    assert len(children) == 2
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_a_photo_that_is_missing_is_told_in_plain_words(demo, tmp_path, capsys):
    (tmp_path / "list.txt").write_text(f"{PHOTOS / 'person1' / '0.jpg'}\nmissing.jpg\n")
    run(extract_features.main, "--images", tmp_path / "list.txt", "--encoder", demo.encoder, "-d", tmp_path / "out")
    assert f"skipped {tmp_path / 'missing.jpg'}: No such file or directory\n" in capsys.readouterr().out


def test_read_faces_of_an_lmdb_that_is_open_already(demo, tmp_path):
    run(prepare_training_set.main, "--images", PHOTOS, "--encoder", demo.encoder, "-d", tmp_path, "-n", "x")
    faces = FaceSet(tmp_path / "x.lmdb")
    first = faces.image(0)
    images = dict(read_faces(faces, [8, 0, 8], 2))
    assert list(images) == [8, 0]
    assert np.array_equal(images[0], first)
