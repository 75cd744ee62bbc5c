"""Finds the peers, and installs those that their registries have, into a folder of their own."""

import glob
import os
import shutil
import subprocess
import sys

from .tools import Dlt, DuckDb, Highwater, Ingestr, Limit, Sling

DUCKDB = "1.5.5"
# Each into an environment of its own, so that no peer changes another one's versions.
PACKAGES = {
    "duckdb": [
        f"duckdb=={DUCKDB}", f"duckdb-extensions=={DUCKDB}",
        f"duckdb-extension-postgres-scanner=={DUCKDB}", f"duckdb-extension-sqlite-scanner=={DUCKDB}",
    ],
    # Later wheels fetch their program from elsewhere when they are imported.
    "sling": ["sling-linux-amd64==1.4.11"],
    "dlt": [
        "dlt[postgres,duckdb,sqlalchemy,parquet,sql-database]==1.31.0", "psycopg2-binary", "pyarrow",
        "pandas", "numpy",
    ],
}  # fmt: skip
# The library that highwater loads; the Python package has none that can be loaded by others.
LIBRARY = f"@duckdb/node-bindings-linux-x64@{DUCKDB}-r.5"
NAMES = ["limit", "highwater", "duckdb", "sling", "dlt", "ingestr"]


def install(folder, names):
    """Installs the peers of these names that are not there yet. One that fails is left out."""
    os.makedirs(folder, exist_ok=True)
    for name in PACKAGES:
        environment = f"{folder}/{name}"
        done = f"{environment}/.installed"
        if name not in names or os.path.exists(done):
            continue
        print(f"installing {name} ...", flush=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
            pip = [f"{environment}/bin/pip", "install", "-q", *PACKAGES[name]]
            subprocess.run(pip, check=True)
            with open(done, "w", encoding="utf-8"):
                pass
        except subprocess.CalledProcessError as error:
            print(f"{name} could not be installed: {error}", file=sys.stderr)
    if "highwater" in names and not duckdb_library(folder):
        print("installing DuckDB's library ...", flush=True)
        npm = ["npm", "install", "--silent", "--prefix", f"{folder}/libduckdb", LIBRARY]
        try:
            subprocess.run(npm, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"DuckDB's library could not be installed: {error}", file=sys.stderr)


def found(folder, highwater, names):
    """The tools of these names that are there."""
    tools, missing = [], []
    for name in names:
        tool = _find(name, folder, highwater)
        if tool:
            tools.append(tool)
        else:
            missing.append(name)
    return tools, missing


def _find(name, folder, highwater):
    python = f"{folder}/{name}/bin/python"
    if name == "limit":
        return Limit()
    if name == "highwater":
        return Highwater(highwater, duckdb_library(folder)) if os.path.exists(highwater) else None
    if name == "duckdb":
        return DuckDb(python) if os.path.exists(python) else None
    if name == "dlt":
        return Dlt(python) if os.path.exists(python) else None
    if name == "sling":
        pattern = f"{folder}/sling/lib/python3*/site-packages/sling_linux_amd64/bin/sling-linux-amd64"
        wheel = glob.glob(pattern)
        for program in wheel:
            os.chmod(program, 0o755)
        program = os.environ.get("SLING_BIN") or (wheel[0] if wheel else shutil.which("sling"))
        return Sling(program, folder) if program else None
    if name == "ingestr":
        program = os.environ.get("INGESTR_BIN") or shutil.which("ingestr")
        return Ingestr(program) if program else None
    return None


def duckdb_library(folder):
    """DuckDB's library for highwater: the one that is set, else the one that was installed here, of
    the same version as the peer."""
    chosen = os.environ.get("HIGHWATER_DUCKDB_LIB")
    packages = glob.glob(f"{folder}/libduckdb/**/libduckdb.so", recursive=True)
    return chosen or (packages[0] if packages else None)
