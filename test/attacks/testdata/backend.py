"""Python behind kith: http.server's files (backend.py PORT), or a WSGI application
below gunicorn (application) that maps PATH_INFO to files as static middleware does."""

import http.server
import os
import posixpath
import sys

ROOT = "/nowhere"


def say(number, resolved, target):
    sys.stdout.write("seen %s - %s %s\n" % (number, resolved.encode("utf-8", "surrogateescape").hex(), target.encode("utf-8", "surrogateescape").hex()))
    sys.stdout.flush()


def application(environ, start_response):
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "surrogateescape")
    resolved = posixpath.normpath("/" + path.lstrip("/"))
    if path.endswith("/") and resolved != "/":
        resolved += "/"
    say(environ.get("HTTP_X_NUMBER"), resolved, environ.get("RAW_URI", ""))
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"seen\n"]


class Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do(self):
        self.directory = ROOT
        resolved = os.fspath(self.translate_path(self.path)).removeprefix(ROOT) or "/"
        say(self.headers.get("x-number"), resolved, self.path)
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"seen\n")

    do_GET = do_HEAD = do_POST = do_OPTIONS = do_PUT = do_DELETE = do

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Files).serve_forever()
