#!/usr/bin/env python3
"""Checks bodycam's test vectors, or a lake, from docs/event-format.md alone.

    check.py [--vectors DIR]   recompute every vector from its fields
    check.py --lake DIR        recompute commits, row sums, hashes, chains, checkpoints, seals, ledgers and heartbeats

Exit code 0: everything agrees; 1: something does not (each mismatch is printed).
Needs: pip install -r requirements.txt (pyarrow for --lake only).
"""

import argparse
import contextlib
import json
import pathlib
import struct
import sys
import uuid

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

FAULTS = []


def expect(what, got, want):
    if got != want:
        FAULTS.append(what)
        print(f"MISMATCH {what}: got {shown(got)}, want {shown(want)}")


def shown(value):
    return value.hex() if isinstance(value, bytes) else repr(value)


# Section 1: canonical bytes.


def lp(raw):
    return struct.pack("<Q", len(raw)) + raw


def i64(value):
    return struct.pack("<q", value)


def plain(kind, value):
    """The bytes of a value, inside its length prefix."""
    if kind == "bool":
        return b"\1" if value else b"\0"
    if kind == "int":
        return i64(value)
    if kind == "text":
        return value.encode()
    if kind in ("bytes", "id16", "digest"):
        width = {"id16": 16, "digest": 32}.get(kind, len(value))
        if len(value) != width:
            raise ValueError(f"{kind} of {len(value)} bytes")
        return value
    if kind.startswith("list of "):
        item = kind.removeprefix("list of ")
        return struct.pack("<Q", len(value)) + b"".join(lp(plain(item, v)) for v in value)
    raise ValueError(f"unknown type {kind}")


def field(kind, value, optional=False):
    if not optional:
        return lp(plain(kind, value))
    return lp(b"\0") if value is None else lp(b"\1" + plain(kind, value))


def text(value):
    return lp(value.encode())


def integer(value):
    return lp(i64(value))


# Section 2: hashing. The context strings are those of the table.

CONTEXT = {
    name: f"bodycam 2026-11-21 {words} v1"
    for name, words in {
        "EVENT": "event",
        "GENESIS": "genesis",
        "COMMIT": "content commitment",
        "CHUNK": "content chunk",
        "MERKLE_LEAF": "merkle leaf",
        "MERKLE_NODE": "merkle node",
        "MERKLE_EMPTY": "merkle empty",
        "SEAL": "seal",
        "LEDGER": "ledger",
        "EPOCH_CERTIFICATE": "epoch certificate",
        "OPEN_HEADS": "open heads",
        "LAKE_COMMIT": "lake commit",
        "LAKE_SNAPSHOT": "lake snapshot",
        "LAKE_CONTENT_ROW": "lake content row",
        "LAKE_TABLE_ROW": "lake table row",
        "POLICY": "policy",
        "FINDING": "finding",
        "RULE": "rule",
        "TENANT_CREDENTIAL": "tenant credential key",
        "TARGET": "target",
        "SESSION_KEY": "session key digest",
        "SESSION_CONTENT": "session content key",
        "SESSION_SALT": "session salt key",
        "SESSION_DIGEST": "session digest key",
        "TENANT_WRAP": "tenant wrap key",
        "TENANT_DIRECTORY": "tenant directory key",
        "TENANT_PRINCIPAL": "tenant principal key",
        "TENANT_FINGERPRINT": "tenant fingerprint key",
        "TENANT_CORRELATION": "tenant correlation key",
        "TENANT_ADDRESS": "tenant address key",
        "TENANT_IDENTITY": "tenant identity key",
        "TENANT_IDENTIFIER": "tenant identifier key",
    }.items()
}


def h(name, raw):
    return blake3(raw, derive_key_context=CONTEXT[name]).digest()


def body_digest(kind_name, version, body):
    return blake3(body, derive_key_context=f"bodycam 2026-11-21 body {kind_name} v{version}").digest()


def keyed(key, raw):
    return blake3(raw, key=key).digest()


def signed(public, digest, signature):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, digest)
        return True
    except (InvalidSignature, ValueError):
        return False


# Sections 3 and 4: event and chain.


