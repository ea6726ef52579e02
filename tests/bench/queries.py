"""Questions that analysts ask, for `bench.py`: to `bodycam query`, and to DuckDB on the files as they rest."""

# The codes of kinds (docs/event-format.md).
RESULT, REQUEST = 11, 20


def of(session, hour_ns, last_hour_ns):
    """Name: our query, DuckDB's. The last column of each is a number."""
    hour = 3_600_000_000_000
    at = lambda ns: f"to_timestamp_nanos({ns})"  # noqa: E731
    uuid = "-".join([session[:8], session[8:12], session[12:16], session[16:20], session[20:]])
    columns = "kind_name, target, main_relation, verdict, seq, rows, bytes"
    return {
        "session": (
            f"SELECT {columns} FROM results WHERE session_id = '{uuid}' ORDER BY seq",
            f"SELECT {columns} FROM sql WHERE kind = {RESULT} AND session_id = from_hex('{session}') ORDER BY seq",
        ),
        "session in an hour": (
            f"SELECT {columns} FROM results WHERE session_id = '{uuid}' AND ts >= {at(hour_ns)} AND ts < {at(hour_ns + hour)} "
            "ORDER BY seq",
            f"SELECT {columns} FROM sql WHERE kind = {RESULT} AND session_id = from_hex('{session}') "
            f"AND ts_wall_ns >= {hour_ns} AND ts_wall_ns < {hour_ns + hour} ORDER BY seq",
        ),
        "bulk pulls": (
            "SELECT principal_ref, date_bin(INTERVAL '10 minutes', ts) AS span, sum(bytes) AS bytes, sum(rows) AS rows FROM results "
            "GROUP BY 1, 2 HAVING sum(rows) > 100 ORDER BY rows DESC, principal_ref, span LIMIT 100",
            "SELECT principal_ref, ts_wall_ns // 600000000000 AS span, sum(bytes) AS bytes, sum(rows) AS rows FROM sql "
            f"WHERE kind = {RESULT} GROUP BY 1, 2 HAVING sum(rows) > 100 ORDER BY rows DESC, principal_ref, span LIMIT 100",
        ),
        "first seen": (
            f"SELECT principal_ref, host, count(*) FROM http h WHERE kind_name = 'http.request' AND ts >= {at(last_hour_ns)} "
            "AND NOT EXISTS (SELECT 1 FROM http o WHERE o.principal_ref = h.principal_ref AND o.host = h.host "
            f"AND o.ts < {at(last_hour_ns)}) GROUP BY 1, 2",
            f"SELECT principal_ref, host, count(*) FROM http h WHERE kind = {REQUEST} AND ts_wall_ns >= {last_hour_ns} "
            "AND NOT EXISTS (SELECT 1 FROM http o WHERE o.principal_ref = h.principal_ref AND o.host = h.host "
            f"AND o.ts_wall_ns < {last_hour_ns}) GROUP BY 1, 2",
        ),
        "largest sessions": (
            "SELECT session_id, sum(bytes) AS bytes FROM results GROUP BY 1 ORDER BY bytes DESC, session_id LIMIT 20",
            f"SELECT session_id, sum(bytes) AS bytes FROM sql WHERE kind = {RESULT} GROUP BY 1 ORDER BY bytes DESC, session_id "
            "LIMIT 20",
        ),
        "largest results": (
            "SELECT ts, principal_ref, main_relation, rows, bytes FROM results ORDER BY bytes DESC LIMIT 20",
            f"SELECT ts_wall_ns, principal_ref, main_relation, rows, bytes FROM sql WHERE kind = {RESULT} ORDER BY bytes DESC LIMIT 20",
        ),
        "pattern": (
            "SELECT target, count(*) FROM results WHERE main_relation ~* 'TABLE_(1|3)[0-9]$' GROUP BY 1",
            f"SELECT target, count(*) FROM sql WHERE kind = {RESULT} AND regexp_matches(main_relation, 'TABLE_(1|3)[0-9]$', 'i') "
            "GROUP BY 1",
        ),
        "hosts a principal": (
            "SELECT principal_ref, count(DISTINCT host) AS hosts FROM http GROUP BY 1 ORDER BY hosts DESC, principal_ref LIMIT 50",
            "SELECT principal_ref, count(DISTINCT host) AS hosts FROM http GROUP BY 1 ORDER BY hosts DESC, principal_ref LIMIT 50",
        ),
    }
