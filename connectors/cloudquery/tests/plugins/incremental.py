"""An incremental source on CloudQuery's Python SDK, for the tests of the state proxy.

It does what real plugins do and what loses rows (with CloudQuery): the resolver of `events` hands a
row over, moves the cursor and FLUSHES the state in the middle of the read, long before its rows can
be durable anywhere. All messages come from the SDK's own scheduler, server and state client.

Tables: `events` (id, at, payload; incremental), its child `event_lines` (event_id, line, text), and
`accounts` (region, number, name, ref uuid, extra json; read in full). The "API" is a JSON file:

    {"events": [{"id": 1, "at": "2026-01-01T00:00:01Z", "payload": "…",
                 "lines": [{"line": 1, "text": "…"}]}],
     "accounts": [{"region": "eu", "number": 1, "name": "…", "ref": "<uuid>", "extra": {…}}]}

`at` has this one form, so that its text sorts as its time does. A read asks for `at >= cursor`: the
row at the cursor comes again. The state key is `events`, its value the greatest `at` handed over.
Close is left as the SDK has it, so it answers UNKNOWN, as in many real plugins.
"""

import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Optional

import pyarrow as pa
from cloudquery.sdk import message, plugin, schema, serve
from cloudquery.sdk.plugin.plugin import Options
from cloudquery.sdk.scheduler import Scheduler, TableResolver
from cloudquery.sdk.stateclient.stateclient import StateClientBuilder
from cloudquery.sdk.types import JSONType, UUIDType

STATE_KEY = "events"


@dataclass
class Spec:
    """What the test says."""

    data: str  # the file that stands for the API
    flush_every: int = 1000  # rows of `events` between two flushes; 0: only at the end
    rows_per_message: int = 1  # the SDK sends 1; more: neighbours of one table are joined
    checkpoints: bool = False  # send the state on the stream where the host asks for it
    fail_table: Optional[str] = None  # this table's resolver raises …
    fail_after: int = 0  # … after so many rows
    die_after: Optional[int] = None  # the process ends (137) after so many rows of `events`
    hang_after: Optional[int] = None  # the read of `events` stops for ever after so many rows
    requests: Optional[str] = None  # a file to which each request to the "API" is added
    concurrency: int = 10


def column(name, kind, key=False, cursor=False):
    return schema.Column(name, kind, primary_key=key, not_null=key, incremental_key=cursor)


def all_tables():
    lines = schema.Table(
        name="event_lines",
        title="Event lines",
        description="The lines of an event",
        columns=[
            column("event_id", pa.int64(), key=True),
            column("line", pa.int64(), key=True),
            column("text", pa.string()),
        ],
    )
    events = schema.Table(
        name="events",
        title="Events",
        description="What happened",
        is_incremental=True,
        relations=[lines],
        columns=[
            column("id", pa.int64(), key=True),
            column("at", pa.timestamp("us", tz="UTC"), cursor=True),
            column("payload", pa.string()),
        ],
    )
    lines.parent = events
    accounts = schema.Table(
        name="accounts",
        title="Accounts",
        description="Who there is",
        columns=[
            column("region", pa.string(), key=True),
            column("number", pa.int64(), key=True),
            column("name", pa.string()),
            column("ref", UUIDType()),
            column("extra", JSONType()),
        ],
    )
    return [events, accounts]


class Client:
    def id(self):
        return "incremental"


class Resolver(TableResolver):
    """Reads one table of the "API"; fails where the test says so."""

    def __init__(self, table, run):
        children = [RESOLVERS[child.name](child, run) for child in table.relations]
        super().__init__(table=table, child_resolvers=children)
        self.run = run

    def rows(self, _parent):
        found = self.run.data[self.table.name]
        self.run.request(self.table.name, None, len(found))
        yield from found

    def resolve(self, client, parent_resource):
        spec, sent = self.run.spec, 0
        for row in self.rows(parent_resource):
            if spec.fail_table == self.table.name and sent >= spec.fail_after:
                break
            yield row
            sent += 1
        if spec.fail_table == self.table.name:
            raise RuntimeError("the API answered 500")


class Events(Resolver):
    def rows(self, _parent):
        spec, state = self.run.spec, self.run.state
        since = state.get_key(STATE_KEY) or ""
        found = sorted(
            (row for row in self.run.data["events"] if row["at"] >= since),
            key=lambda row: row["at"],
        )
        self.run.request("events", since, len(found))
        for number, row in enumerate(found, start=1):
            yield row
            if row["at"] > since:
                since = row["at"]
                state.set_key(STATE_KEY, since)
            if spec.flush_every and number % spec.flush_every == 0:
                state.flush()
            if spec.die_after is not None and number >= spec.die_after:
                os._exit(137)
            if spec.hang_after is not None and number >= spec.hang_after:
                while True:
                    time.sleep(3600)


class EventLines(Resolver):
    def rows(self, parent):
        for line in parent.item.get("lines", []):
            yield {"event_id": parent.item["id"], **line}


RESOLVERS = {"events": Events, "event_lines": EventLines, "accounts": Resolver}


class Run:
    """What one sync needs."""

    def __init__(self, spec, state):
        self.spec = spec
        self.state = state
        self._lock = threading.Lock()
        with open(spec.data, encoding="utf-8") as file:
            self.data = {"events": [], "accounts": [], **json.load(file)}

    def request(self, table, since, rows):
        if self.spec.requests:
            line = json.dumps({"table": table, "since": since, "rows": rows})
            with self._lock, open(self.spec.requests, "a", encoding="utf-8") as file:
                file.write(line + "\n")


def joined(messages, size):
    """Neighbouring inserts of one table as one message of up to `size` rows."""
    waiting = []

    def flush():
        if waiting:
            batch = pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]
            waiting.clear()
            yield message.SyncInsertMessage(batch)

    for msg in messages:
        if not isinstance(msg, message.SyncInsertMessage):
            yield from flush()
            yield msg
            continue
        if waiting and waiting[0].schema.metadata != msg.record.schema.metadata:
            yield from flush()
        waiting.append(msg.record)
        if len(waiting) >= size:
            yield from flush()
    yield from flush()


class Incremental(plugin.Plugin):
    def __init__(self):
        super().__init__("incremental", "v1.0.0", Options(team="highwater", kind="source"))
        self._logger = None
        self._spec = None

    def set_logger(self, logger):
        self._logger = logger

    def init(self, spec, no_connection=False):
        if not no_connection:
            self._spec = Spec(**json.loads(spec))

    def get_tables(self, options):
        return schema.filter_dfs(
            all_tables(), options.tables, options.skip_tables, options.skip_dependent_tables
        )

    def sync(self, options):
        if self._spec is None:
            raise RuntimeError("sync before init")
        scheduler = Scheduler(self._spec.concurrency, logger=self._logger)
        state = StateClientBuilder.build(
            backend_options=options.backend_options,
            checkpoints=scheduler.checkpoints if self._spec.checkpoints else None,
        )
        scheduler.set_post_sync_hook(state.flush)
        run = Run(self._spec, state)
        resolvers = [RESOLVERS[table.name](table, run) for table in self.get_tables(options)]
        messages = scheduler.sync(Client(), resolvers, options.deterministic_cq_id)
        if self._spec.rows_per_message > 1:
            messages = joined(messages, self._spec.rows_per_message)
        yield from messages


if __name__ == "__main__":
    serve.PluginCommand(Incremental()).run(sys.argv[1:])