def envelope(e):
    return b"".join(
        [
            integer(e["suite"]),
            integer(e["schema_version"]),
            text(e["producer"]),
            integer(e["epoch"]),
            lp(e["session"]),
            integer(e["seq"]),
            integer(e["ts_wall_ns"]),
            integer(e["ts_mono_ns"]),
            integer(e["kind"]),
            integer(e["kind_version"]),
            field("int", e["parent_seq"], optional=True),
            lp(e["principal_ref"]),
            text(e["target"]),
            lp(e["policy_digest"]),
            lp(e["body_digest"]),
            field("int", e["content_no"], optional=True),
            field("digest", e["content"], optional=True),
            lp(e["prev"]),
        ]
    )


def genesis(e, opened):
    """The genesis, from the envelope of event 0 and the fields of its body."""
    return h(
        "GENESIS",
        text(opened["tenant"])
        + text(e["producer"])
        + integer(e["epoch"])
        + lp(e["session"])
        + lp(opened["nonce"])
        + lp(opened["identity_digest"])
        + lp(opened["target_digest"])
        + lp(e["policy_digest"])
        + lp(opened["key_digest"])
        + integer(opened["ledger_seq"]),
    )


# Section 5: content.


def salt_of(session_key, no):
    return keyed(h("SESSION_SALT", session_key), i64(no))


def commitment(session_key, no, chunks):
    """Of chunks given as (kind code, bytes)."""
    salt = salt_of(session_key, no)
    out = lp(salt) + integer(len(chunks))
    for index, (kind, raw) in enumerate(chunks):
        digest = h("CHUNK", lp(salt) + integer(kind) + integer(index) + lp(raw))
        out += integer(kind) + integer(len(raw)) + lp(digest)
    return h("COMMIT", out)


def open_chunk(session_key, session, no, index, kind, sealed):
    aad = lp(session) + integer(no) + integer(index) + integer(kind)
    nonce = struct.pack("<qI", no, index)
    raw = ChaCha20Poly1305(h("SESSION_CONTENT", session_key)).decrypt(nonce, sealed, aad)
    if raw[0] == 0:
        return raw[1:]
    import zstandard

    return zstandard.ZstdDecompressor().decompress(raw[1:], max_output_size=262_144)


# Section 6: the Merkle tree.


def root(hashes):
    if not hashes:
        return h("MERKLE_EMPTY", b"")
    if len(hashes) == 1:
        return h("MERKLE_LEAF", hashes[0])
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return h("MERKLE_NODE", root(hashes[:k]) + root(hashes[k:]))


class Tree:
    """The same root, one event at a time."""

    def __init__(self):
        self.edge = []

    def push(self, event_hash):
        size, node = 1, h("MERKLE_LEAF", event_hash)
        while self.edge and self.edge[-1][0] == size:
            node = h("MERKLE_NODE", self.edge.pop()[1] + node)
            size *= 2
        self.edge.append((size, node))

    def root(self):
        if not self.edge:
            return h("MERKLE_EMPTY", b"")
        node = self.edge[-1][1]
        for _, left in reversed(self.edge[:-1]):
            node = h("MERKLE_NODE", left + node)
        return node


# Sections 7 and 8: seals and the ledger.


def seal_digest(s):
    return h(
        "SEAL",
        lp(s["session"])
        + text(s["producer"])
        + integer(s["epoch"])
        + integer(s["count"])
        + lp(s["head"])
        + lp(s["root"])
        + integer(s["first_ts_ns"])
        + integer(s["last_ts_ns"])
        + integer(s["bytes_in"])
        + integer(s["bytes_out"])
        + text(s["reason"])
        + integer(s["open_seq"]),
    )


def checkpoint_digest(session, producer, epoch, count, head, merkle_root, open_seq):
    zero = {"first_ts_ns": 0, "last_ts_ns": 0, "bytes_in": 0, "bytes_out": 0, "reason": "open"}
    seal = {"session": session, "producer": producer, "epoch": epoch, "count": count, "head": head}
    return seal_digest({**seal, **zero, "root": merkle_root, "open_seq": open_seq})


def ledger_hash(r):
    return h(
        "LEDGER",
        integer(r["suite"])
        + integer(r["schema_version"])
        + text(r["producer"])
        + integer(r["epoch"])
        + integer(r["seq"])
        + integer(r["ts_wall_ns"])
        + integer(r["kind"])
        + integer(r["kind_version"])
        + lp(r["body_digest"])
        + lp(r["prev"]),
    )


def certificate_digest(producer, epoch, epoch_key):
    return h("EPOCH_CERTIFICATE", text(producer) + integer(epoch) + lp(epoch_key))


