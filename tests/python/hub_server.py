"""A hub on 127.0.0.1 with a few made-up models, to test downloads against.

made/up is whole; the first time its big file is asked for, the connection breaks in the middle.
"""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import dream_r

ROOT = Path(dream_r.__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_someone"
EXTRA = {"README.md": b"# no", "onnx/model.safetensors": b"no", "modeling.py": b"raise SystemExit"}
HUGE = 10**18  # bytes
BIG = "big.safetensors"  # several of huggingface_hub's chunks of 10 MB: it resumes after a chunk


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        whole = (
            {path.name: path.read_bytes() for path in folder.iterdir()}
            | EXTRA
            | {BIG: bytes(24 << 20)}
        )
        config = {"config.json": b"{}"}
        self.models = {
            "made/up": whole,
            "made/gated": whole,
            "made/huge": config | {"model.safetensors": b""},
            "made/pickled": config | {"pytorch_model.bin": b"\x80"},
            "made/bare": {"model.safetensors": b""},
        }
        self.asked = []  # (method, path, Range)
        self.broken = False  # has the connection been cut once?

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, form, *values):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/api/models/"):
            repo, _, rest = path.removeprefix("/api/models/").partition("/tree/")
            repo, _, revision = repo.partition("/revision/")
            self.api(repo, revision, bool(rest))
        elif "/resolve/" in path:
            repo, _, file = path[1:].partition("/resolve/")
            self.file(repo, file.partition("/")[2])
        else:
            self.send(404, b"")

    def api(self, repo, revision, tree):
        if repo == "made/broken":
            return self.send(500, b"")
        if repo not in self.server.models:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("", "main", "v1", COMMIT):
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        sizes = {name: len(data) for name, data in self.server.models[repo].items()}
        if repo == "made/huge":
            sizes["model.safetensors"] = HUGE
        if tree:
            found = [
                {"type": "file", "path": name, "size": size, "oid": f"{hash(name) % 10**9:040d}"}
                for name, size in sizes.items()
            ]
        else:
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            found = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}
        return self.send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def file(self, repo, name):
        if repo == "made/gated" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(403, b"", {"X-Error-Code": "GatedRepo"})
        data = self.server.models[repo][name]
        head = {"ETag": f'"{abs(hash(data)):040d}"', "X-Repo-Commit": COMMIT}
        if (span := self.headers.get("Range")) is not None:
            begin = int(span.removeprefix("bytes=").partition("-")[0])
            head["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            return self.send(206, data[begin:], head)
        cut = self.command == "GET" and name == BIG and not self.server.broken
        return self.send(200, data, head, cut)

    def send(self, status, body, head=None, cut=False):
        self.send_response(status)
        for name, value in {**(head or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if cut:
            self.server.broken = True
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
        elif self.command == "GET":
            self.wfile.write(body)


@contextmanager
def running(folder: Path):
    server = Hub(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def in_a_process(code, home, *arguments, **environment):
    """huggingface_hub reads its settings when it is imported: a process for each setting."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(home), **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
