"""A destination on CloudQuery's Python SDK that keeps its tables in a SQLite file.

It takes what the SDK's server hands it: MigrateTable, Insert (upsert where the table has a primary
key, append where it has none), DeleteStale, and Read, which answers exactly the columns that were
asked for, in that order, so that it serves as a state backend. Each message is committed by itself,
as in the sqlite plugin that CloudQuery published. DeleteRecord is unknown to the SDK.

Tests read the file: integers, floats and bytes are stored as such, everything else as text (uuid
with hyphens, json as it came, timestamps as `2026-01-01 00:00:01.000000Z`).
"""

import json
import os
import sqlite3
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Optional

import pyarrow as pa
from cloudquery.sdk import message, plugin, serve
from cloudquery.sdk.plugin.plugin import Options
from cloudquery.sdk.schema import Table
from cloudquery.sdk.schema.arrow import METADATA_TABLE_NAME
from cloudquery.sdk.schema.table import TableColumnChangeType, get_table_changes
from cloudquery.sdk.types import JSONType, UUIDType


@dataclass
class Spec:
    """What the test says."""

    path: str  # the SQLite file
    journal: Optional[str] = None  # a file to which each call and message is added, in order
    fail_table: Optional[str] = None  # an insert into this table fails
    die_after_rows: Optional[int] = None  # the process ends (137) once so many rows are stored …
    die_table: Optional[str] = None  # … of this table (default: of all)
    pause: float = 0.0  # seconds before each insert


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def stored(array):
    """The values of an Arrow column as SQLite keeps them."""
    kind = array.type
    if kind == UUIDType():
        return [None if v is None else str(uuid.UUID(bytes=v)) for v in array.storage.to_pylist()]
    if kind == JSONType():
        return [None if v is None else v.decode("utf-8") for v in array.storage.to_pylist()]
    values = array.to_pylist()
    if pa.types.is_integer(kind):  # SQLite has no integer above 2^63
        return [str(v) if v is not None and v >= 1 << 63 else v for v in values]
    if is_plain(kind):
        return values
    try:
        return array.cast(pa.string()).to_pylist()
    except pa.ArrowNotImplementedError:
        return [v if v is None else json.dumps(v, default=str) for v in values]


def loaded(values, kind):
    """The way back."""
    if kind == UUIDType():
        raw = [None if v is None else uuid.UUID(v).bytes for v in values]
        return pa.ExtensionArray.from_storage(kind, pa.array(raw, pa.binary(16)))
    if kind == JSONType():
        raw = [None if v is None else v.encode("utf-8") for v in values]
        return pa.ExtensionArray.from_storage(kind, pa.array(raw, pa.binary()))
    if pa.types.is_integer(kind):
        return pa.array([None if v is None else int(v) for v in values], kind)
    if pa.types.is_boolean(kind):
        return pa.array([None if v is None else bool(v) for v in values], kind)
    if is_plain(kind):
        return pa.array(values, kind)
    return pa.array(values, pa.string()).cast(kind)


