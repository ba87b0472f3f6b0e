"""Tables as the dataset's Parquet files, each with its own checksum.

The checksum is a SHA-256 of all other bytes of the file and lies directly in front of the Parquet footer. Nothing in
the file refers to these 32 bytes, so every Parquet reader passes over them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from rtprune.errors import RTPruneError

#: Columns with few distinct values in a file: the only ones worth a dictionary.
_REPEATING = frozenset(
    {"doc_id", "uri", "status", "finish_reason", "model", "mode", "kind", "attempts", "reason"}
    | {"run_id", "config_hash", "schema_version"}
)
#: Columns whose smallest and largest value help no query, and would put page text into the footer.
_WITHOUT_STATISTICS = frozenset({"text", "message", "settings"})

#: Key of a file's metadata: ids of the units whose rows it holds, spaces between.
_UNITS = "rtprune.units"

#: The default of a million rows would hold gigabytes of page text in one row group.
ROW_GROUP_ROWS = 16_384

_CHECKSUM_BYTES = 32
#: Length of the footer and the magic number, which end every Parquet file.
_END_BYTES = 8
_MAGIC = b"PAR1"


def parquet_bytes(table: pa.Table, units: Sequence[str] = ()) -> bytes:
    """``table`` as one Parquet file with its own checksum, in memory, so that it can be written in a single put.

    Args:
        units: ids of the units whose rows these are, kept in the file's metadata.
    """
    sink = io.BytesIO()
    with parquet_writer(sink, table.schema) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        name_units(writer, units)
    return sealed(sink)


def parquet_writer(sink: io.BytesIO, schema: pa.Schema) -> pq.ParquetWriter:
    """Writes tables of ``schema`` to ``sink`` the way all files of the dataset are written; see ``sealed``.

    The columns' meanings are in the file's metadata under ``rtprune.columns``. Arrow's own copy of the schema is left
    out: Parquet's says the same, and the copy is most of what a small file holds.
    """
    writer = pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=[name for name in schema.names if name in _REPEATING],
        write_statistics=[
            field.name
            for field in schema
            if field.name not in _WITHOUT_STATISTICS and not pa.types.is_nested(field.type)
        ],
        write_page_index=True,
        write_page_checksum=True,
        store_schema=False,
    )
    meanings = {field.name: field.metadata[b"description"].decode() for field in schema if field.metadata}
    writer.add_key_value_metadata(
        {**(schema.metadata or {}), "rtprune.columns": json.dumps(meanings, ensure_ascii=False)}
    )
    return writer


def name_units(writer: pq.ParquetWriter, units: Sequence[str]) -> None:
    """Have the file say which units it holds; see ``units_in``."""
    if units:
        writer.add_key_value_metadata({_UNITS: " ".join(units)})


def units_in(schema: pa.Schema) -> tuple[str, ...]:
    """Ids of the units that a file of pages says it holds; none where it does not say."""
    return tuple((schema.metadata or {}).get(_UNITS.encode(), b"").decode(errors="replace").split())


def difference(schema: pa.Schema, expected: pa.Schema) -> str | None:
    """How the ``schema`` of a file differs from the ``expected`` one, in words; ``None`` where it does not."""
    for name in dict.fromkeys([*expected.names, *schema.names]):
        if name not in schema.names:
            return f"column {name} is missing"
        if name not in expected.names:
            return f"there should be no column {name}"
        one, other = schema.field(name), expected.field(name)
        if not one.equals(other):
            return f"column {name} is {one.type}, nullable {one.nullable}; it should be {other.type}, {other.nullable}"
    if schema.names != expected.names:
        return "the columns stand in another order"
    metadata = {key: (schema.metadata or {}).get(key) for key in expected.metadata}
    return None if metadata == expected.metadata else f"its metadata are {metadata}, not {expected.metadata}"


def sealed(sink: io.BytesIO) -> bytes:
    """The finished Parquet file in ``sink``, its own checksum put in: the SHA-256 of all its other bytes."""
    with sink.getbuffer() as view:
        cut = _footer_start(view)
        if cut is None:
            raise ValueError("not a finished Parquet file")
        digest, footer = hashlib.sha256(view).digest(), bytes(view[cut:])
    sink.seek(cut)
    sink.write(digest + footer)
    return sink.getvalue()


def checksum_holds(data: bytes) -> bool:
    """Whether ``data`` is a file of the dataset, every byte as it was written."""
    view = memoryview(data)
    start = _footer_start(view)
    if start is None or start < _CHECKSUM_BYTES:
        return False
    digest = hashlib.sha256(view[: start - _CHECKSUM_BYTES])
    digest.update(view[start:])
    return digest.digest() == view[start - _CHECKSUM_BYTES : start]


def checked(data: bytes, uri: str) -> bytes:
    """``data`` as it is. Raises ``RTPruneError`` naming ``uri`` where its own checksum does not hold."""
    if not checksum_holds(data):
        raise RTPruneError(f"{uri} is damaged: its checksum does not hold", "restore it from a backup")
    return data


def _footer_start(view: memoryview) -> int | None:
    if len(view) < len(_MAGIC) + _END_BYTES or view[-len(_MAGIC) :] != _MAGIC:
        return None
    start = len(view) - _END_BYTES - int.from_bytes(view[-_END_BYTES : -len(_MAGIC)], "little")
    return start if start >= len(_MAGIC) else None
