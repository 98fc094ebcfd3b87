"""Training LMDBs: their layout, preparation, order of records, augmentation and errors."""

import io
import shutil
from contextlib import closing

import cv2
import msgpack
import numpy as np
import pytest
import torch
from paths import PHOTOS
from torch.utils.data import DataLoader
from training_lmdbs import content, prepare, write_lmdb

from models.errors import UserError
from models.pixels import to_images
from scripts import prepare_training_set
from utils.data.alignment import FaceAligner
from utils.data.images import encode_jpeg, read_image, resize
from utils.data.loader import EpochBatches, drop_broken, make_loader
from utils.data.training_data import AUGMENTATIONS, TrainingData, TrainingItem, augment
from utils.data.training_lmdb import ENCODER, NAME, TrainingLmdbWriter, photo_names


def test_the_lmdb_has_the_released_layout(training_lmdb, encoder):
    records = content(training_lmdb)
    assert msgpack.unpackb(records[b"__len__"]) == 9
    assert msgpack.unpackb(records[b"__classnum__"]) == 3
    assert msgpack.unpackb(records[b"__keys__"]) == [str(i).encode() for i in range(9)]
    image, feature, label = msgpack.unpackb(records[b"4"])
    assert image == (PHOTOS / "person3" / "1.jpg").read_bytes()  # already 112x112: stored as it is
    assert label == 1
    assert feature[:6] == b"\x93NUMPY"


def test_every_record_keeps_the_name_of_its_photo(training_lmdb):
    photos = sorted(PHOTOS.rglob("*.jpg"))
    assert photo_names(training_lmdb) == [f"{photo.parent.name}/{photo.name}" for photo in photos]


def test_an_item_has_the_photo_and_its_feature(training_lmdb, encoder):
    with closing(TrainingData(training_lmdb)) as data:
        pixels, feature, position, error = data[0, 4]
    assert (feature.shape, position, error) == ((512,), 4, "")
    assert torch.equal(pixels, torch.from_numpy(read_image(PHOTOS / "person3" / "1.jpg")))
    with torch.no_grad():
        assert torch.allclose(encoder(to_images(pixels[None]))[0], feature, atol=1e-2)


def test_the_published_lists_give_the_same_records_as_a_folder(demo, training_lmdb, tmp_path):
    """The published form, from lists in any order, gives the same records as the folder form."""
    data = TrainingData(training_lmdb)
    photos = sorted(PHOTOS.rglob("*.jpg"))
    for number in range(9):
        np.save(tmp_path / f"{number}.npy", data[0, number][1].numpy())
    data.close()
    (tmp_path / "images.txt").write_text("\n".join(map(str, reversed(photos))))
    (tmp_path / "features.txt").write_text("\n".join(str(tmp_path / f"{n}.npy") for n in (3, 1, 2, 0, 8, 7, 6, 5, 4)))
    (tmp_path / "labels.txt").write_text("\n".join("000111222"))
    lists = ["-im", tmp_path / "images.txt", "-f", tmp_path / "features.txt", "-l", tmp_path / "labels.txt"]
    prepare_training_set.main([str(flag) for flag in [*lists, "-d", tmp_path, "-n", "faces"]])
    assert without_names(content(tmp_path / "faces.lmdb")) == without_names(content(training_lmdb))
    assert photo_names(tmp_path / "faces.lmdb") == [str(photo) for photo in photos]


def without_names(records):
    """The published records alone: not the photos' names, nor the encoder, which lists of features do not say."""
    return {key: value for key, value in records.items() if not key.startswith((NAME, ENCODER))}


def test_a_killed_preparation_goes_on_to_the_same_lmdb(demo, training_lmdb, tmp_path):
    data = content(training_lmdb)
    writer = TrainingLmdbWriter(tmp_path / "faces.lmdb", data[b"__source__"])
    for number in range(4):
        image, feature, label = msgpack.unpackb(data[str(number).encode()])
        writer.add(number, data[NAME + str(number).encode()].decode(), image, np.load(io.BytesIO(feature)), label)
    writer.flush()
    writer.lmdb.close()
    prepare(demo, PHOTOS, tmp_path)
    assert content(tmp_path / "faces.lmdb") == data
    prepare(demo, PHOTOS, tmp_path)
    assert content(tmp_path / "faces.lmdb") == data


def test_a_training_lmdb_is_not_continued_with_another_encoder(tmp_path):
    """Its encoder's hash is kept in it, and known to whoever trains on it."""
    writer = TrainingLmdbWriter(tmp_path / "faces.lmdb", b"photos", encoder="a" * 64)
    writer.add(0, "one.jpg", (PHOTOS / "person1" / "0.jpg").read_bytes(), np.ones(512), 0)
    writer.close(1)
    with pytest.raises(UserError, match="was begun with another face encoder"):
        TrainingLmdbWriter(tmp_path / "faces.lmdb", b"photos", encoder="b" * 64)
    with closing(TrainingData(tmp_path / "faces.lmdb")) as data:
        assert data.encoder == "a" * 64


