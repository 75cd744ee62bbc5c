"""DuckDB does one case; run by the Python that has DuckDB and its extensions."""

import glob
import json
import os
import sys

import duckdb

request = json.loads(sys.argv[1])
case, table, out = request["case"], request["table"], request["out"]
into_file = case in ("B", "F-csv-duckdb")
connection = duckdb.connect(f"{out}/lineitem.duckdb" if into_file else ":memory:")


def load(name):
    """Loads an extension from its Python package: no network."""
    module = __import__(f"duckdb_extension_{name}")
    folder = os.path.dirname(module.__file__)
    file = glob.glob(f"{folder}/extensions/*/*.duckdb_extension")[0]
    connection.execute(f"load '{file}'")


load("postgres_scanner")
connection.execute("set timezone = 'UTC'")
if not case.startswith("F-"):
    connection.execute(f"attach '{request['source']}' as src (type postgres, read_only)")
if case.startswith("A-") or case.endswith("-pg"):
    connection.execute(f"attach '{request['destination']}' as dst (type postgres)")
read = f"src.public.{table}"
if case == "F-sqlite-pg":
    load("sqlite_scanner")
    connection.execute(f"attach '{request['file']}' as lite (type sqlite, read_only)")
    read = f"lite.{table}"
elif case.startswith("F-csv"):
    read = f"read_csv('{request['file']}')"
if case.startswith("C-"):
    compression = case.removeprefix("C-")
    connection.execute(
        f"copy (from {read}) to '{out}/lineitem.parquet' (format parquet, compression {compression})"
    )
else:
    target = "lineitem" if into_file else "dst.public.lineitem"
    connection.execute(f"create table {target} as from {read}")
if case == "A-key":
    connection.execute(
        "call postgres_execute('dst', 'alter table lineitem add primary key (l_orderkey, l_linenumber)')"
    )
connection.close()
