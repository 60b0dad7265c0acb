"""One encoder, one vector space: text, code, images, video, audio, documents, and any interleaving of them."""

import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embed.embedder import Embedder

__all__ = ["Embedder", "__version__"]

try:
    __version__ = importlib.metadata.version("embed")
except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Import `Embedder` when it is first used: `import embed` itself imports no JAX."""
    if name == "Embedder":
        from embed.embedder import Embedder

        return Embedder
    raise AttributeError(f"module 'embed' has no attribute {name!r}")