def test_other_photos_into_a_begun_lmdb_are_refused(demo, training_lmdb, tmp_path, capsys):
    shutil.copy(training_lmdb, tmp_path)
    with pytest.raises(SystemExit):
        prepare(demo, PHOTOS / "person3", tmp_path)
    assert "was begun with other photos" in capsys.readouterr().err
    assert content(tmp_path / "faces.lmdb") == content(training_lmdb)


def test_every_record_once_an_epoch_on_any_number_of_ranks():
    for world in (1, 2, 3):
        batches = [list(EpochBatches(31, 3, 5, rank, world)) for rank in range(world)]
        assert len({len(batch) for batch in batches}) == 1
        seen = [item for rank in batches for batch in rank for item in batch]
        assert len(seen) == len(set(seen)) == 31 // (3 * world) * 3 * world


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    batches, other = EpochBatches(31, 3, seed=5), EpochBatches(31, 3, seed=6)
    orders = []
    for epoch in range(2):
        for sampler in (batches, other):
            sampler.begin(epoch)
            orders.append([index for batch in sampler for _, index in batch])
            assert {epoch for batch in sampler for epoch, _ in batch} == {epoch}
    assert len(set(map(tuple, orders))) == 4


def test_the_order_is_that_of_earlier_versions():
    """A run that an earlier version began goes on with the photos that it has not seen in the epoch."""
    batches = EpochBatches(23, 3, seed=3, rank=1, world_size=2)
    batches.begin(4)
    expected = [[12, 8, 4], [5, 15, 16], [2, 1, 6]]
    assert list(batches) == [[(4, index) for index in batch] for batch in expected]


def test_a_resumed_epoch_has_the_rest_of_its_batches():
    batches = EpochBatches(31, 3, 0)
    batches.begin(2)
    whole = list(batches)
    batches.begin(2, 4, 8)
    assert len(batches) == 4
    assert list(batches) == whole[4:8]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_loader_gives_epoch_after_epoch_with_the_same_workers(training_lmdb, workers):
    batches = EpochBatches(9, 3, 0)
    with closing(TrainingData(training_lmdb, augmentation="randcrop")) as data:
        loader, processes = make_loader(data, batches, workers, False), set()
        for epoch in range(2):
            batches.begin(epoch, first=epoch)
            given = list(loader)
            expected = [[data[item] for item in batch] for batch in batches]
            for (pixels, _, positions, _), items in zip(given, expected, strict=True):
                assert torch.equal(pixels, torch.stack([item[0] for item in items]))
                assert positions.tolist() == [item[2] for item in items]
            if workers:
                processes |= {worker.pid for worker in loader._iterator._workers}
        assert len(processes) == workers


def test_a_batch_without_broken_records_is_not_copied():
    batch = TrainingItem(torch.zeros(3, 4), torch.zeros(3, 2), torch.arange(3), ("", "", ""))
    assert drop_broken(batch) is batch
    rest = drop_broken(batch._replace(error=("", "broken", "")))
    assert rest.position.tolist() == [0, 2]
    assert len(rest.pixels) == len(rest.error) == 2


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_augmentation_depends_on_the_record_and_epoch_only(training_lmdb, kind):
    with closing(TrainingData(training_lmdb, augmentation=kind, seed=3)) as data:
        batches = EpochBatches(9, 3, 0)
        two, one = (torch.cat([b[0] for b in make_loader(data, batches, workers, False)]) for workers in (2, 0))
        assert torch.equal(one, two)
        assert torch.equal(data[1, 0][0], data[2, 0][0]) == (kind == "noaug")
    assert one.shape == (9, 112, 112, 3)


def test_augment_keeps_the_size():
    image = np.zeros((112, 112, 3), np.uint8)
    for seed in range(20):
        for kind in AUGMENTATIONS:
            assert augment(image, kind, np.random.default_rng(seed)).shape == (112, 112, 3)


def test_broken_records_come_with_the_reason(training_lmdb, tmp_path):
    records = content(training_lmdb)
    image, feature, label = msgpack.unpackb(records[b"2"])
    records[b"2"] = msgpack.packb((image[:700], feature, label))
    records[b"5"] = msgpack.packb((image, feature[:-900], label))
    path = write_lmdb(tmp_path / "x.lmdb", records)
    data = TrainingData(path)
    assert "truncated JPEG" in data[0, 2][3]
    assert "not a training record" in data[0, 5][3]
    assert data[0, 3][3] == ""