def open_heads(heads):
    return h("OPEN_HEADS", b"".join(lp(s) + integer(c) + lp(d) for s, c, d in heads))


# The vectors.


def raw(hex_digits):
    return bytes.fromhex(hex_digits)


def session_bytes(hyphenated):
    return uuid.UUID(hyphenated).bytes


def value_of(f):
    value = f["value"]
    if value is not None and f["type"] in ("bytes", "id16", "digest"):
        return raw(value)
    return value


def canonical_body(fields):
    return b"".join(field(f["type"], value_of(f), f["optional"]) for f in fields)


def named(fields):
    return {f["name"]: value_of(f) for f in fields}


def check_bodies(vectors):
    for v in vectors:
        what = f"bodies {v['kind']}"
        expect(f"{what} context", v["context"], f"bodycam 2026-11-21 body {v['kind']} v{v['version']}")
        body = canonical_body(v["fields"])
        expect(f"{what} canonical", body, raw(v["canonical"]))
        expect(f"{what} digest", body_digest(v["kind"], v["version"], body), raw(v["digest"]))


def check_chain(v):
    g = v["genesis"]
    ids = {k: raw(g[k]) for k in ("nonce", "identity_digest", "target_digest", "policy_digest", "key_digest")}
    ids["session"] = session_bytes(g["session"])
    prev = genesis({**g, **ids}, {**g, **ids})
    expect("chain genesis", prev, raw(g["digest"]))
    hashes = []
    for event in v["events"]:
        e, fields = dict(event["envelope"]), event["body"]["fields"]
        what = f"chain event {e['seq']}"
        e["session"] = session_bytes(e["session"])
        for k in ("principal_ref", "policy_digest", "body_digest", "content", "prev"):
            e[k] = raw(e[k]) if e[k] is not None else None
        body = canonical_body(fields)
        expect(f"{what} body", body, raw(event["body"]["canonical"]))
        expect(f"{what} body digest", body_digest(event["body"]["kind"], e["kind_version"], body), e["body_digest"])
        expect(f"{what} prev", e["prev"], prev)
        expect(f"{what} canonical", envelope(e), raw(event["canonical"]))
        if event["body"]["kind"] == "session.opened":
            expect(f"{what} genesis", genesis(e, named(fields)), prev)
        if event["body"]["kind"] == "session.checkpoint":
            b = named(fields)
            expect(f"{what} count", b["count"], e["seq"])
            expect(f"{what} head", b["head"], prev)
            expect(f"{what} root", b["root"], root(hashes))
            digest = checkpoint_digest(
                e["session"], e["producer"], e["epoch"], b["count"], b["head"], b["root"], v["open_seq"]
            )
            expect(f"{what} signature", signed(raw(v["epoch_public_key"]), digest, b["signature"]), True)
        if e["content_no"] is not None:
            made = commitment(raw(v["session_key"]), e["content_no"], [(1, b"SELECT 1")])
            expect(f"{what} content", made, e["content"])
        prev = h("EVENT", envelope(e))
        expect(f"{what} hash", prev, raw(event["hash"]))
        hashes.append(prev)
        expect(f"{what} root", root(hashes), raw(event["root"]))


def check_merkle(v):
    hashes = [raw(x) for x in v["event_hashes"]]
    tree = Tree()
    for n, want in enumerate(v["roots"]):
        expect(f"merkle root of {n}", root(hashes[:n]), raw(want))
        expect(f"merkle root of {n}, one by one", tree.root(), raw(want))
        if n < len(hashes):
            tree.push(hashes[n])
    for path in v["paths"]:
        node = h("MERKLE_LEAF", hashes[path["index"]])
        for step in path["steps"]:
            sibling = raw(step["digest"])
            node = h("MERKLE_NODE", sibling + node if step["side"] == "left" else node + sibling)
        expect(f"merkle path of {path['index']}", node, root(hashes))


