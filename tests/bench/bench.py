#!/usr/bin/env python3
"""The numbers of docs/benchmarks.md: `make bench`.

Ratios come from one run: every path to the same PostgreSQL is measured in the same rounds, in an order that
changes each round, and the median round counts. Each server has a session of its own (setsid), because the kernel
shares processor time by session. Everything lies in one temporary directory that is removed in the end.

  tests/bench/bench.py --bin DIR [--seconds 5] [--rounds 3] [--events 2000000] [--only NAME,…] [--json FILE]
"""

import argparse
import glob
import json
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import queries

TICK = os.sysconf("SC_CLK_TCK")
ROWS = 1_000_000


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def postgres_bin():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[4]))
    if not found:
        sys.exit("PostgreSQL is missing: make prerequisites")
    return found[-1]


def cpu_seconds(pids):
    """User and system time of processes, all their threads, and of children that are gone."""
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(int(fields[i]) for i in (11, 12))
    return total / TICK


def memory(pid, what):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{what}:\s+(\d+) kB", text, re.M).group(1)) * 1024


class Broker:
    """One node of Apache Kafka, from its Maven artifacts, as in tests/support/broker.rs."""

    def __init__(self, place, target):
        place.mkdir()
        jars = target / "kafka-jars"
        if not jars.exists():
            pom = place / "pom.xml"
            shutil.copy(pathlib.Path(__file__).parent.parent / "kafka/pom.xml", pom)
            subprocess.run(["mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", "-DincludeScope=runtime",
                            f"-DoutputDirectory={place}/jars"], check=True)
            shutil.move(place / "jars", jars)
        port, controller = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        settings = place / "server.properties"
        listeners = f"PLAINTEXT://{self.address}"
        settings.write_text(f"""
process.roles=broker,controller
node.id=1
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
log.dirs={place}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
""")
        java = ["java", "-Xmx1g", "-XX:+UseSerialGC", "-cp", f"{jars}/*"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(java + ["kafka.tools.StorageTool", "format", "--standalone", "-t", "4L6g3nShT-eMCtK--X86sw", "-c",
                               settings], check=True, **quiet)
        self.process = subprocess.Popen(java + ["kafka.Kafka", settings], start_new_session=True, **quiet)
        for _ in range(600):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        sys.exit("the broker did not start")

    def stop(self):
        self.process.kill()
        self.process.wait()


class Server:
    """A process in a session of its own."""

    def __init__(self, name, args, port, directory, env=None, user=None):
        self.name, self.port = name, port
        self.log = open(directory / f"{name}.log", "wb")
        if user and os.geteuid() == 0:
            args = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", *args]
        self.process = subprocess.Popen(
            args, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})}, cwd=directory, start_new_session=True)
        deadline = time.time() + 30
        while True:
            if self.process.poll() is not None:
                sys.exit(f"{name} ended: {pathlib.Path(self.log.name).read_text()[-2000:]}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
                return
            except OSError:
                if time.time() > deadline:
                    sys.exit(f"{name} does not listen on {port}")
                time.sleep(0.05)

    @property
    def pid(self):
        return self.process.pid

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Awake:
    """Keeps the cores from sleeping, at idle priority: waking one costs more than any proxy."""

    def __enter__(self):
        loop = "while :; do :; done"
        self.spinners = [
            subprocess.Popen(["chrt", "--idle", "0", "sh", "-c", loop], start_new_session=True)
            for _ in range(os.cpu_count())
        ]

    def __exit__(self, *_):
        for spinner in self.spinners:
            spinner.kill()
            spinner.wait()


class Bench:
    def __init__(self, options):
        self.options = options
        self.bin = pathlib.Path(options.bin).resolve()
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="bodycam-bench-"))
        self.dir.chmod(0o755)
        self.servers = []
        self.results = {}

    def close(self):
        for server in reversed(self.servers):
            server.stop(signal.SIGINT if server.name == "postgres" else signal.SIGTERM)
        shutil.rmtree(self.dir, ignore_errors=True)

    def serve(self, *args, **kwargs):
        server = Server(*args, directory=self.dir, **kwargs)
        self.servers.append(server)
        return server

    # The servers

    def start_postgres(self):
        pg = postgres_bin()
        data, password = self.dir / "pg", self.dir / "password"
        password.write_text("bench-password")
        user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        as_user = []
        if os.geteuid() == 0:
            data.mkdir()
            shutil.chown(data, user, user)
            password.chmod(0o644)
            as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        subprocess.run([*as_user, f"{pg}/initdb", "-D", data, "-U", "app", "-A", "scram-sha-256", "--pwfile", password,
                        "--no-sync", "--locale=C", "-E", "UTF8"], check=True, stdout=subprocess.DEVNULL, cwd=self.dir)
        port = free_port()
        settings = ["fsync=off", "shared_buffers=512MB", "max_connections=200", f"unix_socket_directories={data}",
                    "listen_addresses=127.0.0.1", "autovacuum=off"]
        self.postgres = self.serve("postgres", [f"{pg}/postgres", "-D", str(data), "-p", str(port),
                                                *[x for s in settings for x in ("-c", s)]], port=port, user=user)
        self.pgbench = f"{pg}/pgbench"
        deadline = time.time() + 30
        while self.psql("SELECT 1", check=False).returncode:
            if time.time() > deadline:
                sys.exit("PostgreSQL takes no connections")
            time.sleep(0.1)
        self.psql("CREATE DATABASE bench")
        self.run([self.pgbench, "-i", "-q", "-s", "10", *self.at(self.postgres.port, "app"), "bench"],
                 "bench-password")
        self.psql(f"""CREATE TABLE big AS SELECT i AS id, 'customer ' || i AS name, (i::bigint * 7919 % 100000)::numeric / 100
                      AS amount, now() - i * interval '1 second' AS since, md5(i::text) AS note
                      FROM generate_series(1, {ROWS}) i""", database="bench")
        self.psql("VACUUM ANALYZE big", database="bench")

    def start_relay(self):
        port = free_port()
        self.relay = self.serve("relay", [str(self.bin / "examples/relay"), f"127.0.0.1:{port}",
                                          f"127.0.0.1:{self.postgres.port}"], port=port)

    def start_pgbouncer(self):
        program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        if not program:
            sys.exit("pgbouncer is missing: apt-get install pgbouncer")
        port = free_port()
        (self.dir / "users.txt").write_text('"app" "bench-password"\n')
        (self.dir / "pgbouncer.ini").write_text(f"""
[databases]
bench = host=127.0.0.1 port={self.postgres.port} dbname=bench
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {self.dir}/users.txt
pool_mode = session
default_pool_size = 64
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
""")
        self.pgbouncer = self.serve("pgbouncer", [program, str(self.dir / "pgbouncer.ini")], port=port,
                                    user="postgres")

    def start_bodycam(self):
        port, admin, recorder = free_port(), free_port(), free_port()
        home = self.dir / "bodycam"
        home.mkdir()
        (home / "role.password").write_text("bench-password")
        (home / "role.password").chmod(0o600)
        config = home / "bodycam.toml"
        config.write_text(f"""
[spool]
max_bytes = 17179869184
[postgres]
listen = "127.0.0.1:{port}"
[[targets]]
name = "bench"
databases = ["bench"]
address = "127.0.0.1:{self.postgres.port}"
role = "app"
password = "file:role.password"
tls = "disable"
[[principals]]
name = "bench"
kind = "person"
targets = ["*"]
[admin]
listen = "127.0.0.1:{admin}"
recorder_listen = "127.0.0.1:{recorder}"
""")
        bodycam = str(self.bin / "bodycam")
        issued = subprocess.run([bodycam, "token", "issue", "--principal", "bench", "--ttl", "1d", "-c", config],
                                check=True, capture_output=True, text=True)
        self.token = issued.stdout.strip()
        self.gateway = self.serve("gateway", [bodycam, "gateway", "-c", str(config)], port=port,
                                  env={"BODYCAM_LOG": "warn"})
        self.recorder_args = ([bodycam, "recorder", "-c", str(config)], recorder)

    # Clients

    def at(self, port, user):
        return ["-h", "127.0.0.1", "-p", str(port), "-U", user]

    def run(self, args, password, check=True):
        done = subprocess.run([str(a) for a in args], capture_output=True, text=True, cwd=self.dir,
                              env={**os.environ, "PGPASSWORD": password, "PGSSLMODE": "disable"})
        if check and done.returncode:
            sys.exit(f"{args}: {done.stderr[-2000:]}")
        return done

    def psql(self, sql, database="postgres", check=True):
        return self.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *self.at(self.postgres.port, "app"), "-d",
                         database, "-c", sql], "bench-password", check)

    def paths(self):
        return {
            "direct": (self.postgres.port, "app", "bench-password", []),
            "relay": (self.relay.port, "app", "bench-password", [self.relay.pid]),
            "pgbouncer": (self.pgbouncer.port, "app", "bench-password", [self.pgbouncer.pid]),
            "bodycam": (self.gateway.port, "bench", self.token, [self.gateway.pid]),
        }

    def round(self, path, args):
        """One pgbench run: transactions per second, latencies in µs, proxy CPU in µs a transaction."""
        port, user, password, pids = self.paths()[path]
        for old in self.dir.glob("pgbench_log*"):
            old.unlink()
        before = cpu_seconds(pids)
        done = self.run([self.pgbench, "-n", "-l", *args, *self.at(port, user), "bench"], password)
        cpu = cpu_seconds(pids) - before
        latencies = []
        for log in self.dir.glob("pgbench_log*"):
            latencies += [int(line.split()[2]) for line in log.read_text().splitlines()]
        latencies.sort()
        count = len(latencies)
        if not count:
            sys.exit(f"pgbench logged nothing through {path}: {done.stdout} {done.stderr}")
        return {
            "tps": float(re.search(r"^tps = ([0-9.]+)", done.stdout, re.M).group(1)),
            "p50_us": latencies[count // 2],
            "p99_us": latencies[min(count - 1, count * 99 // 100)],
            "cpu_us": cpu * 1e6 / count if pids else None,
        }

    def compare(self, name, args, rows=None):
        rounds = {path: [] for path in self.paths()}
        for _ in range(self.options.rounds):
            order = list(rounds)
            random.shuffle(order)
            for path in order:
                rounds[path].append(self.round(path, args))
        relay = statistics.median(r["tps"] for r in rounds["relay"])
        table = {}
        for path, taken in rounds.items():
            middle = {k: statistics.median(r[k] for r in taken) if taken[0][k] is not None else None for k in taken[0]}
            middle["of_relay"] = middle["tps"] / relay
            middle["spread"] = (max(r["tps"] for r in taken) - min(r["tps"] for r in taken)) / middle["tps"]
            if rows and middle["cpu_us"] is not None:
                middle["cpu_ns_row"] = middle["cpu_us"] * 1000 / rows
            table[path] = middle
        self.results[name] = table
        print(f"\n{name}  (pgbench {' '.join(args)}; median of {self.options.rounds})")
        print(f"  {'path':<10} {'tps':>10} {'of relay':>9} {'p50 µs':>9} {'p99 µs':>9} {'proxy CPU':>16}  spread")
        for path, m in table.items():
            unit = f"{m['cpu_ns_row']:.0f} ns/row" if "cpu_ns_row" in m else (
                f"{m['cpu_us']:.1f} µs/tx" if m["cpu_us"] is not None else "")
            print(f"  {path:<10} {m['tps']:>10.1f} {m['of_relay']:>9.3f} {m['p50_us']:>9} {m['p99_us']:>9} {unit:>16}"
                  f"  {m['spread']:.0%}", flush=True)

    # What is measured

    def point(self):
        seconds = str(self.options.seconds)
        for protocol in ("simple", "prepared"):
            with Awake():
                self.compare(f"point_c1_{protocol}", ["-S", "-M", protocol, "-c", "1", "-T", seconds])
            self.compare(f"point_c8_{protocol}", ["-S", "-M", protocol, "-c", "8", "-j", "2", "-T", seconds])
        self.compare("connect", ["-S", "-C", "-c", "2", "-j", "2", "-T", seconds])

    def recorder_beside(self):
        """The same with a recorder that takes its share of the cores."""
        recorder = self.serve("recorder", self.recorder_args[0], port=self.recorder_args[1],
                              env={"BODYCAM_LOG": "warn"})
        self.compare("point_c8_prepared_with_recorder",
                     ["-S", "-M", "prepared", "-c", "8", "-j", "2", "-T", str(self.options.seconds)])
        recorder.stop()
        self.servers.remove(recorder)

    def bulk(self):
        (self.dir / "bulk.sql").write_text("SELECT * FROM big;\n")
        self.compare("bulk", ["-f", "bulk.sql", "-c", "1", "-t", "3"], rows=ROWS)

    def memory(self):
        """A row of 1 GB, and a client that stops reading: resident memory of the gateway."""
        port, user = self.gateway.port, "bench"
        peak, stop = [memory(self.gateway.pid, "VmRSS")], threading.Event()

        def watch():
            while not stop.wait(0.02):
                peak.append(memory(self.gateway.pid, "VmRSS"))

        at_rest = peak[0]
        watcher = threading.Thread(target=watch)
        watcher.start()
        conninfo = f"host=127.0.0.1 port={port} user={user} dbname=bench sslmode=disable"
        env = {**os.environ, "PGPASSWORD": self.token}
        big = "SELECT repeat('x', 1000000000)"
        done = subprocess.run(["psql", "-X", "-q", "-A", "-t", "-c", big, "-o", "/dev/null", conninfo], env=env,
                              capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"the row of 1 GB: {done.stderr[-500:]}")
        row_peak = max(peak)
        peak[:] = [memory(self.gateway.pid, "VmRSS")]
        copy = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 3000000)) TO STDOUT"
        reader = subprocess.Popen(["psql", "-X", "-q", "-c", copy, conninfo], env=env, stdout=subprocess.PIPE,
                                  start_new_session=True)
        reader.stdout.read(1 << 20)
        os.killpg(reader.pid, signal.SIGSTOP)
        time.sleep(self.options.seconds)
        os.killpg(reader.pid, signal.SIGKILL)
        reader.wait()
        stop.set()
        watcher.join()
        stalled_peak = max(peak)
        self.results["memory"] = {"at_rest": at_rest, "row_1gb_peak": row_peak, "stopped_reader_peak": stalled_peak}
        print(f"\nmemory  gateway RSS: {at_rest >> 20} MiB before, {row_peak >> 20} MiB peak with a row of 1 GB, "
              f"{stalled_peak >> 20} MiB peak with a client that stopped reading for {self.options.seconds} s")

    def tool(self, name, args):
        done = subprocess.run([str(a) for a in args], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name}: {done.stdout[-1000:]} {done.stderr[-1000:]}")
        text = done.stdout.strip()
        self.results[name] = text
        print(f"\n{name}  {text}", flush=True)

    def spool(self):
        self.tool("spool", [self.bin / "examples/spool_bench", self.options.events, self.dir])

    def recorder(self):
        self.tool("recorder", [self.bin / "examples/bench_recorder", self.options.events, self.dir / "lake-bench"])
        shutil.rmtree(self.dir / "lake-bench")

    def recorder_kafka(self):
        """The same with Kafka in between: a broker of its own, whose processor time is not counted."""
        broker = Broker(self.dir / "kafka", self.bin.parent)
        try:
            self.tool("recorder_kafka", [self.bin / "examples/bench_recorder", self.options.events, self.dir / "lake-bench",
                                         100, broker.address])
        finally:
            broker.stop()
        shutil.rmtree(self.dir / "lake-bench")

    def compact(self):
        # As an hour's files are, and at its worst: a row of each of many open sessions in every flush.
        for name, together in [("compact", "25"), ("compact_scattered", "1")]:
            self.tool(name, [self.bin / "examples/bench_compact", str(self.options.events), "8", together])

    def verify(self):
        self.tool("verify", [self.bin / "examples/bench_verify", self.options.events])

    def detect(self):
        self.tool("detect", [self.bin / "examples/bench_detect", self.options.detect_events, 40, 20, self.dir / "lake-detect"])
        shutil.rmtree(self.dir / "lake-detect")

    def query(self):
        """The same questions to `bodycam query` and to DuckDB, on the same files, two days of single events."""
        import duckdb

        place = self.dir / "lake-query"
        subprocess.run([self.bin / "examples/bench_detect", "fill", str(self.options.detect_events), place, "0"], check=True)
        lake, runs = place / "lake", 5
        duck = duckdb.connect()
        duck.execute(f"SET threads = {os.cpu_count()}; SET TimeZone = 'UTC'")
        for table in ("sql", "http"):
            files = sorted(str(path) for path in (lake / "tables" / table).rglob("*.parquet"))
            duck.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet({files!r})")
        chosen = duck.execute("SELECT hex(session_id), min(ts_wall_ns) // 3600000000000 * 3600000000000, count(*) FROM sql "
                              "GROUP BY session_id ORDER BY count(*) DESC, 1 LIMIT 1").fetchone()
        last_hour = duck.execute("SELECT max(ts_wall_ns) // 3600000000000 * 3600000000000 FROM http").fetchone()[0]
        asked = queries.of(session=chosen[0].lower(), hour_ns=chosen[1], last_hour_ns=last_hour)
        theirs = {}
        for name, (_, sql) in asked.items():
            walls, processor = [], []
            for _ in range(runs):
                began, before = time.perf_counter(), time.process_time()
                rows = duck.execute(sql).fetchall()
                walls.append(time.perf_counter() - began)
                processor.append(time.process_time() - before)
            theirs[name] = {"seconds": min(walls), "processor": min(processor), "rows": len(rows),
                            "last": float(sum(row[-1] for row in rows))}
        peak = memory(os.getpid(), "VmHWM") >> 10
        done = subprocess.run([self.bin / "examples/bench_query", lake, str(runs)], capture_output=True, text=True,
                              input=json.dumps({name: ours for name, (ours, _) in asked.items()}))
        if done.returncode:
            sys.exit(f"query: {done.stderr[-2000:]}")
        ours = json.loads(done.stdout)
        self.results["query"] = {"bodycam": ours, "duckdb": {**theirs, "peak": peak, "version": duckdb.__version__}}
        print(f"\nquery  {2 * self.options.detect_events * 23 // 24:,} events in {self.files_of(lake)} files, "
              f"DuckDB {duckdb.__version__}, {os.cpu_count()} threads each, best of {runs}")
        for name, (told, _) in asked.items():
            a, b = ours[name], theirs[name]
            if a["rows"] != b["rows"] or abs(a["last"] - b["last"]) > 1e-6 * abs(b["last"]):
                sys.exit(f"{name}: {a} is not {b}")
            print(f"{name:18} {a['seconds'] * 1000:8.1f} ms {a['processor'] * 1000:8.1f} ms CPU   DuckDB {b['seconds'] * 1000:8.1f} ms "
                  f"{b['processor'] * 1000:8.1f} ms CPU   {a['seconds'] / b['seconds']:.2f}", flush=True)
        print(f"peak memory        {ours['peak'] >> 10} MiB, DuckDB {peak >> 10} MiB")
        shutil.rmtree(place)

    @staticmethod
    def files_of(lake):
        return sum(1 for _ in lake.rglob("*.parquet"))

    def latency(self):
        """From a statement to its row, at a steady rate: pgbench through the gateway, a recorder, and a reader beside it."""
        args, port = self.recorder_args
        # As deploy/ starts it.
        recorder = Server("recorder", args, port, self.dir, env={"BODYCAM_LOG": "warn", "MALLOC_ARENA_MAX": "2"})
        seconds, rate = 60, self.options.latency_events
        load = subprocess.Popen(
            [self.pgbench, "-n", "-S", "-M", "prepared", "-c", "8", "-j", "2", "-T", str(seconds + 15), "-R", str(rate // 2),
             *self.at(self.gateway.port, "bench"), "bench"], env={**os.environ, "PGPASSWORD": self.token},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        time.sleep(8)
        before = {name: cpu_seconds([pid]) for name, pid in [("gateway", self.gateway.pid), ("recorder", recorder.pid)]}
        self.tool("latency", [self.bin / "examples/bench_latency", self.dir / "bodycam/lake", seconds])
        spent = {"gateway": cpu_seconds([self.gateway.pid]), "recorder": cpu_seconds([recorder.pid])}
        told = load.communicate()[0]
        rate_line = next((line for line in told.splitlines() if line.startswith("tps")), told[-300:])
        parts = ", ".join(f"{name} {(spent[name] - before[name]) / seconds:.2f} cores" for name in before)
        print(f"                  {rate_line}; {parts}; recorder {memory(recorder.pid, 'VmHWM') >> 20} MiB", flush=True)
        self.results["latency"] += f"\n{rate_line}; {parts}"
        recorder.stop()

    def replay(self):
        # One session holds a tenth of the events: opening it is measured, too.
        events, place = self.options.replay_events, self.dir / "lake-replay"
        subprocess.run([self.bin / "examples/bench_recorder", str(events), place, str(events // 10)],
                       check=True, stdout=subprocess.DEVNULL)
        self.tool("replay", [self.bin / "examples/bench_replay", place / "lake"])
        shutil.rmtree(place)


    def cluster(self):
        """The same queries on one machine and on a scheduler with two executors on it: what sharing out costs."""
        program = str(pathlib.Path(self.options.cluster_bin or self.bin).resolve() / "bodycam")
        home = self.dir / "cluster"
        recorder = [self.bin / "examples/bench_recorder", str(self.options.events), home]
        subprocess.run(recorder, check=True, stdout=subprocess.DEVNULL)
        (home / "tenant.key").write_text("07" * 32)
        (home / "tenant.key").chmod(0o600)
        scheduler, ports = free_port(), [free_port(), free_port()]
        config = home / "bodycam.toml"
        config.write_text(f"""
[http]
listen = "127.0.0.1:{free_port()}"
[[principals]]
name = "bench"
kind = "person"
egress = ["example.com"]
[cluster]
listen = "127.0.0.1:{scheduler}"
scheduler = "127.0.0.1:{scheduler}"
slots = 1
partitions = 2
""")
        quiet = {"BODYCAM_LOG": "error"}
        self.serve("scheduler", [program, "cluster", "scheduler", "-c", str(config)], port=scheduler, env=quiet)
        for n, port in enumerate(ports):
            listen = {**quiet, "BODYCAM__CLUSTER__EXECUTOR_LISTEN": f"127.0.0.1:{port}"}
            self.serve(f"executor-{n}", [program, "cluster", "executor", "-c", str(config)], port=port, env=listen)
        lake = sum(f.stat().st_size for f in (home / "lake").rglob("*.parquet"))
        print(f"\ncluster  (two executors with one slot each; {self.options.events} events, {lake >> 20} MiB; "
              f"median of {self.options.rounds})\n  {'query':<10} {'alone, s':>9} {'cluster, s':>11}")
        table = {"events": self.options.events, "bytes": lake}
        for name, sql in CLUSTER_QUERIES.items():
            times = {"alone": [], "cluster": []}
            for _ in range(self.options.rounds):
                answers = set()
                for place, args in [("alone", []), ("cluster", ["--cluster", f"http://127.0.0.1:{scheduler}"])]:
                    begun = time.monotonic()
                    done = subprocess.run([program, "query", "-c", config, "--format", "csv", *args, sql],
                                          capture_output=True, text=True, env={**os.environ, **quiet})
                    times[place].append(time.monotonic() - begun)
                    if done.returncode:
                        sys.exit(f"{name} {place}: {done.stderr}")
                    answers.add("\n".join(sorted(done.stdout.splitlines())))
                if len(answers) != 1:
                    sys.exit(f"{name}: the cluster gives other rows")
            table[name] = {place: statistics.median(taken) for place, taken in times.items()}
            print(f"  {name:<10} {table[name]['alone']:>9.2f} {table[name]['cluster']:>11.2f}", flush=True)
        self.results["cluster"] = table


# Next to nothing; one stage; few rows through a shuffle, and as many as were read.
CLUSTER_QUERIES = {
    "first": "SELECT event_id, ts, fingerprint FROM statements LIMIT 20",
    "scan": "SELECT count(*), sum(seq), max(ts) FROM statements WHERE fingerprint <> ''",
    "group": "SELECT principal_ref, target, count(*), count(DISTINCT session_id) FROM statements GROUP BY 1, 2",
    "shuffle": "SELECT count(*) FROM (SELECT session_id, seq, hash, count(*) FROM events GROUP BY 1, 2, 3)",
}

WIRE = ["point", "recorder_beside", "bulk", "memory", "latency"]
STORE = ["spool", "recorder", "recorder_kafka", "compact", "verify", "replay", "detect", "query"]
# With a program that was built with the feature `cluster`: make bench-cluster.
APART = ["cluster"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="directory of the release binaries, with examples/ below it")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--replay-events", type=int, default=10_000_000, help="needs 5 GB of disk")
    parser.add_argument("--detect-events", type=int, default=10_000_000, help="a day, of two; needs 4 GB of disk")
    parser.add_argument("--latency-events", type=int, default=20_000, help="events a second of `latency`")
    parser.add_argument("--only", default=",".join(WIRE + STORE))
    parser.add_argument("--cluster-bin", help="directory of a bodycam with the feature `cluster`, for --only cluster")
    parser.add_argument("--json", help="write the raw results here, too")
    options = parser.parse_args()
    wanted = options.only.split(",")
    unknown = set(wanted) - set(WIRE + STORE + APART)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(WIRE + STORE + APART)}")
    bench = Bench(options)
    try:
        if set(wanted) & set(WIRE):
            bench.start_postgres()
            bench.start_relay()
            bench.start_pgbouncer()
            bench.start_bodycam()
        for name in wanted:
            getattr(bench, name)()
    finally:
        bench.close()
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(bench.results, indent=1) + "\n")


if __name__ == "__main__":
    main()
