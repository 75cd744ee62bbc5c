#!/usr/bin/env -S python3 -SEs
"""An Airbyte source for tests, without any package, so that it starts in milliseconds.

Its configuration (--config):
  script     a JSON file {"catalog": [streams], "spec": {...}?, "check": "message of a failure"?,
             "lines": [...]}. `read` does each of `lines` in turn: a string is printed as it is, an
             object with "type" as JSON, any other object is one of
               {"sleep": SECONDS} {"exit": CODE} {"kill": SIGNAL} {"stderr": TEXT}
               {"repeat": N, "line": LINE}  {i} in LINE is the number, from 0
               {"raw_bytes": N}             one line of N bytes that is no JSON
               {"close_stdout": true} {"hang": true} {"wait_for": FILE}
             {"discover": [...]} and {"check_lines": [...]} in the script do the same there.
  save_args  a folder: every call writes NUMBER/argv.json there and copies its files beside it.
  rows_file  instead of "lines": a file of rows, one {"stream": NAME, "data": {...}} a line, read by
             a cursor: a stream given with a state gets its rows with cursor >= the state's. With
             state_every (100) rows a STATE, delay_ms before each row, die_after rows (exit by
             SIGKILL), exit_code after die_after instead, incomplete: [streams] that end INCOMPLETE
             with exit code 0, no_status: true, global: true (GLOBAL states), emitted_at (ms).
The catalog of `rows_file` is the script's, or made from the rows: cursor `updated_at`, key `id`.
"""

import json
import os
import sys
import time


def put(text):
    sys.stdout.write(text + "\n")


def say(kind, key, body):
    put(json.dumps({"type": kind, key: body}, separators=(",", ":")))


def now():
    return int(time.time() * 1000)


def options(argv):
    """`--name value` and `--name=value` pairs after the command."""
    found, rest = {}, list(argv)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals:
                value = rest.pop(0) if rest and not rest[0].startswith("--") else ""
            found[name] = value
    return found


def load(path, default=None):
    if not path:
        return default
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def save_args(folder, args):
    os.makedirs(folder, exist_ok=True)
    number = 1
    while True:
        try:
            os.mkdir(os.path.join(folder, str(number)))
            break
        except FileExistsError:
            number += 1
    to = os.path.join(folder, str(number))
    for name in ("config", "catalog", "state"):
        if args.get(name):
            with open(args[name], "rb") as source, open(os.path.join(to, name + ".json"), "wb") as copy:
                copy.write(source.read())
    with open(os.path.join(to, "argv.json"), "w", encoding="utf-8") as file:
        json.dump({"argv": sys.argv, "cwd": os.getcwd(), "pid": os.getpid()}, file)


def play(lines):
    for line in lines:
        if isinstance(line, str):
            put(line)
        elif "type" in line:
            put(json.dumps(line, separators=(",", ":")))
        elif "repeat" in line:
            text = line["line"]
            if not isinstance(text, str):
                text = json.dumps(text, separators=(",", ":"))
            for number in range(line["repeat"]):
                put(text.replace('"{i}"', str(number)).replace("{i}", str(number)))
        elif "raw_bytes" in line:
            left = line["raw_bytes"]
            while left > 0:
                sys.stdout.write("x" * min(left, 1 << 16))
                left -= 1 << 16
            put("")
        elif "stderr" in line:
            sys.stderr.write(line["stderr"] + "\n")
            sys.stderr.flush()
        else:
            sys.stdout.flush()
            act(line)


def act(line):
    """What needs all output before it to be out."""
    if "sleep" in line:
        time.sleep(line["sleep"])
    elif "wait_for" in line:
        while not os.path.exists(line["wait_for"]):
            time.sleep(0.005)
    elif "hang" in line:
        while True:
            time.sleep(3600)
    elif "exit" in line:
        sys.exit(line["exit"])
    elif "kill" in line:
        os.kill(os.getpid(), line["kill"])
        time.sleep(60)
    elif "close_stdout" in line:
        os.close(1)
        sys.stdout = open(os.devnull, "w")
    else:
        sys.exit("scripted_source.py: unknown line: %s" % line)


def rows_of(config):
    streams = {}
    with open(config["rows_file"], encoding="utf-8") as file:
        for line in file:
            if line.strip():
                row = json.loads(line)
                streams.setdefault((row.get("namespace"), row["stream"]), []).append(row["data"])
    return streams


def kind_of(value):
    for python, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (dict, "object"), (list, "array")):
        if isinstance(value, python):
            return name
    return "string"


