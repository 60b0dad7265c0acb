"""Prompts to a language model, at an OpenAI-compatible endpoint or Google's, with a cache of its replies."""

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
MAX_LOGGED_REFUSALS = 3  # often all have the same reason


class LLMError(RuntimeError):
    """An endpoint that cannot be used; the message names the cause and the remedy."""


class RefusedError(ValueError):
    """A prompt that the model does not answer; it may answer others."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """The model's text, and the tokens it cost."""

    text: str
    tokens_in: int
    tokens_out: int


# (prompt of texts and images, number of the reply) -> reply; the number is the sampling seed
Generate = Callable[[Content, int], Awaitable[Reply]]


def connect_openai(url: str, model: str, key: str | None = None, retries: int = 6) -> Generate:
    """Return a function that prompts a chat completions endpoint: vLLM, SGLang, Ollama, OpenAI, Google, ...

    `key` defaults to $OPENAI_API_KEY. Call the function in one event loop only. Raises ImportError without the extra
    [synthesis]; the function raises RefusedError, and LLMError where the endpoint fails after `retries`.
    """
    import openai

    client = openai.AsyncOpenAI(
        base_url=url, api_key=key or os.environ.get("OPENAI_API_KEY", "none"), max_retries=retries, timeout=120
    )

    async def generate(prompt: Content, number: int) -> Reply:
        parts: list[Any] = [_openai_part(part) for part in prompt]
        try:
            response = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": parts}], temperature=1.0, seed=number
            )
        except (
            openai.BadRequestError,
            openai.UnprocessableEntityError,
            openai.ContentFilterFinishReasonError,
        ) as error:
            raise RefusedError(str(error)[:300]) from error
        except openai.APIError as error:
            raise LLMError(_describe_failure(url, model, error)) from error
        if not response.choices or response.choices[0].message.content is None:
            raise RefusedError("a reply without text")
        usage = response.usage
        sizes = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        return Reply(response.choices[0].message.content, *sizes)

    return generate


def _openai_part(part: Any) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image(data):
            uri = f"data:{_mime_type(data)};base64,{base64.b64encode(data).decode()}"
            return {"type": "image_url", "image_url": {"url": uri}}
    raise RefusedError(f"a prompt with {modality_of(part).name}: only text and images can be sent")


def connect_google(model: str, url: str | None = None, key: str | None = None, retries: int = 6) -> Generate:
    """Return a function that prompts Google's Gemini endpoint, or one at `url` with the same protocol.

    `key` defaults to $GEMINI_API_KEY. Raises as `connect_openai` does.
    """
    from google import genai
    from google.genai import errors, types

    retry_options = types.HttpRetryOptions(attempts=retries + 1, initial_delay=0.5, max_delay=8)
    client = genai.Client(
        api_key=key or os.environ.get("GEMINI_API_KEY", "none"),
        http_options=types.HttpOptions(base_url=url, timeout=120_000, retry_options=retry_options),
    )

    async def generate(prompt: Content, number: int) -> Reply:
        contents: list[Any] = []
        for part in prompt:
            match part:
                case Text(text):
                    contents.append(text)
                case Image(data):
                    contents.append(types.Part.from_bytes(data=data, mime_type=_mime_type(data)))
                case _:
                    raise RefusedError(f"a prompt with {modality_of(part).name}: only text and images can be sent")
        try:
            response = await client.aio.models.generate_content(
                model=model, contents=contents, config=types.GenerateContentConfig(temperature=1.0, seed=number)
            )
        except errors.ClientError as error:
            if error.code in (400, 422):
                raise RefusedError(str(error)[:300]) from error
            raise LLMError(_describe_failure(url or "Google", model, error)) from error
        except Exception as error:  # of the HTTP client, httpx or aiohttp, whichever is installed
            raise LLMError(_describe_failure(url or "Google", model, error)) from error
        if not response.text:
            raise RefusedError("a reply without text")
        usage = response.usage_metadata
        sizes = (usage.prompt_token_count or 0, usage.candidates_token_count or 0) if usage else (0, 0)
        return Reply(response.text, *sizes)

    return generate


def _describe_failure(url: str, model: str, error: Exception) -> str:
    return (
        f"{url} does not answer for model {model} ({type(error).__name__}: {str(error)[:200]}); check the address, the "
        "key and the model's name. Replies so far are cached: run the same command again to resume"
    )


def _mime_type(data: bytes) -> str:
    with Pillow.open(io.BytesIO(data)) as image:
        return Pillow.MIME[image.format or "PNG"]


@dataclasses.dataclass
class ReplyCache:
    """Replies cached in an append-only JSONL file: no prompt is sent, and paid for, twice."""

    path: pathlib.Path
    generate: Generate
    model: str

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        complete = [line for line in lines if line.endswith(b"}\n")]  # the last one may be cut short
        if len(complete) < len(lines):
            self.path.write_bytes(b"".join(complete))
        self.rows = {row["key"]: row for row in map(json.loads, complete)}
        self.num_sent = 0  # by this process, not from the file
        self.num_refused = 0

    async def __call__(self, prompt: Content, number: int = 0) -> Reply:
        """Return the model's reply `number` to a prompt. Raises RefusedError, which is not cached, and LLMError."""
        key = self._key(prompt, number)
        if key not in self.rows:
            self.num_sent += 1
            try:
                reply = await self.generate(prompt, number)
            except RefusedError as error:
                self.num_refused += 1
                if self.num_refused <= MAX_LOGGED_REFUSALS:
                    log.warning("refused: %s", error)
                raise
            self.rows[key] = {"key": key, **dataclasses.asdict(reply)}
            with self.path.open("a") as file:
                file.write(json.dumps(self.rows[key]) + "\n")
        row = self.rows[key]
        return Reply(row["text"], row["tokens_in"], row["tokens_out"])

    def total_tokens(self) -> tuple[int, int]:
        """Sum the tokens of all cached replies: (in, out)."""
        rows = self.rows.values()
        return sum(row["tokens_in"] for row in rows), sum(row["tokens_out"] for row in rows)

    def _key(self, prompt: Content, number: int) -> str:
        digest = hashlib.blake2b(f"{self.model} {number} ".encode(), digest_size=16)
        for part in prompt:
            digest.update(bytes_of(part))
        return digest.hexdigest()
