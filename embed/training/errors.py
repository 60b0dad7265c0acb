"""Errors that their user can mend: each ends a program with one line and status 2."""

import contextlib
import sys
from collections.abc import Iterator

from embed.data.discover import DatasetError
from embed.data.media.decode import MediaError
from embed.data.pieces import LimitError
from embed.data.records import RecordError
from embed.distributed import storage
from embed.hf import HubError
from embed.model.build import EncoderError
from embed.synthesis.llm import LLMError
from embed.training.checkpoint import CheckpointError
from embed.training.config_check import ConfigError
from embed.training.metrics import Diverged
from embed.training.quarantine import DataError
from embed.training.soup import SoupError

# Errors whose message tells the user what to change. Every other error is a defect and keeps its traceback.
USER_ERRORS = (
    ConfigError,
    CheckpointError,
    DataError,
    DatasetError,
    RecordError,
    MediaError,
    LimitError,
    HubError,
    EncoderError,
    SoupError,
    Diverged,
    LLMError,
    storage.StorageError,
    FileNotFoundError,
    NotADirectoryError,
    PermissionError,
)
USER_ERROR_STATUS = 2  # 1 is Python's own, of a traceback


@contextlib.contextmanager
def report_user_errors() -> Iterator[None]:
    """End the program with one line and USER_ERROR_STATUS on a user's error; `storage.Unreachable` passes through."""
    try:
        yield
    except storage.Unreachable:
        raise
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(USER_ERROR_STATUS)
