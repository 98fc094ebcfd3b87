"""Complete images are read whatever follows them; images that were cut off are refused wherever the cut is."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from paths import PHOTOS

from utils.data.images import decode_image, encode_jpeg, read_image

PHOTO = read_image(PHOTOS / "person1" / "0.jpg")


def jpeg(*options):
    return cv2.imencode(".jpg", PHOTO, options)[1].tobytes()


def with_thumbnail(data):
    """A JPEG with a whole small JPEG in its EXIF segment, as cameras write it."""
    thumbnail = encode_jpeg(np.zeros((40, 40, 3), np.uint8), 50)
    content = b"Exif\x00\x00" + thumbnail
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


def video(size=3_000_000):
    """What a motion photo appends: bytes that hold every JPEG marker, and chunk names of PNG."""
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    return b"\x00\x00\x00\x18ftypmp42" + b"\xff\xd8\xff\xda\xff\xc4\xff\x00IDAT" + noise + b"\xff\xda\x00\x08"


ENCODED = {
    "baseline": jpeg(),
    "progressive": jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart markers": jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    "grey": cv2.imencode(".jpg", PHOTO[:, :, 0])[1].tobytes(),
    "thumbnail": with_thumbnail(jpeg()),
    "thumbnail of a progressive one": with_thumbnail(jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "png": cv2.imencode(".png", PHOTO)[1].tobytes(),
}


TRAILERS = {"zeros": bytes(5000), "video": video(), "another image": jpeg()[:-40], "an end marker": b"\xff\xd9"}


def test_the_kinds_are_what_their_names_say():
    assert ENCODED["progressive"].count(b"\xff\xda") > 5
    assert b"\xff\xd7" in ENCODED["restart markers"]
    assert ENCODED["thumbnail"].count(b"\xff\xd9") == 2


@pytest.mark.parametrize("kind", ENCODED)
@pytest.mark.parametrize("trailer", TRAILERS)
def test_bytes_after_the_image_do_no_harm(kind, trailer):
    data = ENCODED[kind]
    assert np.array_equal(decode_image(data + TRAILERS[trailer]), decode_image(data))


@pytest.mark.parametrize("kind", ENCODED)
def test_a_cut_anywhere_is_refused(kind):
    data = ENCODED[kind]
    for length in (*range(0, len(data), 7), *range(len(data) - 12, len(data))):
        with pytest.raises(ValueError, match=r"truncated|not an image"):
            decode_image(data[:length])


@pytest.mark.parametrize("kind", [kind for kind in ENCODED if kind != "png"])
def test_a_download_that_ends_in_zeros_is_refused(kind):
    data = ENCODED[kind]
    for length in range(len(data) // 3, len(data) - 2, 101):
        with pytest.raises(ValueError, match="truncated"):
            decode_image(data[:length] + bytes(len(data) - length))


@pytest.mark.parametrize("kind", [kind for kind in ENCODED if kind != "png"])
def test_a_cut_photo_before_a_video_is_refused(kind):
    data = ENCODED[kind]
    for length in range(len(data) // 3, len(data) - 2, 101):
        with pytest.raises(ValueError, match="truncated"):
            decode_image(data[:length] + video(10_000))


def test_a_png_of_many_chunks_and_text_after_it_is_read():
    """Chunks are found by their lengths: the letters IEND among the pixels or in a comment are not the end."""
    data = ENCODED["png"]
    content = b"tEXt" + b"Comment\x00IEND is not here"
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    commented = data[:33] + chunk + data[33:]  # after the header chunk
    assert np.array_equal(decode_image(commented + b"trailing text"), PHOTO[:, :, ::-1])
    with pytest.raises(ValueError, match="truncated PNG"):
        decode_image(commented[: 33 + len(chunk) + 20])