def check_content(v):
    key = raw(v["session_key"])
    for c in v["contents"]:
        what, no, session = f"content {c['content_no']}", c["content_no"], session_bytes(c["session"])
        expect(f"{what} salt", salt_of(key, no), raw(c["salt"]))
        chunks = [(x["kind"], raw(x["bytes"])) for x in c["chunks"]]
        expect(f"{what} commitment", commitment(key, no, chunks), raw(c["commitment"]))
        for x in c["chunks"]:
            opened = open_chunk(key, session, no, x["index"], x["kind"], raw(x["sealed"]))
            expect(f"{what} chunk {x['index']}", opened, raw(x["bytes"]))
    made = b"".join(
        integer(b["type_oid"]) + integer(b["format"])
        + field("bytes", None if b["value"] is None else raw(b["value"]), optional=True)
        for b in v["binds"]["values"]
    )
    expect("content binds", made, raw(v["binds"]["canonical"]))
    made = b"".join(text(name) + lp(raw(value)) for name, value in v["pairs"]["values"])
    expect("content pairs", made, raw(v["pairs"]["canonical"]))


def check_keys(v):
    tenant = raw(v["tenant_key"])
    for name in ("principal", "fingerprint", "correlation", "address", "credential"):
        entry = v["principal_ref" if name == "principal" else name]
        made = keyed(h(f"TENANT_{name.upper()}", tenant), entry["text"].encode())[:16]
        expect(f"keys {name}", made, raw(entry["out"]))
    unknown = v["unknown_identifier"]
    made = "?" + keyed(h("TENANT_IDENTIFIER", tenant), unknown["text"].encode())[:8].hex()
    expect("keys unknown identifier", made, unknown["out"])
    i = v["identity_digest"]
    fields = text(i["principal"]) + text(i["kind"]) + lp(raw(i["credential"])) + text(i["auth_method"])
    expect("keys identity digest", keyed(h("TENANT_IDENTITY", tenant), fields), raw(i["out"]))
    t = v["target_digest"]
    made = h("TARGET", text(t["target"]) + text(t["protocol"]) + text(t["database"]))
    expect("keys target digest", made, raw(t["out"]))
    w = v["wrapped_key"]
    session = session_bytes(w["session"])
    made = wrapped(keyed(h("TENANT_WRAP", tenant), session), session, raw(w["session_key"]))
    expect("keys wrapped key", made, raw(w["out"]))
    w = v["wrapped_name"]
    ref = raw(w["principal_ref"])
    made = wrapped(keyed(h("TENANT_DIRECTORY", tenant), ref), ref, w["name"].encode())
    expect("keys wrapped name", made, raw(w["out"]))
    s = v["session_key"]
    key = raw(s["key"])
    expect("keys session key digest", h("SESSION_KEY", key), raw(s["digest"]))
    expect("keys salt", salt_of(key, 7), raw(s["salt_of_content_7"]))
    digest_key = h("SESSION_DIGEST", key)
    expect("keys keyed digest", keyed(digest_key, raw(s["keyed_digest"]["bytes"])), raw(s["keyed_digest"]["out"]))
    expect("keys keyed id", keyed(digest_key, raw(s["keyed_id"]["bytes"]))[:16], raw(s["keyed_id"]["out"]))
    c = v["certificate"]
    digest = certificate_digest(c["producer"], c["epoch"], raw(c["epoch_public_key"]))
    expect("keys certificate digest", digest, raw(c["digest"]))
    producer = Ed25519PrivateKey.from_private_bytes(raw(c["producer_seed"]))
    expect("keys producer key", producer.public_key().public_bytes_raw(), raw(c["producer_public_key"]))
    expect("keys certificate", producer.sign(digest), raw(c["signature"]))


def wrapped(key, aad, secret):
    return ChaCha20Poly1305(key).encrypt(bytes(12), secret, aad)


def check_seals(vectors):
    for v in vectors:
        s = dict(v, session=session_bytes(v["session"]), head=raw(v["head"]), root=raw(v["root"]))
        digest = seal_digest(s)
        expect(f"seals {v['reason']} digest", digest, raw(v["digest"]))
        good = signed(raw(v["public_key"]), digest, raw(v["signature"]))
        expect(f"seals {v['reason']} signature", good, True)


def check_ledger(v):
    prev, epoch_key = bytes(32), None
    for r in v["records"]:
        what = f"ledger record {r['seq']}"
        body = canonical_body(r["body"]["fields"])
        expect(f"{what} body", body, raw(r["body"]["canonical"]))
        digest = body_digest(r["body"]["kind"], r["kind_version"], body)
        expect(f"{what} body digest", digest, raw(r["body_digest"]))
        expect(f"{what} prev", prev, raw(r["prev"]))
        prev = ledger_hash({**r, "body_digest": digest, "prev": prev})
        expect(f"{what} hash", prev, raw(r["hash"]))
        if r["body"]["kind"] == "ledger.start":
            b = named(r["body"]["fields"])
            epoch_key = b["epoch_key"]
            digest = certificate_digest(r["producer"], r["epoch"], epoch_key)
            expect(f"{what} certificate", signed(b["producer_key"], digest, b["certificate"]), True)
        expect(f"{what} signature", signed(epoch_key, prev, raw(r["signature"])), True)
    heads = [(session_bytes(s["session"]), s["count"], raw(s["head"])) for s in v["open_heads"]["sessions"]]
    expect("ledger open heads", open_heads(heads), raw(v["open_heads"]["digest"]))


