#!/usr/bin/env python3
"""The tables of docs/capacity.md, from the measurements in docs/benchmarks/ and the assumptions below.

  python3 docs/capacity.py            prints them
  python3 docs/capacity.py --write    puts them into docs/capacity.md
"""

import json
import math
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE / "capacity.md"
DAY, HOUR, GB = 86_400, 3_600, 1e9

# Assumptions: what agents do. Change these first.
AGENTS = (10, 1_000, 100_000)
ACTIONS_AN_HOUR = 625       # statements or requests of one agent while it works: 5,000 in a day of 8 hours
HOURS_A_DAY = 8
EVENTS_AN_ACTION = 3.2      # statement, result, and what sessions, checkpoints and decisions add
CONTENT_AN_ACTION = 1_500   # bytes of text, binds and stored rows, before they are sealed
PEAK = 5                    # the busiest seconds of the working day, times its mean
SESSIONS_AN_AGENT = 1.2     # open at the same time
# Choices: what is promised, and how much of a machine is used.
OUTAGE_HOURS = 72           # kafka.outage_hours: recorders may be away for this long
SPOOL_HOURS = 4             # brokers may be away for this long in the working day
REPLICAS = 3
LOAD = 0.5                  # share of a core that is planned for
CORES_A_GATEWAY = 4
SESSIONS_A_GATEWAY = 7_500  # of gateway.max_connections = 10,000: a quarter may be of clients that have not logged in
FLUSH_SECONDS = 5           # recorder.flush_seconds of the production overlay
FILE_BYTES = 256e6          # files of a full hour after compaction (128 to 512 MB are aimed at)
TABLES = 5                  # tables that an hour has files of


def measured():
    """The measurements, each with the file and the words that it comes from."""
    run = next(p for p in sorted((HERE / "benchmarks").glob("*.json")) if "recorder" in json.loads(p.read_text()))
    speeds, sizes = json.loads(run.read_text()), json.loads((HERE / "benchmarks" / "sizes.json").read_text())

    def number(text, pattern):
        return float(re.search(pattern, text).group(1))

    rows = number(speeds["verify"], r"(\d+) bytes\n") / number(speeds["verify"], r"events\s+(\d+)")
    whole = number(speeds["recorder"], r"([\d.]+) a bench event")
    wire = speeds["point_c8_prepared"]["bodycam"]
    return {
        "recorder": (number(speeds["recorder"], r"(\d+) events/s a core"), "events/s a core of a recorder", f"{run.name}, `recorder`"),
        "recorder_rss": (number(speeds["recorder"], r"peak memory\s+(\d+) KiB") * 1024, "bytes of memory of a recorder at its peak", f"{run.name}, `recorder`"),
        "gateway_cpu": (wire["cpu_us"], "µs of a gateway's processor a transaction (statement and result), without TLS", f"{run.name}, `point_c8_prepared`"),
        "gateway_rss": (float(speeds["memory"]["at_rest"]), "bytes of memory of a gateway at rest", f"{run.name}, `memory`"),
        "session_rss": (float(sizes["sessions"]["bytes_a_session"]), "bytes of memory of an open session", "sizes.json, `sessions`"),
        "row": (rows, "bytes of an event in the lake, without content", f"{run.name}, `verify`"),
        "content": ((whole - rows) / 256, "bytes in the lake for a byte of content", f"{run.name}, `recorder` less `verify`; 256 B of content a bench event"),
        "kafka": (float(sizes["spool"]["zstd_bytes_an_event"]), "bytes of an event with 50 B of content, packed and compressed as for Kafka", "sizes.json, `spool`"),
        "spool": (float(sizes["spool"]["bytes_an_event"]), "bytes of the same event in the spool", "sizes.json, `spool`"),
        "files": (float(sizes["lake"]["files_a_commit"]), "Parquet files a commit", "sizes.json, `lake`"),
    }


