"""Reading the labels of msgpack records in an LMDB of faces, without their images."""

import msgpack

LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}  # msgpack's marks of a byte string: number of bytes of its length


def label_of(record: memoryview | bytes) -> int:
    """The label at the end of a msgpack record. The image before it is skipped, so that its pages are not loaded.

    Raises ValueError or IndexError when this is not a face record.
    """
    if record[0] not in (0x92, 0x93):
        raise ValueError("not a list of two or three")
    start = 1
    for _ in range(record[0] - 0x91):  # byte strings: the image and, in a training LMDB, the feature
        start = after_bytes(record, start)
    label = msgpack.unpackb(bytes(record[start:]))
    if not isinstance(label, int) or label < 0:
        raise ValueError(f"label {label!r}")
    return label


def has_soft_label(record: memoryview | bytes) -> bool:
    """Whether a msgpack record is (image bytes, label a, label b, phi).

    One of four fields may also be (image bytes, feature, label, landmark picture).
    """
    return len(record) > 0 and record[0] == 0x94 and record[after_bytes(record, 1)] not in LENGTH_BYTES


def soft_label_of(record: memoryview | bytes) -> tuple[int, int, float]:
    """(label a, label b, phi) at the end of a record (image bytes, label a, label b, phi), as in ``label_of``."""
    if not has_soft_label(record):
        raise ValueError("not the record of a mixture")
    unpacker = msgpack.Unpacker()
    unpacker.feed(bytes(record[after_bytes(record, 1) :]))
    first, second, phi = unpacker
    if not (isinstance(first, int) and isinstance(second, int) and min(first, second) >= 0 and 0 <= phi <= 1):
        raise ValueError(f"labels {first!r} and {second!r} with the share {phi!r}")
    return first, second, phi


def after_bytes(record: memoryview | bytes, start: int) -> int:
    """The position after a byte string that begins at ``start``. Raises ValueError when there is none."""
    if record[start] not in LENGTH_BYTES:
        raise ValueError("no byte string where the image should be")
    count = LENGTH_BYTES[record[start]]
    return start + 1 + count + int.from_bytes(record[start + 1 : start + 1 + count], "big")
