"""dlt does one case; run by the Python that has dlt."""

import json
import sys

import dlt
from dlt.destinations import duckdb, filesystem, postgres
from dlt.sources.sql_database import sql_table

request = json.loads(sys.argv[1])
# SQLAlchemy 2.1 takes `postgresql://` for psycopg 3, and dlt's extra installs psycopg 2.
source = request["source"].replace("postgresql://", "postgresql+psycopg2://")
options = {
    "credentials": source,
    "schema": "public",
    "table": request["table"],
    "backend": "pyarrow",
    "chunk_size": 50000,
    "reflection_level": "full_with_precision",
}
if "file" in request:
    options["credentials"] = f"sqlite:///{request['file']}"
    del options["schema"]
if request["mode"] == "merge":
    options["incremental"] = dlt.sources.incremental(request["cursor"])
rows = sql_table(**options)
rows.apply_hints(table_name="lineitem")
if request["mode"] == "merge":
    merge = {"disposition": "merge", "strategy": "delete-insert"}
    rows.apply_hints(primary_key=request["key"], write_disposition=merge)
out = request["out"]
destination = {
    "postgres": lambda: postgres(request["destination"]),
    "duckdb": lambda: duckdb(f"{out}/lineitem.duckdb"),
    "parquet": lambda: filesystem(f"file://{out}"),
}[request["to"]]()
pipeline = dlt.pipeline(request["pipeline"], destination=destination, dataset_name="bench")
print(
    pipeline.run(
        rows,
        write_disposition="replace" if request["mode"] == "replace" else None,
        loader_file_format="parquet" if request["to"] == "parquet" else None,
    )
)
