"""Whether an encoded image is complete, told by its structure: decoders fill what is missing with grey.

What follows the end of the image is not looked at: phones append videos (motion photos), further pictures or edit data.
"""

import re

JPEG_START, PNG_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA
# What may follow a scan: tables, further scans, the number of lines, application data, a comment, or the end.
AFTER_SCAN = {0xC4, 0xCC, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
MARKER = re.compile(rb"\xff+([^\x00\xff])")
# Inside a scan FF 00 is a byte of data and FF D0 to FF D7 are restart markers; any other marker ends the scan.
MARKER_AFTER_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def check_complete(data):
    """Raises ValueError when ``data``, the bytes of an image file, are a JPEG or PNG that was cut off."""
    if data.startswith(JPEG_START) and not jpeg_ends(data):
        raise ValueError("truncated JPEG")
    if data.startswith(PNG_START[:4]) and not png_ends(data):
        raise ValueError("truncated PNG")


def jpeg_ends(data):
    """Whether a JPEG reaches its end marker: segments are skipped by their length, scans searched for a marker."""
    position, scanned, pattern = len(JPEG_START), False, MARKER
    while found := pattern.search(data, position):
        marker, position, pattern = found[1][0], found.end(), MARKER
        if marker == END_OF_IMAGE:
            return scanned
        if scanned and marker not in AFTER_SCAN:  # bytes of something else
            return False
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these have no length
            continue
        position += int.from_bytes(data[position : position + 2], "big")
        if marker == START_OF_SCAN:
            scanned, pattern = True, MARKER_AFTER_SCAN
    return False


def png_ends(data):
    """Whether a PNG has a whole IEND chunk: length, name, content and checksum of the chunks before it are skipped."""
    position = len(PNG_START)
    while position + 12 <= len(data):
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return False