# How the type of a rule's parameter is named in its digest.
PARAM_TYPES = {"int": "a whole number", "float": "a number", "text": "a text", "list of text": "a list of texts"}


def check_rules(v):
    expect("policy", h("POLICY", v["policy"]["text"].encode()), raw(v["policy"]["digest"]))
    r = v["rule"]
    fields = text(r["id"]) + text(r["version"]) + text(r["severity"])
    fields += b"".join(field("list of text", r[name]) for name in ("entity", "tactics", "attack", "atlas"))
    fields += b"".join(integer(r[f"{name}_seconds"]) for name in ("window", "lookback", "reach"))
    fields += field("bool", r["early"]) + text(r["unit"]) + text(r["text"]) + text(r["query"])
    for name, kind, value in r["params"]:
        fields += text(name) + text(PARAM_TYPES[kind])
        fields += lp(struct.pack("<d", value)) if kind == "float" else field(kind, value)
    expect("rule digest", h("RULE", fields), raw(r["digest"]))
    f = v["finding_id"]
    fields = text(f["rule"]) + lp(struct.pack("<Q", f["major"])) + integer(f["window_start_ns"])
    fields += lp(struct.pack("<Q", len(f["entity"])))
    fields += b"".join(field("text", value, optional=True) for value in f["entity"])
    expect("finding id", h("FINDING", fields)[:16], raw(f["id"]))


# Section 10.3: what is hashed and signed in a lake.


def number(value):
    return lp(struct.pack("<Q", value))


def listed(items, put):
    return number(len(items)) + b"".join(map(put, items))


def optional(value, made):
    return lp(b"\0") if value is None else lp(b"\1" + made(value))


def file_fields(f):
    ranges = f.get("sessions")
    return (
        text(f["path"])
        + text(f["table"])
        + number(f["rows"])
        + number(f["bytes"])
        + lp(raw(f["sha256"]))
        + optional(f.get("min_ts_ns"), i64)
        + optional(f.get("max_ts_ns"), i64)
        + optional(f.get("row_sum"), raw)
        + optional(f.get("min_session"), session_bytes)
        + optional(f.get("max_session"), session_bytes)
        + field("bool", ranges is not None)
        + listed(
            ranges or [],
            lambda r: lp(session_bytes(r[0])) + integer(r[1]) + integer(r[2]) + optional(r[3], raw),
        )
    )


def state_fields(s):
    return lp(session_bytes(s["session"])) + integer(s["next_seq"]) + lp(raw(s["head"])) + field("bool", s["open"])


def ledger_fields(ledger):
    return (
        text(ledger["producer"])
        + integer(ledger["epoch"])
        + lp(raw(ledger["producer_key"]))
        + lp(raw(ledger["epoch_key"]))
        + integer(ledger["next_seq"])
        + lp(raw(ledger["head"]))
        + integer(ledger["watermark_ns"])
        + field("bool", ledger["stopped"])
    )


def commit_digest(c):
    fields = integer(c["version"]) + text(c["stream"])
    fields += b"".join(number(c[name]) for name in ("generation", "from", "to"))
    fields += integer(c["created_ns"]) + optional(c.get("previous"), raw)
    fields += listed(c["files"], file_fields) + listed(c.get("replaces", []), text) + number(c.get("deleted_to", 0))
    fields += listed(c.get("sessions", []), state_fields)
    fields += listed([c["ledger"]] if c.get("ledger") else [], ledger_fields)
    fields += number(c.get("duplicates", 0)) + lp(raw(c["recorder"]))
    return h("LAKE_COMMIT", fields)


