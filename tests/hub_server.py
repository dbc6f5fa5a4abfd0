"""A minimal Hugging Face Hub on loopback, for the real huggingface_hub client to talk to.

It keeps repositories in memory and knows what the client needs: repository info, tree, files with
their headers, creation, preupload, LFS objects and commits. Its faults are set by the tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".png", ".gif", ".bin", ".pt")


class HubServer:
    """The server; use as a context manager.

    Attributes:
        commits: For each repository, the files of each commit, by the commit's hash.
        branches: For each repository, the hash of each branch's newest commit.
        objects: Stored LFS objects by SHA-256.
        requests: Every request so far, as "METHOD path".
        break_after: Bytes of a download after which the connection is cut, once.
        refuse_objects_after: LFS objects stored after which others are refused; None never.
        stored: How many LFS objects were stored.
        refuse_with: Status of every answer about a repository; None answers.
        delay: Seconds before every answer about a repository.
        sizes: Sizes that the repository's information claims instead of the true ones.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.break_after: int | None = None
        self.refuse_objects_after: int | None = None
        self.stored = 0
        self.refuse_with: int | None = None
        self.delay = 0.0
        self.sizes: dict[str, int] = {}
        self.lock = threading.Lock()
        server = self

        class Handler(_Handler):
            hub = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Makes a commit that holds exactly `files`, and its repository if there is none."""
        content = json.dumps([repo, branch, {k: _sha256(v) for k, v in sorted(files.items())}])
        sha = hashlib.sha1((content + str(len(self.commits.get(repo, {})))).encode()).hexdigest()
        self.commits.setdefault(repo, {})[sha] = dict(files)
        self.branches.setdefault(repo, {})[branch] = sha
        return sha

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes] | None:
        """The files of a revision, or None."""
        sha = self.resolve(repo, revision)
        return None if sha is None else self.commits[repo][sha]

    def resolve(self, repo: str, revision: str) -> str | None:
        """The commit of a branch or of a hash."""
        sha = self.branches.get(repo, {}).get(revision, revision)
        return sha if sha in self.commits.get(repo, {}) else None


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._model("/".join(parts[2:4]), parts[4:], body)
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
            if name not in self.hub.commits:
                self.hub.commit(name, {})
            self._json({"url": f"{self.hub.endpoint}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif parts[0] == "objects":
            self._store(parts[1], body)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._json({"error": "not found"}, 404)

    def _model(self, repo: str, rest: list[str], body: bytes) -> None:
        hub = self.hub
        time.sleep(hub.delay)
        if hub.refuse_with is not None:
            self._json({"error": "refused"}, hub.refuse_with)
            return
        if repo not in hub.commits:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        kind, revision = [*rest, "", ""][:2]
        if kind == "branch":
            hub.branches[repo].setdefault(revision, hub.branches[repo]["main"])
            self._json({})
            return
        revision = revision or "main"
        files = hub.files(repo, revision)
        if files is None:
            self._json({"error": "Invalid rev"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return
        if kind == "tree":
            self._json([self._entry(name, data) for name, data in sorted(files.items())])
        elif kind == "preupload":
            self._preupload(files, json.loads(body))
        elif kind == "commit":
            self._commit(repo, revision, files, body)
        else:
            siblings = [
                {"rfilename": name, "size": hub.sizes.get(name, len(data))}
                for name, data in files.items()
            ]
            sha = hub.resolve(repo, revision)
            self._json({"id": repo, "modelId": repo, "sha": sha, "siblings": siblings})

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": name, "size": len(data), "oid": _git_hash(data)}
        if name.endswith(LFS_SUFFIXES):
            entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 100}
        return entry

    def _preupload(self, files: dict[str, bytes], wanted: dict[str, Any]) -> None:
        answers = []
        for file in wanted["files"]:
            mode = "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular"
            answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if (data := files.get(file["path"])) is not None:
                answer["oid"] = _sha256(data) if mode == "lfs" else _git_hash(data)
            answers.append(answer)
        self._json({"files": answers})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for each in wanted["objects"]:
            answer = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.objects:
                href = f"{self.hub.endpoint}/objects/{each['oid']}"
                answer["actions"] = {"upload": {"href": href}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str, body: bytes) -> None:
        hub = self.hub
        with hub.lock:
            if hub.refuse_objects_after is not None and hub.stored >= hub.refuse_objects_after:
                refused = True
            else:
                hub.stored += 1
                hub.objects[oid] = body
                refused = _sha256(body) != oid
        self._json({}, 403 if refused else 200)

    def _commit(self, repo: str, revision: str, files: dict[str, bytes], body: bytes) -> None:
        changed = dict(files)
        for line in body.splitlines():
            value = json.loads(line)
            kind, value = value["key"], value["value"]
            if kind == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                changed[value["path"]] = self.hub.objects[value["oid"]]
        sha = self.hub.commit(repo, changed, revision)
        url = f"{self.hub.endpoint}/{repo}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _file(self, repo: str, revision: str, name: str) -> None:
        hub = self.hub
        files, sha = hub.files(repo, revision), hub.resolve(repo, revision)
        if files is None or sha is None:
            self._json({"error": "Invalid rev"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return
        if name not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
            self._json({"error": "Entry not found"}, 404, headers)
            return
        data = files[name]
        begin = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        tag = _sha256(data) if name.endswith(LFS_SUFFIXES) else _git_hash(data)
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", sha)
        self.send_header("Content-Length", str(len(data) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        with hub.lock:
            cut, hub.break_after = hub.break_after, None
        if cut is not None and len(data) > cut:
            self.wfile.write(data[begin : begin + cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        if cut is not None:
            hub.break_after = cut
        self.wfile.write(data[begin:])

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
