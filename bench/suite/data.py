"""The data: a `lineitem` like TPC-H's, computed from row numbers, so the same on every machine.

A table of each size in database `src`, its copies as CSV and as SQLite, and copies of it that change
during a round.
"""

import os
import sqlite3

KEY = ["l_orderkey", "l_linenumber"]
CURSOR = "updated_at"
COLUMNS = {
    "l_orderkey": "bigint not null",
    "l_linenumber": "int not null",
    "l_partkey": "bigint not null",
    "l_suppkey": "bigint not null",
    "l_quantity": "numeric(15,2) not null",
    "l_extendedprice": "numeric(15,2) not null",
    "l_discount": "numeric(15,2) not null",
    "l_tax": "numeric(15,2) not null",
    "l_returnflag": "char(1) not null",
    "l_linestatus": "char(1) not null",
    "l_shipdate": "date not null",
    "l_commitdate": "date",
    "l_shipinstruct": "char(25) not null",
    "l_shipmode": "varchar(10) not null",
    "l_comment": "varchar(44)",
    "updated_at": "timestamptz not null",
}
ROWS = """
select 1+(i-1)/4, 1+(i-1)%4, 1+(i*7919)%200000, 1+(i*104729)%10000,
  1+(i*31)%50, (90000+(i*7919)%1000000)/100.0, (i%11)/100.0, (i%9)/100.0,
  substr('RAN',1+(i%3)::int,1), substr('OF',1+(i%2)::int,1), date '1992-01-02'+(i*37%2526)::int,
  case when i%50=0 then null else date '1992-01-31'+(i*41%2466)::int end,
  (array['DELIVER IN PERSON','COLLECT COD','NONE','TAKE BACK RETURN'])[1+i%4],
  (array['REG AIR','AIR','RAIL','SHIP','TRUCK','MAIL','FOB'])[1+i%7],
  case when i%97=0 then null else 'comment '||substr(md5(i::text),1,(8+i%24)::int) end,
  timestamptz '2024-01-01 00:00:00+00' + i*interval '1.000001 second'
from generate_series(1,{rows}::bigint) i
"""
SQLITE_TYPES = {"bigint": "integer", "int": "integer", "timestamptz": "timestamp"}


def definition(table, key=False):
    """The statement that makes an empty table."""
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    primary = f", primary key ({', '.join(KEY)})" if key else ""
    return f"create table {table} ({columns}{primary})"


def name(rows):
    """The table of that many rows."""
    return f"lineitem_{rows}"


def source(postgres, rows):
    """Makes the table in database `src`, where it is not there yet."""
    table = name(rows)
    exists = "select count(*) from pg_database where datname = 'src'"
    if postgres.run("postgres", exists) == "0":
        postgres.run("postgres", "create database src")
    if postgres.run("src", f"select to_regclass('{table}') is not null") == "t":
        return table
    print(f"making {table} ...", flush=True)
    postgres.run(
        "src",
        f"drop table if exists {table}_unfinished",
        definition(f"{table}_unfinished"),
        f"insert into {table}_unfinished {ROWS.format(rows=rows)}",
        f"alter table {table}_unfinished add primary key ({', '.join(KEY)})",
        f"create index on {table}_unfinished ({CURSOR})",
        f"vacuum (analyze, freeze) {table}_unfinished",
        f"alter table {table}_unfinished rename to {table}",
    )
    return table


def changing(postgres, rows, table):
    """A copy of the table, to which `change` can be done."""
    postgres.run(
        "src",
        f"drop table if exists {table}",
        f"create table {table} (like {name(rows)} including all)",
        f"insert into {table} select * from {name(rows)}",
        f"vacuum (analyze) {table}",
    )


def change(postgres, rows, table, changed):
    """Updates `changed` rows and adds as many, with the clock's time as applications do it."""
    share = max(rows // changed, 4)
    columns = ", ".join(COLUMNS).replace("l_orderkey", "l_orderkey + 100000000", 1)
    moved = columns.replace(CURSOR, "clock_timestamp()")
    postgres.run(
        "src",
        f"update {table} set l_quantity = l_quantity + 1, {CURSOR} = clock_timestamp()"
        f" where l_orderkey % {share} = 3",
        f"insert into {table} select {moved} from {name(rows)} where l_orderkey % {share} = 1",
        f"analyze {table}",
        # Sets the hint bits, so that the first reader does not pay for all.
        f"select count(*) from {table}",
    )


def delete(postgres, rows, table, count):
    """Deletes `count` rows, spread over the table."""
    share = max(rows // 4 // count, 1)
    postgres.run("src", f"delete from {table} where l_linenumber = 2 and l_orderkey % {share} = 0"
                 " and l_orderkey < 100000000")  # fmt: skip


def binary(postgres, rows, folder):
    """The table as a file of COPY BINARY."""
    return _copy(postgres, rows, f"{folder}/{name(rows)}.bin", "format binary")


def csv(postgres, rows, folder):
    """The table as a CSV file."""
    return _copy(postgres, rows, f"{folder}/{name(rows)}.csv", "format csv, header")


def _copy(postgres, rows, path, options):
    if not os.path.exists(path):
        unfinished = f"{path}.unfinished"
        postgres.run("src", f"\\copy {name(rows)} to '{unfinished}' ({options})")
        os.rename(unfinished, path)
    return path


def sqlite(postgres, rows, folder):
    """The table as a SQLite database."""
    path = f"{folder}/{name(rows)}.sqlite"
    if os.path.exists(path):
        return path
    import csv as reader

    unfinished = f"{path}.unfinished"
    if os.path.exists(unfinished):
        os.remove(unfinished)
    connection = sqlite3.connect(unfinished)
    kinds = (
        f"{column} {SQLITE_TYPES.get(kind.split()[0], kind.split()[0])}"
        + (" not null" if "not null" in kind else "")
        for column, kind in COLUMNS.items()
    )
    connection.execute(
        f"create table {name(rows)} ({', '.join(kinds)}, primary key ({', '.join(KEY)}))"
    )
    with open(csv(postgres, rows, folder), encoding="utf-8", newline="") as file:
        lines = reader.reader(file)
        next(lines)
        marks = ", ".join("?" * len(COLUMNS))
        connection.executemany(
            f"insert into {name(rows)} values ({marks})",
            ([value or None for value in line] for line in lines),
        )
    connection.commit()
    connection.close()
    os.rename(unfinished, path)
    return path