def snapshot_digest(s):
    def stream(entry):
        ledger = [entry["ledger"]] if entry.get("ledger") else []
        return (
            text(entry["stream"])
            + number(entry["generation"])
            + number(entry["position"])
            + optional(entry.get("last_from"), i64)
            + optional(entry.get("last"), raw)
            + listed(ledger, ledger_fields)
        )

    fields = integer(s["version"]) + number(s["n"]) + number(s["commits"])
    fields += listed(s["streams"], stream) + listed(s["files"], file_fields)
    fields += listed(
        s["tombstones"], lambda t: text(t["path"]) + number(t["replaced_by"]) + integer(t["replaced_ns"])
    )
    fields += listed(s["open"], lambda o: number(o[0]) + state_fields(o[1]))
    fields += listed(s.get("ended", []), lambda e: lp(session_bytes(e[0])) + integer(e[1]))
    return h("LAKE_SNAPSHOT", fields + lp(raw(s["recorder"])))


def content_row_hash(session, no, index, kind, sealed):
    return h("LAKE_CONTENT_ROW", session + i64(no) + struct.pack("<I", index) + i64(kind) + sealed)


def row_sum(hashes):
    return (sum(int.from_bytes(x, "little") for x in hashes) % (1 << 256)).to_bytes(32, "little")


def check_lake_vectors(v):
    seed = Ed25519PrivateKey.from_private_bytes(raw(v["recorder_seed"])).public_key().public_bytes_raw()
    snapshot = [(v["snapshot"], snapshot_digest)]
    for n, (vector, digest) in enumerate([(c, commit_digest) for c in v["commits"]] + snapshot):
        made, said = digest(vector["object"]), vector["object"]
        expect(f"lake object {n} digest", made, raw(vector["digest"]))
        expect(f"lake object {n} recorder", raw(said["recorder"]), seed)
        expect(f"lake object {n} signature", signed(seed, made, raw(said["signature"])), True)
    expect("lake commit link", raw(v["commits"][1]["object"]["previous"]), raw(v["commits"][0]["digest"]))
    c = v["content_row"]
    made = content_row_hash(session_bytes(c["session"]), c["content_no"], c["index"], c["kind"], raw(c["sealed"]))
    expect("lake content row", made, raw(c["hash"]))
    for row in v["table_rows"]:
        fields = text(row["table"])
        for kind, can_miss, value in row["fields"]:
            value = raw(value) if kind in ("id16", "digest") and value is not None else value
            fields += field(kind, value, can_miss)
        expect(f"lake row of {row['table']}", h("LAKE_TABLE_ROW", fields), raw(row["hash"]))
    expect("lake row sum", row_sum(map(raw, v["row_sum"]["hashes"])), raw(v["row_sum"]["sum"]))


CHECKS = {
    "rules": check_rules,
    "lake": check_lake_vectors,
    "bodies": check_bodies,
    "chain": check_chain,
    "merkle": check_merkle,
    "content": check_content,
    "keys": check_keys,
    "seals": check_seals,
    "ledger": check_ledger,
}


def check_vectors(folder):
    for name, check in CHECKS.items():
        try:
            check(json.loads((folder / f"{name}.json").read_text()))
        except (OSError, ValueError, KeyError, InvalidTag) as error:
            FAULTS.append(name)
            print(f"MISMATCH {name}: {type(error).__name__}: {error}")


# A lake: section 10 says where things are, section 12 which columns make a body.


def field_tables(document):
    """The kinds of section 12: code -> (name, version, [(field, type, optional)])."""
    kinds, rows = {}, None
    for line in document.read_text().splitlines():
        words = line.split("`")
        if line.startswith("#### ") and "version" in line:
            rows = []
            kinds[int(line.split()[1])] = (words[1], int(line.split("version")[1].split()[0]), rows)
        elif line.startswith("| ") and rows is not None and line.split("|")[1].strip().isdigit():
            kind = line.split("|")[3].strip()
            rows.append((words[1], kind.removesuffix(", optional"), kind.endswith(", optional")))
        elif line.startswith("## "):
            rows = None
    return kinds


@contextlib.contextmanager
def naming(what):
    """Whatever no sense can be made of is a mismatch of `what`, and the rest is still checked."""
    try:
        yield
    except Exception as error:
        FAULTS.append(what)
        print(f"MISMATCH {what}: {type(error).__name__}: {error}")


def numbers(folder):
    """The numbers n of all `<n>.json` in a folder."""
    return {int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()}


