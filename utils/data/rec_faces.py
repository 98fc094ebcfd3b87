"""Photos in an MXNet .rec, the form that InsightFace distributes CASIA-WebFace and MS1M in."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from models.errors import UserError
from utils.data.record_io import HEADER, LENGTH_BITS, WHOLE, RecordReader, RecordWriter, pack, unpack

REC = "train.rec"
HEADER_WORDS = 2 + HEADER.size // 4  # words of a record before its list of labels
LARGEST_LABEL = 1 << 24  # from here on float32 does not have every whole number


class RecFaces:
    """The photos of a .rec, with their labels; a store of FaceSet.

    Where InsightFace's tools have written it, record 0 says which keys are images: the others say which images an
    identity has. In any other .rec, such as im2rec's, every record is an image. The label is the first one of a list.
    Raises UserError when labels are not whole numbers; see also RecordReader.
    """

    def __init__(self, path: Path):
        self.path, self.records, self.soft = path, RecordReader(path), None  # a .rec has no soft labels
        images = self._images()
        self.keys, self.positions = self.records.keys[images], images
        labels = self._labels(images)
        whole = (labels >= 0) & (labels == np.floor(labels)) & (labels < LARGEST_LABEL)
        if not whole.all():
            wrong = np.flatnonzero(~whole)[0]
            raise UserError(f"{path}: record {self.keys[wrong]} has the label {labels[wrong]:g}, no whole number.")
        self.labels = labels.astype(np.int64)  # (N,)
        self.class_count = int(self.labels.max()) + 1 if len(labels) else 0
        self.records.close()

    def _images(self):
        """Positions (N,) of the records that are images."""
        keys = self.records.keys
        if keys[0] == 0:
            header, image = self._unpacked(0)
            if header.is_list and not image:
                return np.flatnonzero((keys > 0) & (keys < header.labels[0]))
        return np.arange(len(keys))

    def _labels(self, images):
        """(N,) float32."""
        words, first = self.records.words(), self.records.places[images] // 4
        lengths, whole = self.records.lengths()[images], words[first + 1] >> LENGTH_BITS == WHOLE
        simple = whole & (lengths >= HEADER.size + 4)  # the others are read one by one
        flags = words[np.where(simple, first + 2, 0)]
        places = np.where(simple, first + np.where(flags > 0, HEADER_WORDS, 3), 0)
        labels = words[places].view(np.float32).copy()
        for number in np.flatnonzero(~simple):
            labels[number] = self._unpacked(images[number])[0].labels[0]
        return labels

    def _unpacked(self, position):
        try:
            return unpack(self.records.read(position))
        except ValueError as error:
            raise UserError(f"{self.path}: record {self.records.keys[position]}: {error}.") from error

    def files(self) -> Iterator[str]:
        """One line, which changes when the .rec changes: its name, size and modification time."""
        status = self.path.stat()
        yield f"{self.path.name} {status.st_size} {status.st_mtime_ns}"

    def read(self, position: int) -> bytes:
        """The encoded bytes of a photo. Raises ValueError when its record is damaged."""
        return unpack(self.records.read(self.positions[position]))[1]

    def name(self, position: int) -> str:
        """The file and the record's key, for messages."""
        return f"{self.path} record {self.keys[position]}"

    def location(self, position: int) -> str:
        """The record's key."""
        return str(self.keys[position])

    def identity_name(self, label: int) -> str:
        """The label in six digits: a .rec has no names of identities."""
        return f"{label:06d}"

    def close(self) -> None:
        """Close the file; reading a photo opens it again."""
        self.records.close()


def write_rec(path: Path, photos: Iterable[tuple[int, str, bytes]], identities: int) -> int:
    """Write PATH/train.rec with train.idx, train.lst and property, as InsightFace's training code reads them.

    ``photos``: (label, name of the identity, encoded photo), sorted by label. Returns the number of photos. Images have
    the keys 1 to N, and identity k the key N + 1 + k, whose record holds the range of its images. Record 0 holds the
    range of the identities' keys. train.lst is im2rec's: key, label, identity/key. Raises UserError when there are more
    photos than the format can number.
    """
    path.mkdir()
    ranges, count = [(1, 1)] * identities, 0
    with RecordWriter(path / REC) as records, open(path / "train.lst", "w") as listed:
        records.write(0, pack((0.0, 0.0), 0))  # the ranges are known at the end
        for label, own in groupby(photos, key=lambda photo: photo[0]):
            first = count + 1
            for _, identity, data in own:
                count += 1
                records.write(count, pack(float(label), count, data))
                if count + identities >= LARGEST_LABEL:
                    raise UserError(
                        f"{path}: a .rec numbers {LARGEST_LABEL} photos and identities at most; make several."
                    )
                listed.write(f"{count}\t{label}\t{identity}/{count}\n")
            ranges[label] = (first, count + 1)
        for label, (first, end) in enumerate(ranges):
            records.write(count + 1 + label, pack((float(first), float(end)), count + 1 + label))
        records.rewrite_first(pack((float(count + 1), float(count + 1 + identities)), 0))
    (path / "property").write_text(f"{identities},112,112\n")
    return count
