"""The picture: bars of each case and tool, as multiples of the pipe. SVG, written by hand.

Colours come from a style sheet inside, so that it can be read on a light and on a dark page.
"""

from html import escape

PANELS = (
    (
        "A million rows and more: wall clock and CPU, as multiples of psql | psql COPY BINARY",
        ("A-full", "A-cursor", "B", "C-zstd", "F-csv-pg", "F-sqlite-pg", "F-csv-duckdb"),
    ),
    (
        "Small syncs: what changed, nothing changed, deletions",
        ("D-overwrite", "D-append-dedup", "E-overwrite", "G-deleted"),
    ),
)
LABELS = {
    "A-full": "PostgreSQL → PostgreSQL",
    "A-cursor": "…, first sync with a cursor",
    "B": "PostgreSQL → DuckDB file",
    "C-zstd": "PostgreSQL → Parquet",
    "F-csv-pg": "CSV → PostgreSQL",
    "F-sqlite-pg": "SQLite → PostgreSQL",
    "F-csv-duckdb": "CSV → DuckDB file",
    "D-overwrite": "1 % updated, 1 % new",
    "D-append-dedup": "…, with history",
    "E-overwrite": "nothing changed",
    "G-deleted": "100 of all rows deleted",
}
WIDTH, LEFT, RIGHT, BAR, GAP = 860, 250, 190, 9, 14
STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f }
  .small { font-size: 11px; fill: #57606a } .title { font-weight: 600; font-size: 13px }
  .axis { stroke: #d0d7de } .pipe { stroke: #57606a; stroke-dasharray: 4 3 }
  .highwater { fill: #0969da } .peer { fill: #9a9fa6 } .cpu { opacity: .55 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } .axis { stroke: #3d444d }
    .pipe { stroke: #9198a1 } .highwater { fill: #4493f8 } .peer { fill: #757c85 }
  }
"""


class Canvas:
    """Elements from top to bottom."""

    def __init__(self):
        self.y, self.parts = 10, []

    def text(self, x, y, words, kind="", anchor="start"):
        attributes = f' class="{kind}"' if kind else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{attributes}>{escape(words)}</text>'
        )

    def bar(self, x, y, width, kind):
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{BAR}" rx="1.5"'
            f' class="{kind}"/>'
        )

    def line(self, x, top, bottom, kind):
        self.parts.append(f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" class="{kind}"/>')

    def svg(self):
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.y:.0f}"'
            f' width="{WIDTH}" height="{self.y:.0f}" role="img"'
            ' aria-label="highwater and its peers, as multiples of psql COPY">\n'
            f"<style>{STYLE}</style>\n" + "\n".join(self.parts) + "\n</svg>\n"
        )


def draw(found, about):
    """The picture of the largest table that was measured with the most cases."""
    sizes = [s.rows for s in found if s.good and s.cpu_ratio is not None]
    canvas = Canvas()
    if not sizes:
        canvas.y += 10
        return canvas.svg()
    rows = max(set(sizes), key=lambda size: (sizes.count(size), size))
    shown = [s for s in found if s.rows == rows and s.good and s.cpu_ratio is not None]
    for title, cases in PANELS:
        groups = [(c, [s for s in shown if s.case == c and s.tool != "limit"]) for c in cases]
        groups = [(case, tools) for case, tools in groups if tools]
        if groups:
            _panel(canvas, title, groups)
    canvas.y += 4
    canvas.text(10, canvas.y, f"{rows:,} rows of lineitem; upper bar wall, lower bar CPU"
                " (client and server); less is better", "small")  # fmt: skip
    for line in about[:1]:
        canvas.y += 16
        canvas.text(10, canvas.y, line, "small")
    canvas.y += 12
    return canvas.svg()


def _panel(canvas, title, groups):
    canvas.y += 14
    canvas.text(10, canvas.y, title, "title")
    canvas.y += 28
    # A bar that would make all others dots is cut off, and says so.
    values = sorted(max(s.wall_ratio, s.cpu_ratio) for _, tools in groups for s in tools)
    ours = [max(s.wall_ratio, s.cpu_ratio) for _, t in groups for s in t if s.tool == "highwater"]
    limit = min(values[-1], max([4 * value for value in ours] + [values[len(values) // 2], 0.05]))
    scale, top = (WIDTH - LEFT - RIGHT) / limit, canvas.y
    for case, tools in groups:
        canvas.text(10, canvas.y + BAR + 2, LABELS[case])
        for summary in tools:
            _bars(canvas, summary, scale, limit)
        canvas.y += GAP - 6
    canvas.line(LEFT, top - 4, canvas.y - 4, "axis")
    if limit >= 1:
        canvas.line(LEFT + scale, top - 4, canvas.y - 4, "pipe")
        canvas.text(LEFT + scale, top - 7, "the pipe", "small", "middle")
    canvas.y += 6


def _bars(canvas, summary, scale, limit):
    kind = "highwater" if summary.tool == "highwater" else "peer"
    right = LEFT - 8
    canvas.text(right, canvas.y + BAR + 2, summary.tool, "small", "end")
    ends = []
    for value, more in ((summary.wall_ratio, ""), (summary.cpu_ratio, " cpu")):
        canvas.bar(LEFT, canvas.y, min(value, limit) * scale, kind + more)
        ends.append(LEFT + min(value, limit) * scale)
        canvas.y += BAR
    cut = " ▸" if max(summary.wall_ratio, summary.cpu_ratio) > limit else ""
    wrong = "" if not summary.result.startswith("DIFFERS") else "  wrong values"
    words = f"{cut} {_short(summary.wall_ratio)} / {_short(summary.cpu_ratio)}{wrong}"
    canvas.text(max(ends) + 4, canvas.y - BAR + 4, words, "small")
    canvas.y += 5


def _short(value):
    return f"{value:.0f}×" if value >= 10 else f"{value:.1f}×" if value >= 1 else f"{value:.2f}×"
