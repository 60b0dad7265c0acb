"""A local server with OpenAI's and Google's protocols that replies with `grammar`: synthesis without a network."""

import base64
import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

from embed.synthesis.grammar import write_reply

MODEL = "grammar"


class Handler(http.server.BaseHTTPRequestHandler):
    """POST /v1/chat/completions (OpenAI's protocol) and /v1beta/models/MODEL:generateContent (Google's)."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        google = self.path.endswith(":generateContent")
        try:
            prompt, images, number = (_read_google if google else _read_openai)(body)
            text = write_reply(prompt, images, number)
        except (ValueError, SyntaxError, KeyError, IndexError) as error:
            return self.reply(400, {"error": {"message": str(error), "code": 400, "status": "INVALID_ARGUMENT"}})
        self.reply(200, (_write_google if google else _write_openai)(text, len(prompt) // 4))

    def reply(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: it would break the progress bar."""


def _read_openai(body: dict[str, Any]) -> tuple[str, list[bytes], int]:
    parts = body["messages"][-1]["content"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    uris = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return "".join(texts), [base64.b64decode(uri.partition(",")[2]) for uri in uris], body.get("seed") or 0


def _read_google(body: dict[str, Any]) -> tuple[str, list[bytes], int]:
    parts = body["contents"][-1]["parts"]
    texts = [part["text"] for part in parts if "text" in part]
    images = [base64.b64decode(part["inlineData"]["data"], altchars=b"-_") for part in parts if "inlineData" in part]
    return "".join(texts), images, body.get("generationConfig", {}).get("seed") or 0


def _write_openai(text: str, tokens: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "0", "object": "chat.completion", "created": 0, "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": len(text) // 4, "total_tokens": 0},
    }  # fmt: skip


def _write_google(text: str, tokens: int) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": tokens, "candidatesTokenCount": len(text) // 4},
    }


@contextlib.contextmanager
def serve(handler: type[http.server.BaseHTTPRequestHandler] = Handler) -> Iterator[str]:
    """Serve on a free local port, in a thread; yield the URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
