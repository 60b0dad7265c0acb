"""A model of the hub comes at one commit, without code; a local folder is taken as it is."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import typing

import pytest
from test_golden import GOLDEN

from embed import hf
from embed.hf import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {path.name: path.read_bytes() for path in (GOLDEN / "gemma4_12b").iterdir() if path.suffix != ".npz"}
FILES["modeling.py"] = b"raise SystemExit('this must never be fetched')"


class Hub(http.server.BaseHTTPRequestHandler):
    """The three answers of the hub's protocol that a download asks for."""

    asked: typing.ClassVar[list[str]] = []
    gated: typing.ClassVar[bool] = False

    def do_GET(self):
        self.answer(self.command == "GET")

    do_HEAD = do_GET

    def answer(self, whole):
        self.asked.append(self.path)
        if self.gated:  # the answer to an account that has not accepted the terms
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        name = self.path.split("?")[0].rpartition("/")[2]
        body = FILES.get(name)
        if self.path.startswith(f"/api/models/owner/model/revision/{COMMIT}"):
            listing = [{"rfilename": each} for each in FILES]
            body = json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": listing}).encode()
        elif self.path.startswith(f"/api/models/owner/model/tree/{COMMIT}"):
            listing = [{"type": "file", "path": each, "size": len(x), "oid": "0"} for each, x in FILES.items()]
            body = json.dumps(listing).encode()
        elif body is None or f"/resolve/{COMMIT}/" not in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if whole:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def run_resolve(tmp_path, name):
    """`hub.resolve` in a process of its own, which asks a server here."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = f"from embed.hf import hub; print(hub.resolve({name!r}))"
    done = subprocess.run([sys.executable, "-c", command], env=env, capture_output=True, text=True, check=False)
    server.shutdown()
    return done


def test_a_pinned_model_is_downloaded_once_and_without_code(tmp_path):
    done = run_resolve(tmp_path, f"owner/model@{COMMIT}")
    assert done.returncode == 0, done.stderr
    found = done.stdout.strip().splitlines()[-1]
    assert hf.read_architecture(found) == hf.read_architecture(GOLDEN / "gemma4_12b")
    assert not any("modeling.py" in path for path in Hub.asked if "/resolve/" in path)
    assert not list(tmp_path.rglob("*.py"))


def test_a_gated_model_says_how_to_get_access(tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "gated", True)
    done = run_resolve(tmp_path, f"owner/model@{COMMIT}")
    assert "HubError" in done.stderr and "accept its terms of use on https://huggingface.co/owner/model" in done.stderr


def test_a_folder_is_taken_and_a_branch_is_not(tmp_path):
    assert hub.resolve(tmp_path) == tmp_path
    for name in ("owner/model", "owner/model@main", f"owner/model@{COMMIT[:7]}", "../x@" + COMMIT):
        with pytest.raises(hf.HubError, match="owner/model@COMMIT"):
            hub.resolve(name)


def test_a_gguf_file_is_imported_first(tmp_path):
    (tmp_path / "x.gguf").touch()
    with pytest.raises(hf.HubError, match=r"import it once with python -m embed import .*x\.gguf RUN"):
        hub.resolve(tmp_path / "x.gguf")
