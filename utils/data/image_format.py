"""Detecting truncated JPEG and PNG files by their structure, because decoders fill the missing part with grey.

Data after the end of the image is ignored: phones append videos (motion photos), further pictures or edit data.
"""

import re

JPEG_START, PNG_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA
# What may follow a scan: tables, further scans, the number of lines, application data, a comment, or the end.
AFTER_SCAN = {0xC4, 0xCC, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
MARKER = re.compile(rb"\xff+([^\x00\xff])")
# Inside a scan FF 00 is a byte of data and FF D0 to FF D7 are restart markers; any other marker ends the scan.
MARKER_AFTER_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def check_complete(data: bytes) -> None:
    """Raise ValueError when ``data``, the bytes of an image file, is a truncated JPEG or PNG."""
    if data.startswith(JPEG_START) and not jpeg_ends(data):
        raise ValueError("truncated JPEG")
    if data.startswith(PNG_START[:4]) and not png_ends(data):
        raise ValueError("truncated PNG")


def jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG has its end marker: segments are skipped by their length, scans are searched for a marker."""
    position, scanned, pattern = len(JPEG_START), False, MARKER
    while match := pattern.search(data, position):
        marker, position, pattern = match[1][0], match.end(), MARKER
        if marker == END_OF_IMAGE:
            return scanned
        if scanned and marker not in AFTER_SCAN:  # not a marker of this image
            return False
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            continue
        position += int.from_bytes(data[position : position + 2], "big")
        if marker == START_OF_SCAN:
            scanned, pattern = True, MARKER_AFTER_SCAN
    return False


def png_ends(data: bytes) -> bool:
    """Whether a PNG has a complete IEND chunk. A chunk is its length, name, content and checksum."""
    position = len(PNG_START)
    while position + 12 <= len(data):
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return False
