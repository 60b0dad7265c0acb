"""The one error for media that cannot be decoded, and how a decoder's own errors become it."""

import contextlib
from collections.abc import Iterator


class MediaError(ValueError):
    """Media that cannot be decoded; the message says why and what to do."""


def check_bytes(kind: str, data: bytes) -> None:
    """Raises MediaError where there are none."""
    if not data:
        raise MediaError(f"no bytes where {kind} should be: the file is empty")


@contextlib.contextmanager
def as_media_error(kind: str, accepted: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Makes a MediaError of `errors`, what a decoder raises for a bad file.

    Anything else passes: a TypeError or an AttributeError is a defect of this code or a change of the library's.
    """
    try:
        yield
    except MediaError:
        raise
    except errors as error:
        raise MediaError(
            f"cannot decode {kind} ({type(error).__name__}: {str(error)[:200]}): the file is broken, cut short or of "
            f"another kind; give {accepted}"
        ) from error
