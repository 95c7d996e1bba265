"""A server on this machine that takes what `huggingface_hub` sends when a folder is pushed."""

from __future__ import annotations

import base64
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class HubStandIn:
    """created: repositories asked for; files: what was committed, by name; refuses: every request is 403."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refuses = False
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer(*stand_in.post(self.path.partition("?")[0], body))

            def do_GET(self) -> None:
                self._answer(200, {"id": "org/mine", "sha": "0" * 40, "siblings": []})

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing is printed into the tests' output."""

            def _answer(self, status: int, content: Any) -> None:
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> HubStandIn:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self) -> dict[str, str]:
        """For a process that is to take this for the hub."""
        address = f"http://127.0.0.1:{self._server.server_port}"
        return {**os.environ, "HF_ENDPOINT": address, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_OFFLINE": "0"}  # fmt: skip

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        """The answer to what is posted."""
        if self.refuses:
            return 403, {"error": "You do not have the rights to write here."}
        if path == "/api/repos/create":
            asked = json.loads(body)
            # Versions of the client say it either way.
            private = bool(asked.get("private") or asked.get("visibility") == "private")
            self.created.append(
                {"name": asked["name"], "organization": asked["organization"], "private": private}
            )
            return 200, {"url": "http://127.0.0.1/org/mine", "name": "org/mine", "id": "1"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return 200, {
                "files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
                ]
            }
        if "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return 200, {"commitUrl": "http://127.0.0.1/org/mine/commit/1", "commitOid": "1" * 40,
                         "hookOutput": "", "success": True}  # fmt: skip
        return 404, {"error": f"no {path} here"}
