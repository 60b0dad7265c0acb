"""Models in and out of the Hugging Face layout: folders that transformers and sentence-transformers write and read."""

from embed.hf.config import read_architecture as read_architecture
from embed.hf.fields import HubError as HubError
from embed.hf.hub import open_model as open_model
from embed.hf.hub import resolve as resolve
from embed.hf.load import find_new as find_new
from embed.hf.load import load as load
from embed.hf.load import load_preprocessor as load_preprocessor
