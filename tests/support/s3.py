"""An S3 service for tests: moto, made strict, behind faults that a test asks for.

Strict: a request must carry a signature (AWS4-HMAC-SHA256) of the key that the arguments name, over the body that came;
and of many writers that put an object under `If-None-Match: *` exactly one wins.

    s3.py ACCESS_KEY SECRET_KEY BUCKET [CERT KEY]

prints its port on one line. `PUT /-/faults` takes a list of rules:

    {"do": "500" | "503" | "lost" | "cut" | "late" | "lag" | "unconditional", "method": regex, "path": regex,
     "share": 0..1, "times": most, "seconds": n}

`500`, `503` are answered instead of the request being done; `lost` is done, and answered after `seconds`; `cut` is done, and
the connection closed without an answer; `late` is done only after `seconds`, whoever still waits; a `lag`ging list lacks
what was written in the last `seconds`; `unconditional` forgets the condition of a put. `GET /-/log` tells every request since the last `DELETE /-/log`, and `GET /-/done`
how often each rule was applied.
"""

import hashlib
import hmac
import io
import json
import random
import re
import socket
import sys
import threading
import time
import urllib.parse
from datetime import datetime, timedelta, timezone

from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server

ACCESS, SECRET, BUCKET = sys.argv[1:4]
CONDITIONAL = threading.Lock()
STATE = threading.Lock()
RULES, LOG = [], []
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
    r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})"
)


def error(status, code, start):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def is_signed(environ, body):
    found = AUTHORIZATION.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
    if not found or found[1] != ACCESS:
        return False
    _, day, region, names, signature = found.groups()
    stated = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
    if stated not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
        return False

    def header(name):
        key = name.upper().replace("-", "_")
        value = environ.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key, "")
        return " ".join(value.split())

    path, _, query = environ["RAW_URI"].partition("?")
    pairs = sorted((part if "=" in part else part + "=") for part in query.split("&") if part)
    canonical = "\n".join(
        [environ["REQUEST_METHOD"], path, "&".join(pairs)]
        + [f"{name}:{header(name)}" for name in names.split(";")]
        + ["", names, stated]
    )
    scope = f"{day}/{region}/s3/aws4_request"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", environ["HTTP_X_AMZ_DATE"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = ("AWS4" + SECRET).encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(hmac.new(key, text.encode(), hashlib.sha256).hexdigest(), signature)


def fault(method, path, rand=random.Random(7)):
    """The rule that this request falls under, if any."""
    with STATE:
        for rule in RULES:
            asked = re.fullmatch(rule.get("method", ".*"), method) and re.search(rule.get("path", ""), path)
            if asked and rule["done"] < rule.get("times", 1 << 60) and rand.random() < rule.get("share", 1):
                rule["done"] += 1
                return rule
    return None


class Service:
    def __init__(self, moto):
        self.moto = moto

    def control(self, environ, start):
        what, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        with STATE:
            if (what, method) == ("/-/faults", "PUT"):
                RULES[:] = [dict(rule, done=0) for rule in json.loads(body)]
            elif (what, method) == ("/-/log", "DELETE"):
                LOG.clear()
            answer = json.dumps({"/-/log": LOG, "/-/done": [rule["done"] for rule in RULES]}.get(what)).encode()
        start("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]

    def done(self, environ, body):
        """The answer of moto: status, headers, body."""
        environ["wsgi.input"] = io.BytesIO(body)
        said = {}

        def start(status, headers, exc_info=None):
            said["status"], said["headers"] = status, headers

        conditional = "HTTP_IF_NONE_MATCH" in environ
        if conditional:
            CONDITIONAL.acquire()
        try:
            answer = self.moto(environ, start)
            try:
                whole = b"".join(answer)
            finally:
                if hasattr(answer, "close"):
                    answer.close()
        except KeyError:
            # moto forgets an upload that was completed, and stumbles when it is asked for it again.
            return "404 NOT FOUND", [("Content-Length", "0")], b""
        finally:
            if conditional:
                CONDITIONAL.release()
        return said["status"], said["headers"], whole

    def __call__(self, environ, start):
        if environ["PATH_INFO"].startswith("/-/"):
            return self.control(environ, start)
        method = environ["REQUEST_METHOD"]
        path = urllib.parse.unquote(environ["RAW_URI"])
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if not is_signed(environ, body):
            return error("403 FORBIDDEN", "SignatureDoesNotMatch", start)
        rule = fault(method, path) or {"do": None}
        entry = {"method": method, "path": path, "range": environ.get("HTTP_RANGE"), "fault": rule["do"]}
        if rule["do"] == "500":
            return error("500 INTERNAL SERVER ERROR", "InternalError", start)
        if rule["do"] == "503":
            return error("503 SERVICE UNAVAILABLE", "SlowDown", start)
        if rule["do"] == "late":
            time.sleep(rule["seconds"])
        if rule["do"] == "unconditional":
            environ.pop("HTTP_IF_NONE_MATCH", None)
        status, headers, whole = self.done(environ, body)
        if rule["do"] == "lost":
            time.sleep(rule["seconds"])
        if rule["do"] == "cut":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        if rule["do"] == "lag":
            since = (datetime.now(timezone.utc) - timedelta(seconds=rule["seconds"])).strftime("%Y-%m-%dT%H:%M:%S")

            def old(found):
                return found[0] if found[1].decode() < since else b""

            whole = re.sub(rb"<Contents>(?:(?!</Contents>).)*?<LastModified>([^<]*)</LastModified>.*?</Contents>", old, whole, flags=re.S)
            headers = [(n, v) for n, v in headers if n.lower() != "content-length"] + [("Content-Length", str(len(whole)))]
        entry.update(status=int(status.split()[0]), sent=len(whole), taken=len(body))
        with STATE:
            LOG.append(entry)
        start(status, headers)
        return [whole]


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *_):
        pass


def main():
    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(BUCKET, "us-east-1")
    service = Service(DomainDispatcherApplication(create_backend_app))
    tls = tuple(sys.argv[4:6]) or None
    server = make_server("127.0.0.1", 0, service, threaded=True, request_handler=Handler, ssl_context=tls)
    server.daemon_threads = True
    print(server.port, flush=True)
    server.serve_forever()


main()
