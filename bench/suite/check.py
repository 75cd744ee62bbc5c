"""Checks what a run has left behind: every value, source against destination.

Whatever the destination is, its rows come back into PostgreSQL, and PostgreSQL computes the same
count and the same sum of hashes over both. Files and DuckDB's databases are read by DuckDB, printed
as CSV and loaded into a table with the source's types.
"""

import os
import subprocess

from . import data

# What a peer makes of a type is its own business as long as the value is the same; `char(25)` comes
# back with or without its padding.
EXPRESSIONS = ", ".join(
    f"rtrim({name}::text)" if kind.startswith("char") else f"{name}::{kind.split()[0]}"
    for name, kind in data.COLUMNS.items()
)
HASH = (
    f"select count(*) || ' rows, ' || sum(hashtextextended(row({EXPRESSIONS})::text, 0)::numeric)"
    " from {table}"
)
SHAPE = """
select string_agg(attname || ' ' || format_type(atttypid, atttypmod)
  || case when attnotnull then ' not null' else '' end, ', ' order by attnum)
from pg_attribute where attrelid = '{table}'::regclass and attnum > 0 and not attisdropped
"""
PRIMARY_KEY = """
select coalesce(pg_get_constraintdef(oid), '') from pg_constraint
where conrelid = '{table}'::regclass and contype = 'p'
"""
EXPORT = """
import sys, duckdb
kind, path, columns = sys.argv[1:4]
connection = duckdb.connect(path if kind == "duckdb" else ":memory:", read_only=kind == "duckdb")
connection.execute("set timezone = 'UTC'")
# It would be drawn into the rows.
connection.execute("set enable_progress_bar = false")
table = f"read_parquet('{path}')" if kind == "parquet" else sys.argv[4]
try:
    connection.execute(f"copy (select {columns} from {table}) to '/dev/stdout' (format csv, header false)")
except duckdb.Error as error:
    sys.exit(str(error))
"""


class Check:
    """Compares results with the source. Hashes of the source are remembered until it changes."""

    def __init__(self, postgres, scratch, python):
        self.postgres, self.scratch, self.python = postgres, scratch, python
        self.sources = {}

    def changed(self, table):
        """The source table has changed."""
        self.sources.pop(table, None)

    def source(self, table):
        """The count and the hash of a source table."""
        if table not in self.sources:
            self.sources[table] = self.postgres.run("src", HASH.format(table=table))
        return self.sources[table]

    def table(self, source, database, table, exact=False):
        """Compares a table of PostgreSQL. `exact`: also types, NOT NULL and the primary key."""
        try:
            found = self.postgres.run(database, HASH.format(table=table))
            verdict = self._verdict(source, found)
            if verdict == "same" and exact:
                return self._shape(source, database, table)
            return verdict
        except RuntimeError as error:
            return f"DIFFERS: {str(error).splitlines()[-1]}"

    def _shape(self, source, database, table):
        for query, what in ((SHAPE, "types"), (PRIMARY_KEY, "the primary key")):
            there = self.postgres.run("src", query.format(table=source))
            here = self.postgres.run(database, query.format(table=table))
            if there != here:
                return f"DIFFERS: {what}: {here or 'none'} instead of {there}"
        return "same"

    def parquet(self, source, pattern):
        """Compares Parquet files."""
        return self._through_duckdb(source, "parquet", pattern)

    def duckdb(self, source, path, table, python=None):
        """Compares a table of a DuckDB file. A later DuckDB's file is read by that one's Python."""
        return self._through_duckdb(source, "duckdb", path, table, python=python)

    def _through_duckdb(self, source, *what, python=None):
        python = python or self.python
        if not python:
            return "not checked: DuckDB is not installed (bench/run --install)"
        columns = ", ".join(data.COLUMNS)
        load = f"copy checked ({columns}) from stdin (format csv)"
        self.postgres.run(
            "postgres", "drop table if exists checked", data.definition("checked").replace(
                "create table", "create unlogged table")
        )  # fmt: skip
        kind, path, *table = what
        export = subprocess.Popen(
            [python, "-c", EXPORT, kind, path, columns, *table],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.scratch,
        )  # fmt: skip
        done = subprocess.run(
            [*self.postgres.psql("postgres"), "-c", load],
            stdin=export.stdout, capture_output=True, text=True, check=False,
        )  # fmt: skip
        errors = export.communicate()[1].decode()
        if export.returncode or done.returncode:
            said = (errors or done.stderr).strip().splitlines()
            return f"DIFFERS: {said[-1] if said[0].startswith('Traceback') else said[0]}"
        found = self.postgres.run("postgres", HASH.format(table="checked"), "drop table checked")
        return self._verdict(source, found)

    def _verdict(self, source, found):
        there = self.source(source)
        if there == found:
            return "same"
        rows, others = found.split(" ")[0], there.split(" ")[0]
        return f"DIFFERS: {rows} rows instead of {others}" if rows != others else (
            "DIFFERS: other values in as many rows"
        )  # fmt: skip


def size(path):
    """MiB of a file or of all files below a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path) / 2**20
    files = (os.path.join(at, name) for at, _, names in os.walk(path) for name in names)
    return sum(os.path.getsize(file) for file in files) / 2**20
