"""What was measured, as a table: medians, beside the pipe of the same run."""

import csv
import os
import statistics

from .cases import CASES

FIELDS = [
    "rows", "case", "tool", "round", "wall_s", "user_s", "system_s", "server_s", "peak_mib",
    "status", "load", "others_s", "result", "note",
]  # fmt: skip


def raw(line):
    """A line of `results.tsv`."""
    m = line.measured
    numbers = (m.wall, m.user, m.system, m.server)
    return [
        line.rows, line.case, line.tool, line.round, *(f"{number:.4f}" for number in numbers),
        f"{m.peak_mib:.1f}", m.status, f"{m.load:.2f}", f"{m.others:.2f}", line.result, line.note,
    ]  # fmt: skip


def read(path):
    """The lines of `results.tsv`, with numbers as numbers."""
    texts = {"case", "tool", "result", "note"}
    with open(path, encoding="utf-8", newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        return [
            {key: value if key in texts else float(value) for key, value in row.items()}
            for row in csv.DictReader(lines, delimiter="\t")
        ]


class Summary:
    """The runs of one tool in one case with so many rows."""

    def __init__(self, rows, case, tool, runs, pipe):
        self.rows, self.case, self.tool, self.runs = int(rows), case, tool, runs
        self.good = [run for run in runs if run["status"] == 0]
        self.wall = self._median(lambda run: run["wall_s"])
        self.client = self._median(lambda run: run["user_s"] + run["system_s"])
        self.server = self._median(lambda run: run["server_s"])
        self.cpu = self._median(_cpu)
        self.peak = max((run["peak_mib"] for run in self.good), default=0)
        self.wall_ratio = self.wall / pipe[0] if pipe and self.good else None
        self.cpu_ratio = self.cpu / pipe[1] if pipe and self.good else None
        self.others = self._median(lambda run: run["others_s"] / max(run["wall_s"], 0.001))

    def _median(self, value):
        return statistics.median(map(value, self.good)) if self.good else 0.0

    @property
    def spread(self):
        walls = [run["wall_s"] for run in self.good] or [0]
        return min(walls), max(walls)

    @property
    def result(self):
        """The worst that was found."""
        found = [run["result"] for run in self.runs if run["result"]]
        for word in ("DIFFERS", "FAILED", "not"):
            bad = next((result for result in found if result.startswith(word)), None)
            if bad:
                return bad
        return found[0] if found else ""


def _cpu(run):
    return run["user_s"] + run["system_s"] + run["server_s"]


def summaries(runs):
    """All of them, in the order of the cases."""
    groups, pipes = {}, {}
    for run in runs:
        groups.setdefault((run["rows"], run["case"], run["tool"]), []).append(run)
    for (rows, case, _), group in groups.items():
        good = [run for run in group if run["status"] == 0]
        if case == "L-pipe" and good:
            wall = statistics.median(run["wall_s"] for run in good)
            pipes[rows] = wall, statistics.median(map(_cpu, good))
    order = list(CASES)
    place = lambda case: order.index(case) if case in order else len(order)
    found = [
        Summary(rows, case, tool, group, pipes.get(rows))
        for (rows, case, tool), group in groups.items()
    ]
    return sorted(found, key=lambda s: (s.rows, place(s.case)))


def markdown(found, notes):
    """The table, and what has to be known to read it."""
    lines = [*notes, ""]
    lines += [
        "| case | tool | rows | runs | wall s (min–max) | client CPU s | server CPU s | × pipe wall"
        " | × pipe CPU | peak MiB | others' CPU | values |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for s in found:
        ratio = lambda value: "–" if value is None else f"{value:.2f}"
        low, high = s.spread
        wall = f"{s.wall:.2f} ({low:.2f}–{high:.2f})"
        numbers = (
            f"{wall} | {s.client:.2f} | {s.server:.2f} | {ratio(s.wall_ratio)} |"
            f" {ratio(s.cpu_ratio)} | {s.peak:.0f} | {s.others:.1f}"
        )
        if not s.good:
            numbers = "– | – | – | – | – | – | –"
        note = s.runs[0]["note"]
        result = os.path.basename(s.result) if s.result.startswith("FAILED") else s.result
        result = "; ".join(text for text in (result, note) if text)
        lines.append(
            f"| {s.case} | {s.tool} | {s.rows:,} | {len(s.runs)} | {numbers} | {result} |"
        )
    lines += ["", *(f"- `{case}`: {title}" for case, title in CASES.items())]
    return "\n".join(lines) + "\n"


def console(line, pipe):
    """One run, as it is printed while the benchmark goes on."""
    m = line.measured
    ratio = f" {m.wall / pipe[0]:6.2f}x {m.cpu / pipe[1]:6.2f}x" if pipe else " " * 16
    return (
        f"{line.case:15} {line.tool:10} {line.rows:>9,} {m.wall:8.2f} s wall {m.client:7.2f} +"
        f" {m.server:6.2f} s CPU{ratio} {m.peak_mib:6.0f} MiB  {m.others:6.1f} s others  {line.result}"
    )