def catalog_of(config, script):
    if "catalog" in script or "rows_file" not in config:
        return script.get("catalog", [])
    streams = []
    for (namespace, name), rows in rows_of(config).items():
        properties = {}
        for row in rows:
            for field, value in row.items():
                if value is not None:
                    properties.setdefault(field, {"type": ["null", kind_of(value)]})
        stream = {
            "name": name,
            "json_schema": {"type": "object", "properties": properties},
            "supported_sync_modes": ["full_refresh", "incremental"],
            "source_defined_cursor": True,
            "default_cursor_field": ["updated_at"],
            "source_defined_primary_key": [["id"]],
            "is_resumable": True,
        }
        if namespace:
            stream["namespace"] = namespace
        streams.append(stream)
    return streams


def descriptor(namespace, name):
    return {"name": name, "namespace": namespace} if namespace else {"name": name}


def states_of(given):
    """The cursors in a state file, STREAM or GLOBAL, by stream."""
    found = {}
    for state in given if isinstance(given, list) else []:
        parts = [state["stream"]] if state.get("stream") else state.get("global", {}).get("stream_states", [])
        for part in parts:
            name = part["stream_descriptor"]
            found[(name.get("namespace"), name["name"])] = part.get("stream_state") or {}
    return found


def read_rows(config, catalog, given):
    rows, states, total = rows_of(config), states_of(given), 0
    every, delay = config.get("state_every", 100), config.get("delay_ms", 0) / 1000
    for entry in catalog["streams"]:
        stream = entry["stream"]
        key = (stream.get("namespace"), stream["name"])
        cursor = (entry.get("cursor_field") or stream.get("default_cursor_field") or ["updated_at"])[0]
        incremental = entry["sync_mode"] == "incremental"

        def status(word):
            if not config.get("no_status"):
                body = {"stream_descriptor": descriptor(*key), "status": word}
                say("TRACE", "trace", {"type": "STREAM_STATUS", "emitted_at": float(now()), "stream_status": body})

        def checkpoint(count):
            part = {"stream_descriptor": descriptor(*key), "stream_state": states.get(key, {})}
            if config.get("global"):
                parts = [{"stream_descriptor": descriptor(*k), "stream_state": s} for k, s in states.items()]
                body = {"type": "GLOBAL", "global": {"shared_state": {"total": total}, "stream_states": parts}}
            else:
                body = {"type": "STREAM", "stream": part}
            body["sourceStats"] = {"recordCount": float(count)}
            say("STATE", "state", body)
            sys.stdout.flush()

        status("STARTED")
        if key not in rows:
            status("INCOMPLETE")
            continue
        low = states.get(key, {}).get(cursor) if incremental else None
        chosen = rows[key]
        if incremental:
            # Rows without a cursor come once, with the first load.
            chosen = [r for r in chosen if low is None or (r.get(cursor) is not None and r[cursor] >= low)]
            chosen.sort(key=lambda r: (r.get(cursor) is not None, r.get(cursor) if r.get(cursor) is not None else 0))
        count = 0
        for index, data in enumerate(chosen):
            if index == 0:
                status("RUNNING")
            if delay:
                sys.stdout.flush()
                time.sleep(delay)
            record = {"stream": key[1], "data": data, "emitted_at": config.get("emitted_at") or now()}
            if key[0]:
                record["namespace"] = key[0]
            say("RECORD", "record", record)
            count, total = count + 1, total + 1
            if incremental and data.get(cursor) is not None:
                states[key] = {cursor: data[cursor]}
            if config.get("die_after") == total:
                act_now = {"exit": config["exit_code"]} if "exit_code" in config else {"kill": 9}
                sys.stdout.flush()
                act(act_now)
            if count == every and index + 1 < len(chosen):
                if incremental:
                    checkpoint(count)
                    count = 0
        if stream["name"] in config.get("incomplete", []):
            status("INCOMPLETE")
            continue
        checkpoint(count)
        status("COMPLETE")


def main():
    command, args = (sys.argv[1:2] or ["spec"])[0], options(sys.argv[2:])
    config = load(args.get("config"), {})
    script = load(config.get("script"), {})
    if config.get("save_args"):
        save_args(config["save_args"], args)
    if command == "spec":
        properties = {"script": {"type": "string"}, "password": {"type": "string", "airbyte_secret": True}}
        schema = {"type": "object", "properties": properties, "additionalProperties": True}
        say("SPEC", "spec", script.get("spec") or {"connectionSpecification": schema, "protocol_version": "0.18.0"})
    elif command == "check":
        play(script.get("check_lines", []))
        bad = script.get("check")
        say("CONNECTION_STATUS", "connectionStatus", {"status": "FAILED", "message": bad} if bad else {"status": "SUCCEEDED"})
    elif command == "discover":
        play(script.get("discover", []))
        say("CATALOG", "catalog", {"streams": catalog_of(config, script)})
    elif command == "read":
        if "rows_file" in config:
            read_rows(config, load(args["catalog"]), load(args.get("state"), []))
        play(script.get("lines", []))
    else:
        sys.exit("scripted_source.py: unknown command " + command)
    sys.stdout.flush()


try:
    main()
except BrokenPipeError:
    os._exit(141)
