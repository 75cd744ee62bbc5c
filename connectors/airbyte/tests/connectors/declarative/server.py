#!/usr/bin/env python3
"""A small web service for manifest.yaml: events with `updated_at`, by time range, in pages.

server.py LOG [ROWS]: prints its port, listens on 127.0.0.1, appends each request's path and query
to the file LOG. ROWS (250) events, four hours apart, from 2024-01-01 on. GET /events takes
updated_since and updated_until (both inclusive), page (from 1) and size; GET /add?id=N&updated_at=T
adds or changes an event; GET /fail?times=N lets the next N requests for events fail with status 500.
"""

import datetime
import json
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

log = open(sys.argv[1], "a", buffering=1)
count = int(sys.argv[2]) if len(sys.argv) > 2 else 250
start = datetime.datetime(2024, 1, 1)
events = {}
failures = [0]


def put(number, moment):
    events[number] = {
        "id": number,
        "name": f"event {number}",
        "amount": number * 1.5,
        "tags": ["even" if number % 2 == 0 else "odd"],
        "detail": {"day": moment[:10]},
        "updated_at": moment,
    }


for i in range(count):
    put(i + 1, (start + datetime.timedelta(hours=4 * i)).strftime("%Y-%m-%dT%H:%M:%SZ"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        log.write(self.path + "\n")
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        status, body = 200, {}
        if url.path == "/add":
            put(int(query["id"]), query["updated_at"])
        elif url.path == "/fail":
            failures[0] = int(query["times"])
        elif url.path != "/events":
            status = 404
        elif failures[0] > 0:
            failures[0] -= 1
            status = 500
        else:
            since, until = query.get("updated_since", ""), query.get("updated_until", "9")
            rows = [e for e in events.values() if since <= e["updated_at"] <= until]
            rows.sort(key=lambda e: (e["updated_at"], e["id"]))
            page, size = int(query.get("page", 1)), int(query.get("size", 100))
            body = {"items": rows[(page - 1) * size : page * size], "total": len(rows)}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
