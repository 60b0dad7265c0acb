"""The error for media that cannot be decoded, and how the decoders' own errors become it."""

import contextlib
from collections.abc import Iterator


class MediaError(ValueError):
    """Media that cannot be decoded; the message has the reason and what to do."""


def check_bytes(medium: str, data: bytes) -> None:
    """Raise MediaError for an empty file."""
    if not data:
        raise MediaError(f"{medium} expected, but the file is empty")


@contextlib.contextmanager
def as_media_error(medium: str, accepted: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn `errors`, what a decoder raises for a bad file, into a MediaError.

    Anything else passes: a TypeError or an AttributeError is a bug here or a change of the library.
    """
    try:
        yield
    except MediaError:
        raise
    except errors as error:
        raise MediaError(
            f"cannot decode {medium} ({type(error).__name__}: {str(error)[:200]}): the file is broken, truncated or "
            f"of another format; give {accepted}"
        ) from error