def commits_of(lake):
    """All commits, after place, link and signature of each were checked."""
    commits, folders = [], set()
    entries = numbers(lake / "streams")
    expect("streams/ without gaps, from 0", sorted(entries), list(range(max(entries, default=0) + 1)))
    for n in sorted(entries):
        with naming(f"streams/{n}.json"):
            stream = json.loads((lake / "streams" / f"{n}.json").read_text())
            folder = lake / "commits" / stream["stream"].replace("/", "@") / str(stream["generation"])
            folders.add(folder)
            left, position, previous = numbers(folder), stream["from"], None
            while position in left:
                left.remove(position)
                path = folder / f"{position}.json"
                what = f"commit {path.relative_to(lake)}"
                commit = json.loads(path.read_text())
                place = (commit["stream"], commit["generation"], commit["from"])
                expect(f"{what} place", place, (stream["stream"], stream["generation"], position))
                expect(f"{what} previous", commit.get("previous"), previous)
                digest = commit_digest(commit)
                good = signed(raw(commit["recorder"]), digest, raw(commit["signature"]))
                expect(f"{what} signature", good, True)
                position, previous = commit["to"], digest.hex()
                commits.append(commit)
            expect(f"{folder.relative_to(lake)} commits that none leads to", sorted(left), [])
    for folder in lake.glob("commits/*/*"):
        expect(f"{folder.relative_to(lake)} is listed", folder in folders, True)
    return commits


def live_files(lake):
    """The files that are part of the lake: table -> entries. Rows of another file than the committed one are bound
    by their hashes in tables of events; other tables must have the committed bytes."""
    import hashlib

    live, tables = {}, {}
    commits = commits_of(lake)
    expect("commits/ has commits", len(commits) > 0, True)
    for commit in sorted(commits, key=lambda c: "replaces" in c):
        for path in commit.get("replaces", []):
            live.pop(path, None)
        for f in commit["files"]:
            live[f["path"]] = f
    for path, f in sorted(live.items()):
        with naming(f"file {path}"):
            if ".." in path.split("/") or path.startswith("/"):
                raise ValueError("no path inside the lake")
            digest = hashlib.sha256((lake / path).read_bytes()).hexdigest()
            if path.startswith("tables/") and digest != f["sha256"]:
                print(f"NOTE file {path} was written anew; its rows count")
            else:
                expect(f"file {path}", digest, f["sha256"])
            tables.setdefault(f["table"], []).append(f)
    return tables


def rows_of(lake, files, row_hash=lambda row: row["hash"]):
    """The rows of files, after their number and their sum were compared with what the commits state."""
    import pyarrow.parquet

    for f in files:
        hashes = []
        with naming(f"file {f['path']}"):
            for group in pyarrow.parquet.ParquetFile(lake / f["path"]).iter_batches():
                for row in group.to_pylist():
                    hashes.append(row_hash(row))
                    yield row
            expect(f"file {f['path']} rows", len(hashes), f["rows"])
            expect(f"file {f['path']} row sum", row_sum(hashes).hex(), f["row_sum"])


def body_of(row, fields):
    return b"".join(field(kind, row.get(name), optional) for name, kind, optional in fields)


def check_lake(lake):
    kinds = field_tables(pathlib.Path(__file__).parent.parent.parent / "docs" / "event-format.md")
    tables = live_files(lake)
    ledger = list(rows_of(lake, tables.get("ledger", [])))
    epochs, sessions = {}, {}
    with naming("ledgers"):
        check_ledger_rows(ledger, kinds, epochs, sessions)
    events = {}
    for table in ("session", "sql", "http", "control", "gap"):
        for row in rows_of(lake, tables.get(table, [])):
            events.setdefault(row["session_id"], {}).setdefault(row["seq"], row)
    for session, rows in sorted(events.items()):
        with naming(f"session {uuid.UUID(bytes=session)}"):
            check_session(session, rows, kinds, epochs, sessions.get(session))
    for _ in rows_of(lake, tables.get("content", []), chunk_row_hash):
        pass
    with naming("heartbeats"):
        check_heartbeats(ledger, kinds, events, sessions)
    for session, known in sessions.items():
        promised = (known.get("end") or {}).get("count", 0)
        if session not in events and promised > 0:
            expect(f"session {uuid.UUID(bytes=session)} events", 0, promised)
    print(f"{sum(map(len, events.values()))} events, {len(ledger)} ledger records")


def chunk_row_hash(row):
    return content_row_hash(
        row["session_id"], row["content_no"], row["chunk_index"], row["content_kind"], row["sealed"]
    )


