"""The guestbook's web front: a page, a form, and the messages, which Redis keeps.

Settings: REDIS_HOST, REDIS_PORT, REDIS_PASSWORD, TITLE (or the file TITLE_FILE), PORT.
Paths: / (the page; POST adds a message), /messages (JSON), /healthz (always), /ready (only while Redis answers).
"""

import html
import json
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

KEY = "guestbook:messages"
KEPT = 100
FORM_MAX = 4096


class Redis:
    """One command a connection: simple, and enough for a guestbook. Source: the RESP2 protocol specification."""

    def __init__(self, host, port, password):
        self.address, self.password = (host, port), password

    def command(self, *words):
        with socket.create_connection(self.address, timeout=2) as connection, connection.makefile("rb") as reply:
            if self.password:
                connection.sendall(encode("AUTH", self.password))
                parse(reply)
            connection.sendall(encode(*words))
            return parse(reply)


def encode(*words):
    out = b"*%d\r\n" % len(words)
    for word in words:
        data = str(word).encode()
        out += b"$%d\r\n%s\r\n" % (len(data), data)
    return out


def parse(reply):
    line = reply.readline().rstrip(b"\r\n")
    if not line:
        raise OSError("redis closed the connection")
    kind, rest = line[:1], line[1:]
    if kind == b"-":
        raise OSError("redis: " + rest.decode())
    if kind in (b"+", b":"):
        return rest.decode()
    if kind == b"$":
        size = int(rest)
        return None if size < 0 else reply.read(size + 2)[:-2].decode()
    return [parse(reply) for _ in range(max(int(rest), 0))]


def title():
    path = os.environ.get("TITLE_FILE")
    if path:
        try:
            with open(path, encoding="utf-8") as file:
                return file.read().strip()
        except OSError:
            pass
    return os.environ.get("TITLE", "Guestbook")


REDIS = Redis(
    os.environ.get("REDIS_HOST", "redis"),
    int(os.environ.get("REDIS_PORT_NUMBER", "6379")),
    os.environ.get("REDIS_PASSWORD", ""),
)

PAGE = """<!doctype html><meta charset=utf-8><title>{title}</title>
<h1>{title}</h1><form method=post><input name=message maxlength=200 autofocus> <button>Sign</button></form>
<ul>{items}</ul><p><small>served by {host}</small></p>
"""


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, "ok\n", "text/plain")
        try:
            if self.path == "/ready":
                REDIS.command("PING")
                return self.answer(200, "ok\n", "text/plain")
            if self.path == "/messages":
                return self.answer(200, json.dumps(REDIS.command("LRANGE", KEY, 0, KEPT - 1)) + "\n", "application/json")
            if self.path == "/":
                items = "".join(f"<li>{html.escape(m)}" for m in REDIS.command("LRANGE", KEY, 0, KEPT - 1))
                page = PAGE.format(title=html.escape(title()), items=items, host=html.escape(socket.gethostname()))
                return self.answer(200, page, "text/html; charset=utf-8")
        except OSError as error:
            return self.answer(503, f"the database does not answer: {error}\n", "text/plain")
        return self.answer(404, "not found\n", "text/plain")

    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        if self.path != "/" or size > FORM_MAX:
            return self.answer(404 if self.path != "/" else 413, "no\n", "text/plain")
        message = parse_qs(self.rfile.read(size).decode("utf-8", "replace")).get("message", [""])[0].strip()[:200]
        try:
            if message:
                REDIS.command("LPUSH", KEY, message)
                REDIS.command("LTRIM", KEY, 0, KEPT - 1)
        except OSError as error:
            return self.answer(503, f"the database does not answer: {error}\n", "text/plain")
        return self.answer(303, "", "text/plain", {"Location": "/"})

    def answer(self, code, text, kind, more=None):
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    daemon_threads = True

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main():
    port = int(os.environ.get("PORT", "8080"))
    server = Server(("", port), Front)
    # as the container's first process it must act on the signal itself
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"guestbook listens on port {port}", flush=True)
    server.serve_forever()
    print("guestbook ends", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
