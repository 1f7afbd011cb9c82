"""A W&B server of the tests' own: as much of its protocol as a run, ``wandb sync`` and a workspace need, in memory."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "someone"


class Server:
    """What has arrived.

    Attributes:
        runs: by id what was said about a run, with ``history`` (its rows), ``summary`` and ``exit_code``.
        views: the workspaces that were saved.
        asked: the names of all requests.
        refuses: status and message that every request is answered with; None answers them.
        refuses_runs: likewise, for requests that begin a run.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.views: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.refuses: tuple[int, str] | None = None
        self.refuses_runs: tuple[int, str] | None = None
        self.url = ""

    def answer(self, name: str, query: str, values: dict[str, Any]) -> tuple[int, Any]:
        """Returns status and answer of one request."""
        self.asked.append(name)
        refused = self.refuses or (self.refuses_runs if name == "UpsertBucket" else None)
        if refused is not None:
            return refused[0], {"errors": [{"message": refused[1]}]}
        data: dict[str, Any] = {}
        if name == "UpsertBucket":
            id_ = values.get("name") or values["id"].removeprefix("gid-")
            is_new = id_ not in self.runs
            run = self.runs.setdefault(id_, {"history": [], "summary": {}, "exit_code": None})
            run |= {key: value for key, value in values.items() if value is not None}
            if values.get("summaryMetrics"):
                run["summary"] |= json.loads(values["summaryMetrics"])
            data = {"upsertBucket": {"bucket": self._bucket(id_), "inserted": is_new}}
        elif name == "RunResumeStatus":
            model = {"id": "p", "name": values["project"], "entity": {"id": "e", "name": ENTITY}}
            known = values["name"] in self.runs
            data = {"model": {**model, "bucket": self._resumed(values["name"])} if known else None}
        elif name == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in values["files"]]
            data = {"createRunFiles": {"runID": values["run"], "uploadHeaders": [], "files": files}}
        elif name == "UpsertView2":
            self.views.append(values)
            data = {"upsertView": {"view": {"id": "view", "name": values["name"]}, "inserted": True}}
        elif name == "Run" or "project(name" in query:
            id_ = values.get("name") or values.get("run")
            data = {"project": {"internalId": "1", "run": self._bucket(str(id_)) if id_ in self.runs else None}}
        elif "viewer" in query.lower():
            viewer = {"id": "v", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}
            data = {"viewer": {**viewer, "name": ENTITY, "email": "", "admin": False}}
        return 200, {"data": data}

    def stream(self, id_: str, sent: dict[str, Any]) -> None:
        """Takes rows and summary of a run."""
        run = self.runs[id_]
        files = sent.get("files") or {}
        if "wandb-history.jsonl" in files:
            part = files["wandb-history.jsonl"]
            run["history"][part["offset"] :] = [json.loads(line) for line in part["content"]]
        if "wandb-summary.json" in files:
            run["summary"] = json.loads(files["wandb-summary.json"]["content"][-1])
        if sent.get("complete"):
            run["exit_code"] = sent["exitcode"]

    def _bucket(self, id_: str) -> dict[str, Any]:
        run = self.runs[id_]
        project = {"id": "p", "name": run.get("project"), "entity": {"id": "e", "name": ENTITY}}
        described = {"displayName": run.get("displayName"), "description": "", "tags": run.get("tags") or []}
        summary = json.dumps(run["summary"])
        counted = {"historyLineCount": len(run["history"]), "config": run.get("config", "{}"), "state": "finished"}
        return {"id": f"gid-{id_}", "name": id_, "project": project, "summaryMetrics": summary, **described, **counted}

    def _resumed(self, id_: str) -> dict[str, Any]:
        rows = self.runs[id_]["history"]
        tail = json.dumps([json.dumps(rows[-1] if rows else {})])
        counts = {"eventsLineCount": 0, "logLineCount": 0, "historyTail": tail, "eventsTail": json.dumps(["{}"])}
        return {**self._bucket(id_), **counts, "wandbConfig": "{}", "group": None, "jobType": None}


@contextmanager
def serving() -> Iterator[Server]:
    """Yields a server that listens on a port of its own."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_POST(self) -> None:  # the library's name
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            stream = re.search(r"/([^/]+)/file_stream", self.path)
            if stream is None and not self.path.endswith("/graphql"):  # telemetry
                self._send(200, {})
                return
            sent = json.loads(body)
            if stream is not None:
                server.stream(stream[1], sent)
                self._send(200, {})
                return
            query = sent.get("query") or ""
            named = re.search(r"(?:query|mutation)\s+(\w+)", query)
            name = sent.get("operationName") or (named[1] if named else "")
            self._send(*server.answer(name, query, sent.get("variables") or {}))

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self._send(200, {})

        def _send(self, status: int, content: Any) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    server.url = f"http://127.0.0.1:{listening.server_address[1]}"
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
