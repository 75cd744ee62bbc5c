#!/usr/bin/env python3
"""A small Airbyte destination into SQLite, on airbyte_cdk's own destination class.

Configuration: path (the database), fail_at_record (fail before that record, counted from 1),
log_file (every message it gets, as it came, for tests). A stream is a table with a column per
top-level field; objects and arrays as JSON text. A STATE is echoed after the commit of what came
before it. `overwrite`, and a minimum generation above that of the table, fill a second table which
takes the place of the first at a COMPLETE of the stream; `append_dedup` keeps the last row by key.
"""

import json
import sqlite3
import sys

from airbyte_cdk.destinations import Destination
from airbyte_cdk.models import (
    AirbyteConnectionStatus,
    AirbyteStateStats,
    AirbyteStreamStatus,
    ConnectorSpecification,
    DestinationSyncMode,
    Status,
    Type,
)


def quote(name):
    return '"' + name.replace('"', '""') + '"'


def name_of(namespace, stream):
    return f"{namespace}__{stream}" if namespace else stream


class Table:
    def __init__(self, database, entry):
        self.database = database
        self.name = name_of(entry.stream.namespace, entry.stream.name)
        self.dedup = entry.destination_sync_mode == DestinationSyncMode.append_dedup
        self.key = [path[0] for path in entry.primary_key or []]
        if self.dedup and not self.key:
            raise ValueError(f"{self.name}: append_dedup needs a primary key")
        minimum = entry.minimum_generation_id or 0
        if minimum not in (0, entry.generation_id):
            raise ValueError(f"{self.name}: cannot execute a hybrid refresh")
        try:
            found = database.execute(f"SELECT min(_airbyte_generation_id) FROM {quote(self.name)}").fetchone()[0]
        except sqlite3.OperationalError:
            found = minimum  # no table: nothing to replace
        overwrite = entry.destination_sync_mode == DestinationSyncMode.overwrite
        self.replace = overwrite or (minimum > 0 and (found or 0) < minimum)
        self.into = self.name + "__new" if self.replace else self.name
        self.columns = list(entry.stream.json_schema.get("properties", {}))
        if self.replace:
            database.execute(f"DROP TABLE IF EXISTS {quote(self.into)}")
        columns = [quote(c) for c in self.columns] + ["_airbyte_extracted_at", "_airbyte_generation_id"]
        if self.dedup:
            columns.append(f"PRIMARY KEY ({', '.join(map(quote, self.key))})")
        database.execute(f"CREATE TABLE IF NOT EXISTS {quote(self.into)} ({', '.join(columns)})")
        self.generation = entry.generation_id

    def insert(self, record):
        values = [record.data.get(c) for c in self.columns]
        values = [json.dumps(v) if isinstance(v, (dict, list)) else v for v in values]
        values += [record.emitted_at, self.generation]
        marks = ", ".join("?" * len(values))
        self.database.execute(f"INSERT OR REPLACE INTO {quote(self.into)} VALUES ({marks})", values)

    def complete(self):
        if self.replace:
            self.database.execute(f"DROP TABLE IF EXISTS {quote(self.name)}")
            self.database.execute(f"ALTER TABLE {quote(self.into)} RENAME TO {quote(self.name)}")
            self.replace, self.into = False, self.name


class DestinationSqlite(Destination):
    def spec(self, logger):
        properties = {
            "path": {"type": "string", "title": "Database file"},
            "fail_at_record": {"type": "integer"},
            "log_file": {"type": "string"},
        }
        return ConnectorSpecification(
            connectionSpecification={
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "object",
                "required": ["path"],
                "additionalProperties": False,
                "properties": properties,
            },
            supportsIncremental=True,
            supported_destination_sync_modes=[
                DestinationSyncMode.append,
                DestinationSyncMode.overwrite,
                DestinationSyncMode.append_dedup,
            ],
            protocol_version="0.18.0",
        )

    def check(self, logger, config):
        try:
            sqlite3.connect(config["path"]).execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.Error as error:
            return AirbyteConnectionStatus(status=Status.FAILED, message=str(error))
        return AirbyteConnectionStatus(status=Status.SUCCEEDED)

    def write(self, config, configured_catalog, input_messages):
        log = open(config["log_file"], "a", encoding="utf-8") if "log_file" in config else None
        database = sqlite3.connect(config["path"])
        tables = {}
        for entry in configured_catalog.streams:
            tables[(entry.stream.namespace, entry.stream.name)] = Table(database, entry)
        total, counts = 0, dict.fromkeys(tables, 0)
        for message in input_messages:
            if log:
                log.write(f"{message}\n")
                log.flush()
            if message.type == Type.RECORD:
                total += 1
                if total == config.get("fail_at_record"):
                    raise RuntimeError(f"asked to fail at record {total}")
                key = (message.record.namespace, message.record.stream)
                tables[key].insert(message.record)
                counts[key] += 1
            elif message.type == Type.STATE:
                database.commit()
                stream = message.state.stream
                if stream:
                    key = (stream.stream_descriptor.namespace, stream.stream_descriptor.name)
                    count, counts[key] = counts.get(key, 0), 0
                else:
                    count, counts = sum(counts.values()), dict.fromkeys(counts, 0)
                message.state.destinationStats = AirbyteStateStats(recordCount=float(count))
                yield message
                sys.stdout.flush()
            elif message.type == Type.TRACE and message.trace.stream_status:
                status = message.trace.stream_status
                if status.status == AirbyteStreamStatus.COMPLETE:
                    tables[(status.stream_descriptor.namespace, status.stream_descriptor.name)].complete()
        database.commit()


if __name__ == "__main__":
    DestinationSqlite().run(sys.argv[1:])
