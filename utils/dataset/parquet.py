"""Photos as Parquet files, which the Hugging Face Hub shows and loads without unpacking anything."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from models.errors import UserError
from utils.dataset.export import COLUMNS, SHARD_SIZE, Photo, numbered_jpegs

ROWS = 100  # images in a row group, the unit that a viewer reads


def write_parquet(path: Path, photos: Iterable[Photo]) -> int:
    """Write ``PATH/000000.parquet`` ...: files of SHARD_SIZE photos; returns the number of photos.

    The columns are image (bytes and path), label, identity, index and what the manifest says of an image, null where
    that is nothing. Equal photos give equal files. Raises UserError where pyarrow is missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow: pip install pyarrow, or choose another form.") from error
    schema = schema_of(pyarrow)
    count, rows = 0, map(row_of, numbered_jpegs(photos))
    path.mkdir()
    while shard := list(islice(rows, SHARD_SIZE)):
        table = pyarrow.Table.from_pylist(shard, schema=schema)
        parquet.write_table(table, path / f"{count // SHARD_SIZE:06d}.parquet", row_group_size=ROWS)
        count += len(shard)
    return count


def row_of(numbered: tuple[int, Photo]) -> dict:
    """The row of a photo; ``numbered``: its index among the identity's, and the photo."""
    index, photo = numbered
    image = {"bytes": photo.data, "path": f"{photo.label:06d}_{index:03d}.jpg"}
    row = {"image": image, "label": photo.label, "identity": photo.identity, "index": index}
    return row | dict.fromkeys(COLUMNS) | photo.about


def schema_of(pyarrow):
    """The Arrow schema of the files, with what the library ``datasets`` needs to decode the images."""
    types = {"label": "int64", "identity": "string", "index": "int64"}
    types |= {name: "string" if name == "source" else "float64" for name in COLUMNS}
    features = {"image": {"_type": "Image"}}
    features |= {name: {"dtype": kind, "_type": "Value"} for name, kind in types.items()}
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    fields = [("image", image), *((name, pyarrow.type_for_alias(kind)) for name, kind in types.items())]
    about = json.dumps({"info": {"features": features}})
    return pyarrow.schema(fields, metadata={"huggingface": about})
