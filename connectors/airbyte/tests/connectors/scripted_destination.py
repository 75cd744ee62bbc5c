#!/usr/bin/env -S python3 -SEs
"""An Airbyte destination without any library, which does what its configuration says; for tests.

Every line that it reads goes into `lines_file` as it came. It counts records per stream and, unless
told otherwise, echoes each STATE at once with destinationStats. Configuration:

  lines_file       where the lines go (appended)
  catalog_file     where the configured catalog goes
  check            a message: `check` fails with it
  echo             "now" (default), "late" (each with the next one, the last at the end), "end"
                   (all at the end), "never"
  every            echo only each n-th STATE of a stream, and the last
  drop_id          true: echoes have no `id`, as of Python's CDK
  change_state     true: echoes have another content
  stats            false: no destinationStats
  lose             report so many records fewer, in the first echo
  reject           report so many records as rejected, in the first echo
  die_at_record    end before that record (counted from 1), with die_exit (default 1) and, if there
                   is die_message, a TRACE ERROR (die_type: system_error, config_error, ...)
  deaf_at_record   close standard input there, and go on to live until killed
  stderr_bytes     print so much to stderr before anything is read, and so much after each STATE
  log_records      true: a LOG line per record
  slow_start_file  wait until that file exists before anything is read
  need_complete    true: exit code 1 where a stream had no COMPLETE at the end
  exit             the exit code at the end
"""

import json
import os
import sys
import time


def out(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def trace_error(message, kind):
    error = {"message": message, "internal_message": "inside", "failure_type": kind}
    out({"type": "TRACE", "trace": {"type": "ERROR", "emitted_at": time.time() * 1000, "error": error}})


def key_of(part):
    return (part.get("namespace"), part["name"])


class Writing:
    def __init__(self, config, catalog):
        self.config = config
        self.counts = {key_of(entry["stream"]): 0 for entry in catalog["streams"]}
        self.waiting = {}
        self.states = {}
        self.held = []
        self.records = 0
        self.complete = set()
        self.echoed = False

    def record(self, line, record):
        self.records += 1
        config = self.config
        if self.records == config.get("die_at_record"):
            if "die_message" in config:
                trace_error(config["die_message"], config.get("die_type", "system_error"))
            os._exit(config.get("die_exit", 1))
        if self.records == config.get("deaf_at_record"):
            os.close(0)
            while True:
                time.sleep(3600)
        key = (record.get("namespace"), record["stream"])
        if key not in self.counts:
            raise ValueError(f"a record of {key}, which is not in the catalog")
        if key in self.complete:
            raise ValueError(f"a record of {key}, which is complete")
        self.counts[key] += 1
        if config.get("log_records"):
            out({"type": "LOG", "log": {"level": "INFO", "message": "x" * 1000}})

    def state(self, state):
        if state["type"] == "GLOBAL":
            key = None
            count, self.counts = sum(self.counts.values()), dict.fromkeys(self.counts, 0)
        else:
            key = key_of(state["stream"]["stream_descriptor"])
            if key not in self.counts:
                raise ValueError(f"a state of {key}, which is not in the catalog")
            count, self.counts[key] = self.counts[key], 0
        count += self.waiting.pop(key, 0)
        number = self.states[key] = self.states.get(key, 0) + 1
        if number % self.config.get("every", 1):
            self.waiting[key] = count
            self.skipped = (key, state)
            return
        self.hold(state, count)

    def hold(self, state, count):
        how = self.config.get("echo", "now")
        self.held.append((state, count))
        if how == "now":
            self.release(0)
        elif how == "late":
            self.release(1)

    def release(self, keep):
        while len(self.held) > keep:
            self.echo(*self.held.pop(0))

    def echo(self, state, count):
        config = self.config
        if config.get("drop_id"):
            state.pop("id", None)
        if config.get("change_state") and "stream" in state:
            state["stream"]["stream_state"] = {"mine": True}
        lose, reject = (0, 0) if self.echoed else (config.get("lose", 0), config.get("reject", 0))
        self.echoed = True
        if config.get("stats", True):
            stats = {"recordCount": float(count - lose - reject)}
            if reject:
                stats["rejectedRecordCount"] = float(reject)
            state["destinationStats"] = stats
        out({"type": "STATE", "state": state})
        sys.stderr.write("e" * config.get("stderr_bytes", 0))
        sys.stderr.flush()

    def end(self):
        if self.waiting:
            key, state = self.skipped
            self.held.append((state, self.waiting.pop(key, 0)))
        if self.config.get("echo") != "never":
            self.release(0)
        if self.config.get("need_complete") and len(self.complete) < len(self.counts):
            trace_error("Input was fully read, but some streams did not receive a terminal stream status message", "transient_error")
            sys.exit(1)
        sys.exit(self.config.get("exit", 0))


def write(config, catalog):
    if "catalog_file" in config:
        with open(config["catalog_file"], "w", encoding="utf-8") as file:
            json.dump(catalog, file)
    while "slow_start_file" in config and not os.path.exists(config["slow_start_file"]):
        time.sleep(0.005)
    sys.stderr.write("e" * config.get("stderr_bytes", 0))
    sys.stderr.flush()
    lines = open(config["lines_file"], "a", encoding="utf-8") if "lines_file" in config else None
    writing = Writing(config, catalog)
    for line in sys.stdin:
        if lines:
            lines.write(line)
            lines.flush()
        message = json.loads(line)
        if message["type"] == "RECORD":
            writing.record(line, message["record"])
        elif message["type"] == "STATE":
            writing.state(message["state"])
        elif message["type"] == "TRACE":
            status = message["trace"]["stream_status"]
            if status["status"] == "COMPLETE":
                writing.complete.add(key_of(status["stream_descriptor"]))
    writing.end()


def main():
    command, rest = sys.argv[1], sys.argv[2:]
    arguments = dict(zip(rest[::2], rest[1::2]))
    if command == "spec":
        specification = {"type": "object", "properties": {"password": {"type": "string", "airbyte_secret": True}}}
        modes = ["append", "overwrite", "append_dedup"]
        out({"type": "SPEC", "spec": {"connectionSpecification": specification, "supported_destination_sync_modes": modes}})
        return
    with open(arguments["--config"], encoding="utf-8") as file:
        config = json.load(file)
    if command == "check":
        if "check" in config:
            out({"type": "CONNECTION_STATUS", "connectionStatus": {"status": "FAILED", "message": config["check"]}})
        else:
            out({"type": "CONNECTION_STATUS", "connectionStatus": {"status": "SUCCEEDED"}})
        return
    with open(arguments["--catalog"], encoding="utf-8") as file:
        write(config, json.load(file))


if __name__ == "__main__":
    main()
