"""Reads and writes Arrow messages with the genuine code, for the tests of the wire form.

    arrow_check.py read FILE      prints what pyarrow and CloudQuery's SDK read in an IPC stream
    arrow_check.py sample FILE    writes a record of all column types that pyarrow can make
    arrow_check.py FORM FILE      reads the file and puts the same rows there in another form:
                                  `single` as the SDK writes a record, `each` row in a batch, `lz4`
                                  and `zstd` with a compressed body, `dictionary` with the texts in
                                  dictionaries, `slice` from the middle of more rows

`read` prints one JSON object: `table` (as the SDK's Table sees it), `columns` (as its Column does),
`batches` (how many the stream holds; readers of the protocol take the first), and `rows` of all
batches. Numbers, booleans, texts, lists and NULL are themselves; uuid is text, json is the parsed
document, bytes are {"hex": …}, times are ISO text, or numbers of their unit where Python has no such day,
decimals are text, NaN is the text "NaN".
"""

import datetime
import decimal
import json
import math
import sys
import uuid

import pyarrow as pa
from cloudquery.plugin_v3 import arrow
from cloudquery.sdk.schema import Table
from cloudquery.sdk.types import JSONType, UUIDType

UTC = datetime.timezone.utc


def shown(value):
    """A value as JSON can carry it."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value).replace("nan", "NaN")
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, pa.MonthDayNano):
        return {"months": value.months, "days": value.days, "nanoseconds": value.nanoseconds}
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(item) for item in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


def values(array):
    kind = array.type
    if kind == UUIDType():
        raw = array.storage.to_pylist()
        return [None if v is None else str(uuid.UUID(bytes=v)) for v in raw]
    if kind == JSONType():
        raw = array.storage.to_pylist()
        return [None if v is None else json.loads(v) for v in raw]
    try:
        return [shown(v) for v in array.to_pylist()]
    except OverflowError:
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        return array.view(width).to_pylist()


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    table = Table.from_arrow_schema(arrow.new_schema_from_bytes(data))
    batches = list(pa.ipc.open_stream(data))
    rows = []
    for batch in batches:
        rows.extend(list(row) for row in zip(*(values(array) for array in batch.columns)))
    columns = [
        {
            "name": column.name,
            "type": str(column.type),
            "not_null": column.not_null,
            "primary_key": column.primary_key,
            "unique": column.unique,
            "incremental_key": column.incremental_key,
        }
        for column in table.columns
    ]
    about = {
        "name": table.name,
        "title": table.title,
        "description": table.description,
        "is_incremental": table.is_incremental,
        "parent": table.parent.name if table.parent else None,
    }
    found = {"table": about, "columns": columns, "batches": len(batches), "rows": rows}
    json.dump(found, sys.stdout, ensure_ascii=False)
    print()


def rewrite(form, path):
    with open(path, "rb") as file:
        data = file.read()
    Table.from_arrow_schema(arrow.new_schema_from_bytes(data))
    table = pa.ipc.open_stream(data).read_all().combine_chunks()
    table.validate(full=True)
    record = table.to_batches()[0]
    if form == "dictionary":
        for index, field in enumerate(record.schema):
            if field.type in (pa.string(), pa.binary(), pa.int64()):
                packed = record.column(index).dictionary_encode()
                record = record.set_column(index, field.with_type(packed.type), packed)
    if form == "slice":
        more = pa.Table.from_batches([record] * 3).combine_chunks().to_batches()[0]
        record = more.slice(len(record), len(record))
    if form in ("single", "slice"):
        written = arrow.record_to_bytes(record)
    else:
        packed = form if form in ("lz4", "zstd") else None
        options = pa.ipc.IpcWriteOptions(compression=packed)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, record.schema, options=options) as writer:
            writer.write_table(pa.Table.from_batches([record]), 1 if form == "each" else None)
        written = sink.getvalue().to_pybytes()
    with open(path, "wb") as file:
        file.write(written)


def samples():
    """Column name, type, one value; the second row of the sample is NULL throughout."""
    at = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    yield "uuid", UUIDType(), uuid.UUID("00112233-4455-6677-8899-aabbccddeeff").bytes
    yield "json", JSONType(), b'{"a": [1, null]}'
    for bits in (8, 16, 32, 64):
        yield f"int{bits}", getattr(pa, f"int{bits}")(), -(1 << (bits - 1))
        yield f"uint{bits}", getattr(pa, f"uint{bits}")(), (1 << bits) - 1
    yield "float32", pa.float32(), 1.5
    yield "float64", pa.float64(), 0.1
    yield "bool", pa.bool_(), True
    yield "utf8", pa.string(), "a\u00e9\U0001f600"
    yield "large_utf8", pa.large_string(), "large"
    yield "binary", pa.binary(), b"\x00\xff"
    yield "large_binary", pa.large_binary(), b"\x01"
    yield "date32", pa.date32(), at.date()
    yield "date64", pa.date64(), at.date()
    for unit in ("s", "ms", "us", "ns"):
        time = at.time() if unit != "s" else at.time().replace(microsecond=0)
        yield f"time_{unit}", (pa.time32 if unit in ("s", "ms") else pa.time64)(unit), time
        yield f"timestamp_{unit}", pa.timestamp(unit, tz="UTC"), at.replace(microsecond=0)
        yield f"duration_{unit}", pa.duration(unit), datetime.timedelta(seconds=90)
    yield "interval", pa.month_day_nano_interval(), pa.MonthDayNano([1, 2, 3])
    yield "decimal", pa.decimal128(19, 10), decimal.Decimal("-1.2345678901")
    yield "list", pa.list_(pa.int64()), [1, None, 3]
    yield "list_utf8", pa.list_(pa.string()), ["a", None]
    yield "struct", pa.struct([("x", pa.int64()), ("y", pa.string())]), {"x": 1, "y": "b"}
    yield "map", pa.map_(pa.string(), pa.int64()), [("k", 1)]


def sample(path):
    fields, arrays = [], []
    marks = {"cq:extension:primary_key": "false"}
    for name, kind, value in samples():
        fields.append(pa.field(name, kind, metadata=marks))
        if isinstance(kind, pa.ExtensionType):
            storage = pa.array([value, None], kind.storage_type)
            arrays.append(pa.ExtensionArray.from_storage(kind, storage))
        else:
            arrays.append(pa.array([value, None], kind))
    about = {"cq:table_name": "sample", "cq:table_title": "", "cq:table_description": ""}
    record = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata=about))
    with open(path, "wb") as file:
        file.write(arrow.record_to_bytes(record))


if __name__ == "__main__":
    verb, file = sys.argv[1:]
    verbs = {"read": read, "sample": sample}
    verbs[verb](file) if verb in verbs else rewrite(verb, file)
