"""Datasets of people in the forms that other libraries read: folders, Hugging Face imagefolder, WebDataset shards."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from models.errors import UserError
from utils.data.face_set import FaceSet
from utils.data.images import decode_image, encode_jpeg
from utils.dataset.image_record import MEASURES, ImageRecord
from utils.dataset.layout import dataset_root, find_manifest
from utils.dataset.manifest import read_lines

JPEG_START = b"\xff\xd8"
JPEG_QUALITY = 95  # of photos that come in another format
SHARD_SIZE = 10_000  # images in a WebDataset shard
COLUMNS = ("sigma", *MEASURES, "source")  # what a manifest tells of an image


class Photo(NamedTuple):
    """An encoded photo: ``label`` 0..C-1, ``identity`` the person's name in its dataset, ``about`` {column: value}."""

    label: int
    identity: str
    data: bytes
    about: dict


def photos_of(faces: FaceSet) -> Iterator[Photo]:
    """The photos of a dataset, person by person, with what its manifest says of them.

    Raises UserError at a photo that cannot be read.
    """
    about = manifest_columns(faces.path)
    for index in faces.labels.argsort(kind="stable").tolist():
        label = int(faces.labels[index])
        try:
            data = faces.read(index)
        except (OSError, ValueError) as error:
            raise UserError(f"{faces.name(index)}: cannot be read: {error}") from error
        yield Photo(label, faces.people[label], data, about.get(faces.place(index), {}))
    faces.close()


def manifest_columns(path: Path) -> dict[str, dict]:
    """{file or key: {column: value}} of a generated dataset, empty for any other."""
    manifest = find_manifest(dataset_root(path))
    if manifest is None:
        return {}
    columns = {}
    for line in read_lines(manifest):
        place = line.get("file") or line.get("key")
        if place:
            record = ImageRecord.from_line(line)
            values = {"identity": record.name, "sigma": record.sigma, **record.measured, "source": record.source}
            columns[place] = {name: value for name, value in values.items() if value is not None}
    return columns


def numbered_jpegs(photos: Iterable[Photo]) -> Iterator[tuple[int, Photo]]:
    """(index among the person's photos, photo), photos in other formats encoded as JPEG. UserError at a broken one."""
    last, index = None, 0
    for photo in photos:
        index = index + 1 if photo.label == last else 0
        last = photo.label
        if not photo.data.startswith(JPEG_START):
            try:
                photo = photo._replace(data=encode_jpeg(decode_image(photo.data), JPEG_QUALITY))
            except ValueError as error:
                raise UserError(f"photo {index} of {photo.identity}: {error}") from error
        yield index, photo


def write_folder(path: Path, photos: Iterable[Photo], metadata: TextIO | None = None) -> int:
    """``PATH/<six digits>/<three digits>.jpg``; how many photos. ``metadata``: a text file to describe them in."""
    count = 0
    path.mkdir(exist_ok=True)
    for index, photo in numbered_jpegs(photos):
        file_name = f"{photo.label:06d}/{index:03d}.jpg"
        (path / file_name).parent.mkdir(exist_ok=True)
        (path / file_name).write_bytes(photo.data)
        if metadata is not None:
            line = {"file_name": file_name, "label": photo.label, "identity": photo.identity}
            metadata.write(json.dumps(line | dict.fromkeys(COLUMNS) | photo.about) + "\n")
        count += 1
    return count


def write_imagefolder(path: Path, photos: Iterable[Photo]) -> int:
    """The folders of ``write_folder`` with Hugging Face's ``metadata.jsonl``; how many photos.

    A line has a photo's file_name, label and identity and what the manifest says of it, null where that is nothing.
    """
    path.mkdir()
    with open(path / "metadata.jsonl", "w") as metadata:
        return write_folder(path, photos, metadata)


def write_webdataset(path: Path, photos: Iterable[Photo]) -> int:
    """``PATH/000000.tar`` ...: shards of SHARD_SIZE samples, each a .jpg and a .json of the same key; how many photos.

    Equal photos give equal shards: nothing of the time or the user goes into them.
    """
    count, shard = 0, None
    path.mkdir()
    try:
        for index, photo in numbered_jpegs(photos):
            if count % SHARD_SIZE == 0:
                if shard is not None:
                    shard.close()
                shard = tarfile.open(path / f"{count // SHARD_SIZE:06d}.tar", "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            key = f"{photo.label:06d}_{index:03d}"
            about = {"label": photo.label, "identity": photo.identity, "index": index} | photo.about
            add_member(shard, f"{key}.jpg", photo.data)
            add_member(shard, f"{key}.json", json.dumps(about).encode())
            count += 1
    finally:
        if shard is not None:
            shard.close()
    return count


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