def test_lmdbs_of_another_kind_are_refused(training_lmdb, tmp_path):
    records = content(training_lmdb)
    image, _, label = msgpack.unpackb(records[b"0"])
    lying = records | {b"__len__": msgpack.packb(12)}
    images_only = records | {b"0": msgpack.packb((image, label))}
    for name, found, message in (
        ("empty", {}, "an empty LMDB"),
        ("lying", lying, "says it has 12 records, but record 11 is missing"),
        ("images", images_only, "images without features.*prepare_training_set.py"),
    ):
        path = write_lmdb(tmp_path / f"{name}.lmdb", found)
        with pytest.raises(UserError, match=message):
            TrainingData(path)
    with pytest.raises(UserError, match="features have width 512; --rep_dim says 256"):
        TrainingData(training_lmdb, width=256)
    with pytest.raises(UserError, match="no such LMDB"):
        TrainingData(tmp_path / "missing.lmdb")
    (tmp_path / "text.lmdb").write_text("hello" * 5000)
    with pytest.raises(UserError, match="not an LMDB"):
        TrainingData(tmp_path / "text.lmdb")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([0, 9]), "positions 0 to 9; .* has 9 records"),
        (np.array([-1, 2]), "positions -1 to 2"),
        (np.array([0.5]), "whole numbers, this is float64"),
        (np.zeros((2, 2), int), "shape"),
        (np.array([], int), "shape"),
    ],
)
def test_bad_masks_are_refused(training_lmdb, tmp_path, mask, message):
    np.save(tmp_path / "mask.npy", mask)
    with pytest.raises(UserError, match=message):
        TrainingData(training_lmdb, tmp_path / "mask.npy")


def test_a_mask_picks_its_records(training_lmdb, tmp_path):
    np.save(tmp_path / "mask.npy", np.array([7, 2]))
    with closing(TrainingData(training_lmdb, tmp_path / "mask.npy")) as data:
        assert len(data) == 2
        assert data[0, 1][2] == 2


def test_a_raw_photo_is_decoded_and_aligned_once(demo, tmp_path, monkeypatch):
    """The crop that the feature is of is the one that is stored."""
    photo = read_image(PHOTOS / "person1" / "0.jpg")
    matrix = cv2.getRotationMatrix2D((56, 56), 20, 2.2)
    matrix[:, 2] += (150, 120)
    scene = cv2.warpAffine(photo, matrix, (420, 400), borderValue=(120, 120, 120))
    (tmp_path / "raw" / "person1").mkdir(parents=True)
    (tmp_path / "raw" / "person1" / "0.jpg").write_bytes(encode_jpeg(scene, 95))
    aligned, decoded, align, decode = [], [], FaceAligner.__call__, cv2.imdecode
    monkeypatch.setattr(FaceAligner, "__call__", lambda *words: aligned.append(align(*words)) or aligned[-1])
    monkeypatch.setattr(cv2, "imdecode", lambda *words: decoded.append(decode(*words)) or decoded[-1])
    prepare(demo, tmp_path / "raw", tmp_path, "--align")
    assert (len(aligned), len(decoded)) == (1, 1)
    image, _, _ = msgpack.unpackb(content(tmp_path / "faces.lmdb")[b"0"])
    assert image == encode_jpeg(aligned[0], prepare_training_set.JPEG_QUALITY)


def test_a_larger_photo_is_stored_as_it_was_seen(demo, tmp_path):
    photo = read_image(PHOTOS / "person1" / "0.jpg")
    (tmp_path / "large" / "person1").mkdir(parents=True)
    (tmp_path / "large" / "person1" / "0.png").write_bytes(cv2.imencode(".png", cv2.resize(photo, (224, 224)))[1])
    prepare(demo, tmp_path / "large", tmp_path)
    seen = resize(read_image(tmp_path / "large" / "person1" / "0.png"))
    image, _, _ = msgpack.unpackb(content(tmp_path / "faces.lmdb")[b"0"])
    assert image == encode_jpeg(seen, prepare_training_set.JPEG_QUALITY)


def test_workers_that_are_not_forked_read_a_dataset_that_is_open(training_lmdb):
    """Python 3.14 starts them so by default: the dataset is pickled, and an open LMDB cannot be."""
    with closing(TrainingData(training_lmdb)) as data:
        expected = data[0, 4]
        loader = DataLoader(data, batch_sampler=[[(0, 4)]], num_workers=1, multiprocessing_context="forkserver")
        (batch,) = loader
        assert torch.equal(batch[0][0], expected[0])
        assert torch.equal(batch[1][0], expected[1])
        assert torch.equal(data[0, 4][0], expected[0])  # still open here
