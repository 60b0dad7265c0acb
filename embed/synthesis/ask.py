"""Questions to a language model, by an OpenAI-compatible endpoint or Google's; a reply is kept and not asked again."""

import base64
import dataclasses
import hashlib
import io
import json
import logging
import os
import pathlib
from collections.abc import Awaitable, Callable
from typing import Any

from PIL import Image as Pillow

from embed.data.modalities import Content, Image, Text, bytes_of, modality_of

log = logging.getLogger(__name__)
SHOWN = 3  # refusals in the log: often all are for one reason


class AskError(RuntimeError):
    """An endpoint that cannot be used; the message says why and what to do."""


class Refused(ValueError):
    """A question that the model does not answer; others it may."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came back, and what it took."""

    text: str
    tokens_in: int
    tokens_out: int


Ask = Callable[[Content, int], Awaitable[Reply]]  # a prompt of texts and images, and which of several answers to it


def ask_openai(url: str, model: str, key: str | None = None, retries: int = 6) -> Ask:
    """Asks an endpoint that speaks OpenAI's chat completions: vLLM, SGLang, Ollama, OpenAI, Google's, ...

    `key` if not in $OPENAI_API_KEY. All questions are asked in one event loop. Raises ImportError without the extra
    [synthesis]; a question raises Refused, or AskError where the endpoint does not answer after `retries`, or will not.
    """
    import openai

    client = openai.AsyncOpenAI(
        base_url=url, api_key=key or os.environ.get("OPENAI_API_KEY", "none"), max_retries=retries, timeout=120
    )

    async def ask(prompt: Content, number: int) -> Reply:
        parts: list[Any] = [_openai_part(part) for part in prompt]
        try:
            found = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": parts}], temperature=1.0, seed=number
            )
        except (
            openai.BadRequestError,
            openai.UnprocessableEntityError,
            openai.ContentFilterFinishReasonError,
        ) as error:
            raise Refused(str(error)[:300]) from error
        except openai.APIError as error:
            raise AskError(_as_ask_error(url, model, error)) from error
        if not found.choices or found.choices[0].message.content is None:
            raise Refused("an answer without text")
        used = found.usage
        sizes = (used.prompt_tokens, used.completion_tokens) if used else (0, 0)
        return Reply(found.choices[0].message.content, *sizes)

    return ask


def _openai_part(part: Any) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image(data):
            uri = f"data:{_kind(data)};base64,{base64.b64encode(data).decode()}"
            return {"type": "image_url", "image_url": {"url": uri}}
    raise Refused(f"a prompt of {modality_of(part).name}; texts and images can be sent")


def ask_google(model: str, url: str | None = None, key: str | None = None, retries: int = 6) -> Ask:
    """Asks Google's endpoint for Gemini, or one at `url` that speaks its protocol.

    `key` if not in $GEMINI_API_KEY. Raises as `ask_openai` does.
    """
    from google import genai
    from google.genai import errors, types

    again = types.HttpRetryOptions(attempts=retries + 1, initial_delay=0.5, max_delay=8)
    client = genai.Client(
        api_key=key or os.environ.get("GEMINI_API_KEY", "none"),
        http_options=types.HttpOptions(base_url=url, timeout=120_000, retry_options=again),
    )

    async def ask(prompt: Content, number: int) -> Reply:
        contents: list[Any] = []
        for part in prompt:
            match part:
                case Text(text):
                    contents.append(text)
                case Image(data):
                    contents.append(types.Part.from_bytes(data=data, mime_type=_kind(data)))
                case _:
                    raise Refused(f"a prompt of {modality_of(part).name}; texts and images can be sent")
        try:
            found = await client.aio.models.generate_content(
                model=model, contents=contents, config=types.GenerateContentConfig(temperature=1.0, seed=number)
            )
        except errors.ClientError as error:
            if error.code in (400, 422):
                raise Refused(str(error)[:300]) from error
            raise AskError(_as_ask_error(url or "Google", model, error)) from error
        except Exception as error:  # of its connection: httpx's or aiohttp's, whichever it found
            raise AskError(_as_ask_error(url or "Google", model, error)) from error
        if not found.text:
            raise Refused("an answer without text")
        used = found.usage_metadata
        sizes = (used.prompt_token_count or 0, used.candidates_token_count or 0) if used else (0, 0)
        return Reply(found.text, *sizes)

    return ask


def _as_ask_error(url: str, model: str, error: Exception) -> str:
    return (
        f"{url} does not answer for model {model} ({type(error).__name__}: {str(error)[:200]}); check its address, the "
        "key and the model's name. Replies so far are kept: the same command goes on"
    )


def _kind(data: bytes) -> str:
    with Pillow.open(io.BytesIO(data)) as image:
        return Pillow.MIME[image.format or "PNG"]


@dataclasses.dataclass
class Replies:
    """Every reply so far, in a JSONL file that only grows: a question that was asked is not asked again."""

    path: pathlib.Path
    ask: Ask
    model: str

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines if line.endswith(b"}\n")]  # the last one may be torn
        if len(kept) < len(lines):
            self.path.write_bytes(b"".join(kept))
        self.known = {row["key"]: row for row in map(json.loads, kept)}
        self.asked = self.refused = 0  # in this process

    async def __call__(self, prompt: Content, number: int = 0) -> Reply:
        """The model's reply number `number` to a prompt. Raises Refused, which is not kept, and AskError."""
        key = self._key(prompt, number)
        if key not in self.known:
            self.asked += 1
            try:
                reply = await self.ask(prompt, number)
            except Refused as error:
                self.refused += 1
                if self.refused <= SHOWN:
                    log.warning("refused: %s", error)
                raise
            self.known[key] = {"key": key, **dataclasses.asdict(reply)}
            with self.path.open("a") as file:
                file.write(json.dumps(self.known[key]) + "\n")
        row = self.known[key]
        return Reply(row["text"], row["tokens_in"], row["tokens_out"])

    def tokens(self) -> tuple[int, int]:
        """What all replies took, in and out."""
        rows = self.known.values()
        return sum(row["tokens_in"] for row in rows), sum(row["tokens_out"] for row in rows)

    def _key(self, prompt: Content, number: int) -> str:
        digest = hashlib.blake2b(f"{self.model} {number} ".encode(), digest_size=16)
        for part in prompt:
            digest.update(bytes_of(part))
        return digest.hexdigest()
