"""Exporting datasets in formats of other libraries: folders, Hugging Face imagefolder, WebDataset shards."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from models.errors import UserError
from utils.data.face_set import FaceSet
from utils.data.images import decode_image, encode_jpeg
from utils.dataset.image_record import MEASURES, ImageRecord
from utils.dataset.layout import dataset_root, find_manifest
from utils.dataset.manifest import read_lines

JPEG_START = b"\xff\xd8"
JPEG_QUALITY = 95  # of photos that are converted from another format
SHARD_SIZE = 10_000  # images in a WebDataset shard
COLUMNS = ("sigma", *MEASURES, "source")  # of a manifest line, beside the identity


class Photo(NamedTuple):
    """An encoded photo: ``label`` 0..C-1, ``identity`` its name in the dataset, metadata ``about`` {column: value}."""

    label: int
    identity: str
    data: bytes
    about: dict[str, Any]


def photos_of(faces: FaceSet) -> Iterator[Photo]:
    """The photos of a dataset, identity by identity, with their metadata from the manifest.

    Raises UserError at a photo that cannot be read.
    """
    about = manifest_columns(faces.path)
    for index in faces.labels.argsort(kind="stable").tolist():
        label = int(faces.labels[index])
        try:
            data = faces.read(index)
        except (OSError, ValueError) as error:
            raise UserError(f"{faces.name(index)}: cannot be read: {error}") from error
        yield Photo(label, faces.identities[label], data, about.get(faces.location(index), {}))
    faces.close()


def manifest_columns(path: Path) -> dict[str, dict[str, Any]]:
    """{file or key: {column: value}} of a generated dataset; empty for any other dataset."""
    manifest = find_manifest(dataset_root(path))
    if manifest is None:
        return {}
    columns = {}
    for line in read_lines(manifest):
        location = line.get("file") or line.get("key")
        if location:
            record = ImageRecord.from_line(line)
            noise = {"sigma": record.sigma, "cosine": record.cosine}
            values = {"identity": record.name, **noise, **record.measured, "source": record.source}
            columns[location] = {name: value for name, value in values.items() if value is not None}
    return columns


def numbered_jpegs(photos: Iterable[Photo]) -> Iterator[tuple[int, Photo]]:
    """(index within the identity, photo); photos in other formats are encoded as JPEG. UserError at a damaged one."""
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
    """Write ``PATH/<label, six digits>/<index, three digits>.jpg``; returns the number of photos.

    ``metadata``: an open text file that gets a line of JSON for every photo.
    """
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
    """Write the folders of ``write_folder`` with Hugging Face's ``metadata.jsonl``; returns the number of photos.

    Each line has a photo's file_name, label, identity and manifest columns, null where the manifest has no value.
    """
    path.mkdir()
    with open(path / "metadata.jsonl", "w") as metadata:
        return write_folder(path, photos, metadata)


def write_webdataset(path: Path, photos: Iterable[Photo]) -> int:
    """Write ``PATH/000000.tar`` ...: shards of SHARD_SIZE samples, each a .jpg and a .json with the same key.

    Returns the number of photos. Shards contain no time stamps or user names, so equal photos give equal shards.
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
    """Add a file to an open archive."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
