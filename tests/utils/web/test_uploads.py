"""Uploaded photos: what is read, what is refused, and that nothing is kept."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from paths import PHOTOS

from models.errors import UserError
from utils.data.images import read_image
from utils.web.uploads import read_photo


@pytest.fixture
def upload(page_session, tmp_path):
    """Upload bytes, or an image (H, W, 3) as a file of the kind that its name has; nothing is left of it."""

    def read(content, name="photo.jpg"):
        path = tmp_path / "upload"
        if isinstance(content, np.ndarray):
            content = cv2.imencode(name[name.rindex(".") :], content[..., ::-1])[1].tobytes()
        path.write_bytes(content)
        try:
            return read_photo(page_session, path, name)
        finally:
            assert list(tmp_path.iterdir()) == []

    return read


def face(number=1, side=160):
    """A photo of one person, with a border."""
    crop = cv2.resize(read_image(PHOTOS / f"person{number}" / "0.jpg"), (side, side))
    return cv2.copyMakeBorder(crop, 30, 30, 30, 30, cv2.BORDER_CONSTANT, value=(128, 128, 128))


def cartoon():
    """A round yellow face."""
    image = np.full((300, 300, 3), 255, np.uint8)
    cv2.circle(image, (150, 150), 110, (255, 220, 60), -1)
    for x in (110, 190):
        cv2.circle(image, (x, 120), 14, (0, 0, 0), -1)
    cv2.ellipse(image, (150, 180), (50, 30), 0, 10, 170, (0, 0, 0), 5)
    return image


def test_the_face_of_a_photo_is_aligned_and_the_photo_deleted(upload):
    photo = upload(face(), "anna.jpg")
    assert (photo.file, photo.align, photo.faces) == ("anna.jpg", True, 1)
    assert photo.crop.shape == (112, 112, 3)
    assert photo.vector.shape == (512,)
    crop = upload(read_image(PHOTOS / "person1" / "0.jpg"), "crop.png")
    assert not crop.align
    cosine = photo.vector @ crop.vector / np.linalg.norm(photo.vector) / np.linalg.norm(crop.vector)
    assert cosine > 0.5


def test_of_five_faces_the_largest_is_taken(upload):
    people = [face(number, side) for number, side in ((1, 120), (3, 120), (4, 230), (1, 120), (3, 120))]
    height = max(image.shape[0] for image in people)
    padded = [cv2.copyMakeBorder(image, 0, height - image.shape[0], 0, 0, cv2.BORDER_REPLICATE) for image in people]
    photo = upload(np.hstack(padded), "group.png")
    alone = upload(people[2], "alone.png")
    assert photo.faces == 5
    assert photo.vector @ alone.vector / np.linalg.norm(photo.vector) / np.linalg.norm(alone.vector) > 0.9


def test_a_cartoon_is_refused(upload):
    with pytest.raises(UserError, match=r"cartoon.png: no face found\. Try a photo"):
        upload(cartoon(), "cartoon.png")


def test_a_heic_photo_is_read(upload, tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "phone.heic"
    pillow_heif.from_bytes("RGB", face().shape[1::-1], face().tobytes()).save(path)
    data = path.read_bytes()
    path.unlink()
    assert upload(data, "phone.heic").faces == 1


def bomb():
    """The header of a PNG of 30,000 x 30,000 pixels, in 68 bytes."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: np.full((200, 200, 3), 90, np.uint8), "no face found. Try a photo"),
        (lambda: (PHOTOS / "person1" / "0.jpg").read_bytes()[:900], "truncated JPEG."),
        (lambda: b"no photo at all", "not a photo, or damaged."),
        (lambda: b"", "not a photo, or damaged."),
        (lambda: b"\x00\x00\x00\x18ftypheic" + b"\x00" * 99, "not a photo, or damaged."),
        (lambda: b"\xff\xd8" + b"\x00" * (50 * 2**20), "larger than 10 MB."),
        (bomb, "30000 x 30000 pixels; a photo may have 50 million pixels."),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a photo, or damaged."),
    ],
    ids=["no face", "broken", "text", "empty", "broken HEIC", "50 MB", "pixel bomb", "PostScript"],
)  # fmt: skip
def test_what_is_no_photo_of_a_face_is_refused_in_one_line(content, message, upload):
    with pytest.raises(UserError) as error:
        upload(content(), "me.jpg")
    assert str(error.value).startswith(f"me.jpg: {message}")
    assert "\n" not in str(error.value)


def test_a_name_with_folders_or_markup_is_only_a_name(upload):
    photo = upload(face(), "../../<b>x</b>.jpg")
    assert photo.file == "b>.jpg"
    assert photo.name == "photo-b"
