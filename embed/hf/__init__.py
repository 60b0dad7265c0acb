"""Models in and out of the Hugging Face layout: folders that transformers and sentence-transformers write and read."""

from embed.hf.config import architecture as architecture
from embed.hf.fields import HubError as HubError
from embed.hf.hub import folder as folder
from embed.hf.load import layout as layout
from embed.hf.load import load as load
