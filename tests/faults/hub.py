"""A hub on this machine whose connection is cut in the middle of a download."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the hub does.

    Attributes:
        files: folder that every repository holds.
        gone_at: ending of the file of which half is sent, once; nothing is answered from then on.
        asked: paths of all requests.
    """

    files: Path
    gone_at: str | None
    gone: bool = False
    asked: list[str] = field(default_factory=list)


@contextmanager
def local_hub(patch: pytest.MonkeyPatch, hub: Hub, cache: Path) -> Iterator[None]:
    """The hub of this process; what is fetched from it goes to `cache`."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.reply(body=False)

        def do_GET(self) -> None:
            self.reply(body=True)

        def reply(self, body: bool) -> None:
            hub.asked.append(self.path)
            if hub.gone:
                return  # the connection is closed without an answer
            file = hub.files / self.path.rpartition("/")[2]
            if "/resolve/" not in self.path or not file.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = file.read_bytes()
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{file.name}"')
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if body and hub.gone_at and file.name.endswith(hub.gone_at):
                hub.gone = True
                self.wfile.write(content[start : (start + len(content)) // 2])
            elif body:
                self.wfile.write(content[start:])

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(datasets.config, "HF_ENDPOINT", address)
    for module in ("hired_eval.models.checkpoint", "hired_eval.lmms.tasks"):
        patch.setattr(f"{module}.explain_unreachable", lambda: None)
    # the libraries try again, and wait in between
    patch.setattr("time.sleep", lambda seconds: None)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