def check_heartbeats(ledger, kinds, events, sessions):
    """Heads of open sessions, where every one of them is there."""
    for row in ledger:
        if kinds[row["kind"]][0] != "ledger.heartbeat":
            continue
        heads = []
        for name, count in zip(row["open_sessions"], row["open_counts"]):
            session = session_bytes(name)
            if count > 0:
                head = events.get(session, {}).get(count - 1, {}).get("hash")
            else:
                head = sessions.get(session, {}).get("genesis")
            heads.append((session, count, head))
        if all(head for _, _, head in heads):
            what = f"ledger of {row['producer']} record {row['seq']} heads"
            expect(what, open_heads(heads), row["open_heads"])


def check_ledger_rows(rows, kinds, epochs, sessions):
    chains = {}
    for row in sorted(rows, key=lambda r: (r["producer"], r["seq"])):
        what = f"ledger of {row['producer']} record {row['seq']}"
        name, version, fields = kinds[row["kind"]]
        expected, prev = chains.get(row["producer"], (0, bytes(32)))
        expect(f"{what} number", row["seq"], expected)
        digest = body_digest(name, version, body_of(row, fields))
        made = ledger_hash({**row, "body_digest": digest, "prev": prev})
        expect(f"{what} hash", made, row["hash"])
        chains[row["producer"]] = (row["seq"] + 1, row["hash"])
        if name == "ledger.start":
            certificate = certificate_digest(row["producer"], row["epoch"], row["epoch_key"])
            expect(f"{what} certificate", signed(row["producer_key"], certificate, row["certificate"]), True)
            last = max((epoch for producer, epoch in epochs if producer == row["producer"]), default=None)
            expect(f"{what} epoch", (row["epoch"], row["previous_epoch"]), ((last or 0) + 1, last))
            epochs[row["producer"], row["epoch"]] = row["epoch_key"]
        key = epochs.get((row["producer"], row["epoch"]), bytes(32))
        expect(f"{what} signature", signed(key, row["hash"], row["record_signature"]), True)
        if name == "ledger.open":
            sessions[row["session_id"]] = {"genesis": row["genesis"], "open_seq": row["seq"], "end": None}
        if name in ("ledger.seal", "ledger.crash"):
            sessions.setdefault(row["session_id"], {"genesis": None, "open_seq": None})["end"] = {**row, "name": name}
        if name == "ledger.seal":
            digest = seal_digest({**row, "session": row["session_id"]})
            expect(f"{what} seal", signed(key, digest, row["signature"]), True)


def check_session(session, rows, kinds, epochs, announced):
    what = f"session {uuid.UUID(bytes=session)}"
    expect(f"{what} announced", announced is not None, True)
    tree, prev = Tree(), None
    for expected, (seq, row) in enumerate(sorted(rows.items())):
        expect(f"{what} event number", seq, expected)
        name, version, fields = kinds[row["kind"]]
        body = body_of(row, fields)
        e = {**row, "session": session, "body_digest": body_digest(name, version, body)}
        if seq == 0:
            prev = genesis(e, row)
            if announced:
                expect(f"{what} genesis", prev, announced["genesis"])
        if name == "session.checkpoint":
            digest = checkpoint_digest(
                session, row["producer"], row["epoch"], seq, prev, tree.root(), (announced or {}).get("open_seq", 0)
            )
            expect(f"{what} event {seq} root", tree.root(), row["root"])
            key = epochs.get((row["producer"], row["epoch"]), bytes(32))
            expect(f"{what} event {seq} signature", signed(key, digest, row["signature"]), True)
        made = h("EVENT", envelope({**e, "prev": prev}))
        expect(f"{what} event {seq} hash", made, row["hash"])
        prev = row["hash"]
        tree.push(prev)
    end = (announced or {}).get("end")
    if end:
        expect(f"{what} count", len(rows), end["count"])
        expect(f"{what} head", prev, end["head"])
        if end["name"] == "ledger.seal":
            expect(f"{what} root", tree.root(), end["root"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("--lake", type=pathlib.Path)
    options = parser.parse_args()
    if options.lake:
        check_lake(options.lake)
    else:
        check_vectors(options.vectors)
    print("disagrees" if FAULTS else "agrees")
    return 1 if FAULTS else 0


if __name__ == "__main__":
    sys.exit(main())
