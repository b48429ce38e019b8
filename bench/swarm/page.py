"""Locust's own page and files, given what it cannot know by itself: parts of streams, and microseconds.

Locust keeps whole milliseconds, of two digits, and shows percentiles of what is left. Its tables here are filled from
the merged histograms instead, and where it rounds on the way out it is told to round less.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flask import Response
from locust import stats
from locust.stats import StatsCSV, StatsCSVFileWriter, StatsEntry

from bench.swarm.figures import merged, title_of
from bench.swarm.workers import WorkerReport

PATH = "/tokenwire"
_LINK = (
    "position:fixed;left:1rem;bottom:1rem;z-index:9999;padding:.5rem .9rem;border-radius:.4rem;background:#1f2937;"
    "color:#fff;font:14px system-ui;text-decoration:none"
)
PARTS = {"connect": "connect", "ttft_{own}": "ttft", "ttft_{other}": "ttft {other}", "icl": "icl"}
"""Measure -> its name in Locust's tables, behind the protocol's. `own` are streams over connections as the phase has
them, cold or warm; `other` those that found none. The whole stream is recorded by workers, as Locust expects it."""


def three_digits(milliseconds: float) -> float:
    """A duration as Locust is to keep it: three digits, to the microsecond at most."""
    us = round(milliseconds * 1000)
    step = 10 ** max(0, len(str(abs(us))) - 3)
    return float(round(us / step) * step / 1000)


def keep_microseconds() -> None:
    """Have Locust keep and write three digits of every duration, to the last. Once per process, before a test."""
    patched: Any = stats
    patched.bucket_response_time = three_digits
    patched.proper_round = lambda val, digits=0: round(val, 3)  # noqa: ARG005

    def fields(self: StatsCSV, entry: StatsEntry, use_current: bool = False) -> list[Any]:
        if not entry.num_requests:
            return self.percentiles_na
        of = entry.get_response_time_percentile
        if use_current and entry.use_response_times_cache:
            of = entry.get_current_response_time_percentile  # type: ignore[assignment]
        return [of(percentile) or 0 for percentile in self.percentiles_to_report]

    patched.StatsCSV._percentile_fields = fields
    close = StatsCSVFileWriter.close_files

    def close_files(self: StatsCSVFileWriter) -> None:
        # Locust writes once a second, and last before the streams under way and their reports have come to their end.
        self.requests_csv_filehandle.seek(0)
        self.requests_csv_writer.writerow(self.requests_csv_columns)
        self._requests_data_rows(self.requests_csv_writer)
        self.requests_csv_filehandle.truncate()
        close(self)

    patched.StatsCSVFileWriter.close_files = close_files


def fill(
    all_stats: stats.RequestStats, reports: dict[str, WorkerReport], temperature: str, pause: Callable[[], object]
) -> None:
    """Have Locust's tables show the parts of streams, by the newest reports of all workers; `pause` after each part."""
    other = "cold" if temperature == "warm" else "warm"
    for protocol in sorted({name for report in reports.values() for name in report.protocols}):
        for measure, name in PARTS.items():
            whole = merged(protocol, measure.format(own=temperature, other=other), reports.values())
            if whole.total:
                title = title_of(protocol)
                _show(all_stats.get(f"{title} {name.format(other=other)}", title), whole)
                pause()


def _show(entry: StatsEntry, whole: Any) -> None:
    new, now_s = whole.total - entry.num_requests, int(time.time())
    entry.num_requests = whole.total
    entry.total_response_time = whole.mean_us / 1000 * whole.total
    entry.min_response_time, entry.max_response_time = whole.min_us / 1000, whole.max_us / 1000
    entry.response_times.clear()
    for value_us, count in whole.counted():
        entry.response_times[three_digits(value_us / 1000)] += count  # type: ignore[index]
    if new > 0:
        entry.num_reqs_per_sec[now_s] += new
        entry.last_request_timestamp = now_s
    if entry.use_response_times_cache:
        entry._cache_response_times(now_s)


def add_page(web_ui: Any, html: Callable[[], str], json: Callable[[], bytes], base: str) -> None:
    """Add the report as it stands to Locust's page, and a link to it."""
    app = web_ui.app
    guarded = web_ui.auth_required_if_enabled

    @app.route(f"{base}{PATH}")  # type: ignore[untyped-decorator]
    @guarded  # type: ignore[untyped-decorator]
    def tokenwire_report() -> str:
        return html()

    @app.route(f"{base}{PATH}.json")  # type: ignore[untyped-decorator]
    @guarded  # type: ignore[untyped-decorator]
    def tokenwire_json() -> Response:
        return Response(json(), mimetype="application/json")

    link = f'<a href="{base}{PATH}" target="_blank" style="{_LINK}">tokenwire report</a></body>'

    @app.after_request  # type: ignore[untyped-decorator]
    def with_link(response: Response) -> Response:
        if response.mimetype == "text/html" and not response.direct_passthrough and PATH not in _path():
            body = response.get_data(as_text=True)
            if 'id="root"' in body:
                response.set_data(body.replace("</body>", link))
        return response


def _path() -> str:
    from flask import request

    return str(request.path)