def plan(agents, m):
    """What so many agents need. Each line is a row of the table: name, value, how it is written."""
    value = {name: number for name, (number, _, _) in m.items()}
    actions = agents * ACTIONS_AN_HOUR * HOURS_A_DAY
    events = actions * EVENTS_AN_ACTION
    mean = events / (HOURS_A_DAY * HOUR)
    peak = mean * PEAK
    content = CONTENT_AN_ACTION / EVENTS_AN_ACTION  # an event
    sessions = agents * SESSIONS_AN_AGENT
    cores = peak / EVENTS_AN_ACTION * value["gateway_cpu"] / 1e6 / LOAD
    # One may be away.
    gateways = max(1, math.ceil(cores / CORES_A_GATEWAY), math.ceil(sessions / SESSIONS_A_GATEWAY)) + 1
    # A gateway's records are in one partition, and a partition is read by one recorder.
    recorders = min(gateways, max(1, math.ceil(peak / (value["recorder"] * LOAD))) + 1)
    kafka = value["kafka"] + content
    streams = gateways * (CORES_A_GATEWAY + 2)
    compacted = TABLES * 24 * max(1, math.ceil(events / 24 * (value["row"] + content) / TABLES / FILE_BYTES))
    return [
        ("events a day", events, count),
        ("events/s: mean of the working day", mean, count),
        ("events/s: peak", peak, count),
        ("open sessions", sessions, count),
        ("lake, GB/day: events", events * value["row"] / GB, gigabytes),
        ("lake, GB/day: content", actions * CONTENT_AN_ACTION * value["content"] / GB, gigabytes),
        ("lake, TB/year", (events * value["row"] + actions * CONTENT_AN_ACTION * value["content"]) * 365 / GB / 1000, gigabytes),
        ("gateways (4 cores each), one of them spare", gateways, count),
        ("gateways, cores busy at the peak, all together", cores * LOAD, cores_text),
        ("gateway, memory of each, MB", (value["gateway_rss"] + value["session_rss"] * sessions / (gateways - 1)) / 1e6, count),
        ("spool of each gateway, GB, for 4 hours without brokers", mean * (value["spool"] + content) * SPOOL_HOURS * HOUR / (gateways - 1) / GB, gigabytes),
        ("Kafka, MB/s into the brokers at the peak, before replication", peak * kafka / 1e6, gigabytes),
        ("Kafka, GB on all brokers, 72 h, 3 replicas", events * OUTAGE_HOURS / 24 * kafka * REPLICAS / GB, gigabytes),
        ("Kafka, partitions of a topic", max(12, 4 * gateways), count),
        ("recorders, one of them spare", recorders, count),
        ("recorders, cores busy at the peak, all together", peak / value["recorder"], cores_text),
        ("recorder, memory of each, MB", value["recorder_rss"] / 1e6, count),
        ("files a day as they are committed, at most", streams * value["files"] * HOURS_A_DAY * HOUR / FLUSH_SECONDS, count),
        ("files a day after compaction", compacted, count),
    ]


def count(number):
    number = float(f"{number:.2g}") if number >= 100 else number
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def gigabytes(number):
    return count(number) if number >= 10 else f"{number:.2g}"


def cores_text(number):
    return f"{number:.1f}" if number >= 0.1 else "< 0.1"


def tables():
    m = measured()
    lines = ["| measured | value | where |", "|---|---|---|"]
    lines += [f"| {what} | {number:,.3g} | {where} |" if number < 1000 else f"| {what} | {number:,.0f} | {where} |" for number, what, where in m.values()]
    plans = [plan(agents, m) for agents in AGENTS]
    lines += ["", "| agents | " + " | ".join(f"{agents:,}" for agents in AGENTS) + " |", "|---|" + "---|" * len(AGENTS)]
    for rows in zip(*plans):
        name, _, written = rows[0]
        lines.append(f"| {name} | " + " | ".join(written(value) for _, value, _ in rows) + " |")
    return "\n".join(lines) + "\n"


def main():
    made = tables()
    if sys.argv[1:] != ["--write"]:
        print(made, end="")
        return
    before, rest = PAGE.read_text().split("<!-- made by capacity.py -->\n")
    after = rest.split("<!-- end -->\n", 1)[1]
    PAGE.write_text(f"{before}<!-- made by capacity.py -->\n{made}<!-- end -->\n{after}")


if __name__ == "__main__":
    main()
