#!/usr/bin/env python3
"""What docs/capacity.md takes from sizes: bytes an event in the spool, in Kafka and in the lake, files a commit, memory a
session. Sizes, not speeds: a busy machine does not change them.

  tests/bench/sizes.py --bin DIR [--seconds 20] [--sessions 150] --json docs/benchmarks/sizes.json
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import time

import bench

# What the drain packs into one message at most, about (schemas/bus/src/kafka/batch.rs).
BATCH = 256 * 1024


class Sizes(bench.Bench):
    def start(self):
        self.start_postgres()
        config = self.dir / "bodycam" / "bodycam.toml"
        self.start_bodycam()
        self.gateway.stop()
        text = config.read_text().replace("[[targets]]", "max_sessions_per_principal = 1000\n[[targets]]", 1)
        config.write_text(text)
        self.config, self.bodycam = config, str(self.bin / "bodycam")
        self.gateway = self.serve("gateway", [self.bodycam, "gateway", "-c", str(config)], port=self.gateway.port,
                                  env={"BODYCAM_LOG": "warn"})

    def pgbench_with(self, *args):
        return [self.pgbench, "-n", "-S", *args, *self.at(self.gateway.port, "bench"), "bench"]

    def sessions(self, count):
        """Memory of the gateway with sessions that do next to nothing."""
        self.run(self.pgbench_with("-c", "8", "-j", "2", "-T", "3"), self.token)
        before = bench.memory(self.gateway.pid, "VmRSS")
        idle = subprocess.Popen(self.pgbench_with("-c", str(count), "-j", "2", "-T", "15", "-R", "20"), cwd=self.dir,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                env={"PGPASSWORD": self.token, "PGSSLMODE": "disable", "PATH": "/usr/bin:/bin"})
        time.sleep(10)
        with_them = bench.memory(self.gateway.pid, "VmRSS")
        if idle.wait():
            sys.exit("the sessions were not all opened")
        return {"sessions": count, "rss_before": before, "rss_with": with_them, "bytes_a_session": (with_them - before) // count}

    def lake(self, seconds):
        """Statements with a recorder beside the gateway, then everything at rest."""
        args, port = self.recorder_args
        recorder = self.serve("recorder", args, port=port)
        done = self.run(self.pgbench_with("-c", "4", "-j", "2", "-T", str(seconds), "-R", "400"), self.token)
        transactions = int(re.search(r"actually processed: (\d+)", done.stdout).group(1))
        time.sleep(8)
        home = self.config.parent
        commits = [json.loads(p.read_text()) for p in home.glob("lake/commits/*/*/*.json") if "snapshot" not in p.name]
        files = [p for p in home.glob("lake/**/*.parquet")]
        self.gateway.stop()
        recorder.stop()
        return {"events": 2 * transactions, "seconds": seconds, "commits": len(commits), "parquet_files_before_compaction": len(files),
                "files_a_commit": round(len(files) / len(commits), 2)}

    def spool(self):
        """Bytes of a spool nobody reads, and of the same records packed as Kafka gets them."""
        home = self.dir / "spool-only"
        home.mkdir()
        text = self.config.read_text().replace("[spool]", f'[spool]\ndir = "{home}/spool"')
        (self.config.parent / "other.toml").write_text(text)
        gateway = self.serve("other", [self.bodycam, "gateway", "-c", str(self.config.parent / "other.toml")],
                             port=self.gateway.port, env={"BODYCAM_LOG": "warn"})
        self.gateway = gateway
        done = self.run(self.pgbench_with("-c", "8", "-j", "2", "-t", "5000"), self.token)
        assert "40000/40000" in done.stdout, done.stdout
        gateway.stop()
        segments = [s for s in home.glob("spool/*/*/*.seg")]
        plain = sum(s.stat().st_size for s in segments)
        packed = 0
        for segment in segments:
            data = segment.read_bytes()
            for at in range(0, len(data), BATCH):
                packed += len(subprocess.run(["zstd", "-3", "-c"], input=data[at:at + BATCH], check=True, capture_output=True).stdout)
        events = 2 * 40000 + 2 * 8
        return {"events": events, "bytes_an_event": round(plain / events, 1), "zstd_bytes_an_event": round(packed / events, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="directory of the release binary")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=150)
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    sizes = Sizes(options)
    try:
        sizes.start()
        results = {"sessions": sizes.sessions(options.sessions), "lake": sizes.lake(options.seconds), "spool": sizes.spool()}
    finally:
        sizes.close()
    pathlib.Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