def is_plain(kind):
    return (
        pa.types.is_boolean(kind)
        or (pa.types.is_floating(kind) and not pa.types.is_float16(kind))
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


class Store:
    """The SQLite file. Its schemas are kept in it, as Arrow schemas, to tell what has changed."""

    def __init__(self, path):
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        # What the process wrote survives its own death; a power cut is not what is tested.
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE IF NOT EXISTS _schemas (name TEXT PRIMARY KEY, ipc BLOB)")

    def close(self):
        self._db.close()

    def migrate(self, table, force):
        row = self._db.execute("SELECT ipc FROM _schemas WHERE name = ?", [table.name]).fetchone()
        if row is None:
            self._create(table)
            return
        old = Table.from_arrow_schema(pa.ipc.read_schema(pa.py_buffer(row[0])))
        added = []
        for change in get_table_changes(table, old):
            new = change.current
            if change.type == TableColumnChangeType.REMOVE and not change.previous.not_null:
                continue  # the column stays, as in CloudQuery's own destinations
            if change.type == TableColumnChangeType.ADD and not (new.primary_key or new.not_null):
                added.append(new)
            elif force:
                self._db.execute(f"DROP TABLE {quoted(table.name)}")
                self._create(table)
                return
            else:
                raise ValueError(
                    f"can't migrate {table.name} safely: column {change.column_name} changed"
                )
        there = self._db.execute("SELECT name FROM pragma_table_info(?)", [table.name]).fetchall()
        for new in added:
            if (new.name,) not in there:
                self._db.execute(f"ALTER TABLE {quoted(table.name)} ADD COLUMN {quoted(new.name)}")
        self._remember(table)

    def _create(self, table):
        parts = [
            quoted(c.name) + (" NOT NULL" if c.not_null else "") + (" UNIQUE" if c.unique else "")
            for c in table.columns
        ]
        if table.primary_keys:
            parts.append(f"PRIMARY KEY ({', '.join(map(quoted, table.primary_keys))})")
        self._db.execute(f"CREATE TABLE {quoted(table.name)} ({', '.join(parts)})")
        self._remember(table)

    def _remember(self, table):
        ipc = table.to_arrow_schema().serialize().to_pybytes()
        self._db.execute("INSERT OR REPLACE INTO _schemas VALUES (?, ?)", [table.name, ipc])

    def insert(self, record):
        table = Table.from_arrow_schema(record.schema)
        names = [c.name for c in table.columns]
        sql = (
            f"INSERT INTO {quoted(table.name)} ({', '.join(map(quoted, names))})"
            f" VALUES ({', '.join('?' for _ in names)})"
        )
        keys = table.primary_keys
        if keys:
            rest = [f"{quoted(n)} = excluded.{quoted(n)}" for n in names if n not in keys]
            action = f"DO UPDATE SET {', '.join(rest)}" if rest else "DO NOTHING"
            sql += f" ON CONFLICT ({', '.join(map(quoted, keys))}) {action}"
        rows = zip(*(stored(array) for array in record.columns))
        self._db.execute("BEGIN")
        try:
            self._db.executemany(sql, rows)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def delete_stale(self, table, source, sync_time):
        limit = pa.scalar(sync_time, pa.timestamp("us", tz="UTC")).cast(pa.string()).as_py()
        # Qualified: SQLite takes a bare quoted name that is no column for a string.
        name = quoted(table)
        return self._db.execute(
            f"DELETE FROM {name} WHERE {name}._cq_source_name = ? AND {name}._cq_sync_time < ?",
            [source, limit],
        ).rowcount

    def read(self, table):
        names = ", ".join(f"t.{quoted(c.name)}" for c in table.columns)
        rows = self._db.execute(f"SELECT {names} FROM {quoted(table.name)} AS t").fetchall()
        columns = list(zip(*rows)) or [()] * len(table.columns)
        arrays = [loaded(list(v), c.type) for v, c in zip(columns, table.columns)]
        return pa.RecordBatch.from_arrays(arrays, schema=table.to_arrow_schema())


class Destination(plugin.Plugin):
    def __init__(self):
        super().__init__("destination", "v1.0.0", Options(team="highwater", kind="destination"))
        self._lock = threading.Lock()  # several Write streams may run at once
        self._spec = None
        self._store = None
        self._streams = 0
        self._rows = 0

    def init(self, spec, no_connection=False):
        if no_connection:
            return
        self._spec = Spec(**json.loads(spec))
        self._store = Store(self._spec.path)
        self._note(call="init")

    def get_tables(self, options):
        return []

    def _note(self, **what):
        if self._spec.journal:
            with open(self._spec.journal, "a", encoding="utf-8") as file:
                file.write(json.dumps(what) + "\n")

    def write(self, writer):
        with self._lock:
            self._streams += 1
            stream = self._streams
        for msg in writer:
            if isinstance(msg, message.WriteInsertMessage) and self._spec.pause:
                time.sleep(self._spec.pause)
            with self._lock:
                self._apply(msg, stream)
        with self._lock:
            self._note(call="write", stream=stream, message="end")

    def _apply(self, msg, stream):
        about = {"call": "write", "stream": stream}
        if isinstance(msg, message.WriteMigrateTableMessage):
            force = msg.migrate_force
            self._note(**about, message="migrate", table=msg.table.name, force=force)
            self._store.migrate(msg.table, force)
        elif isinstance(msg, message.WriteInsertMessage):
            name = msg.record.schema.metadata[METADATA_TABLE_NAME].decode("utf-8")
            self._note(**about, message="insert", table=name, rows=msg.record.num_rows)
            if name == self._spec.fail_table:
                raise RuntimeError(f"the disk of {name} is full")
            self._insert(name, msg.record)
        elif isinstance(msg, message.WriteDeleteStale):
            gone = self._store.delete_stale(msg.table_name, msg.source_name, msg.sync_time)
            self._note(**about, message="delete_stale", table=msg.table_name, rows=gone)
        else:
            raise NotImplementedError(f"unknown message {type(msg)}")

    def _insert(self, name, record):
        limit = self._spec.die_after_rows
        if limit is None or self._spec.die_table not in (None, name):
            self._store.insert(record)
            return
        left = limit - self._rows
        self._store.insert(record.slice(0, left))
        self._rows += record.num_rows
        if self._rows >= limit:
            os._exit(137)

    def read(self, table):
        with self._lock:
            self._note(call="read", table=table.name, columns=[c.name for c in table.columns])
            record = self._store.read(table)
        yield message.ReadMessage(record)

    def close(self):
        with self._lock:
            if self._store is not None:
                self._note(call="close")
                self._store.close()
                self._store = None


if __name__ == "__main__":
    serve.PluginCommand(Destination()).run(sys.argv[1:])
