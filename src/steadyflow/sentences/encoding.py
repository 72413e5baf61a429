"""Sentences to vectors, with any encoder that sentence-transformers opens.

    sentence -> tokens (at most 64) -> hidden states of every layer -> pooling -> vector (d,)

The vectors are not normalised: whitening wants them as they are. Several poolings share one pass
through the encoder, and with a cache folder no sentence passes twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steadyflow.errors import UsageError, require
from steadyflow.sentences.cache import VectorCache
from steadyflow.sentences.pooling import Pooling

Progress = Callable[[int, int], None] | None


class Encoder:
    """A transformer that makes vectors of sentences.

    Args:
        source: the folder of an encoder, or its name on the Hugging Face hub.
        max_tokens: longer sentences are cut.
        batch_size: sentences of one pass.
        cache: a folder that keeps the vectors; None for none.
        device: 'cpu', 'cuda', ...; None takes a GPU if there is one.

    Raises:
        ImportError: without sentence-transformers, with the line that installs it.
        UsageError: if there is no such encoder.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        max_tokens: int = 64,
        batch_size: int = 64,
        cache: str | Path | None = None,
        device: str | None = None,
    ):
        if max_tokens < 3:
            raise UsageError(f"max_tokens={max_tokens} was given: it must be at least 3")
        self.max_tokens, self.batch_size = max_tokens, batch_size
        self.cache = None if cache is None else Path(cache).expanduser()
        self.source = str(source)
        transformer = _open(self.source, device)
        self.tokenizer, self.network = transformer.tokenizer, transformer.auto_model.eval()
        self.fingerprint = _fingerprint(self.network)

    @property
    def size(self) -> int:
        """The length of a vector."""
        return int(self.network.config.hidden_size)

    def encode(
        self, sentences: Sequence[str], pooling: str = "mean", progress: Progress = None
    ) -> np.ndarray:
        """The vectors of sentences: (n, d) float32.

        Args:
            sentences: any number of them.
            pooling: a name of `steadyflow.sentences.pooling`.
            progress: called with how many are done, and of how many.
        """
        return self.encode_all(sentences, [pooling], progress)[pooling]

    def encode_all(
        self, sentences: Sequence[str], poolings: Sequence[str], progress: Progress = None
    ) -> dict[str, np.ndarray]:
        """The vectors under several poolings, by name: (n, d) float32 each, in one pass."""
        _check_sentences(sentences)
        chosen = [Pooling.named(name) for name in poolings]
        stores = [self._store(pooling) for pooling in chosen]
        wanted = dict.fromkeys(s for store in stores for s in store.missing(sentences))
        # sentences of like length together: no time is spent on padding
        todo = sorted(wanted, key=len, reverse=True)
        for start in range(0, len(todo), self.batch_size):
            batch = todo[start : start + self.batch_size]
            for store, vectors in zip(stores, self._pass(batch, chosen), strict=True):
                store.put(batch, vectors)
            if progress is not None:
                progress(min(start + self.batch_size, len(todo)), len(todo))
        return {p.name: store.get(sentences) for p, store in zip(chosen, stores, strict=True)}

    @torch.inference_mode()
    def _pass(self, batch: list[str], poolings: list[Pooling]) -> list[np.ndarray]:
        tokens = self.tokenizer(
            batch,
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self.network.device)
        states = self.network(**tokens, output_hidden_states=True).hidden_states
        mask = tokens["attention_mask"]
        return [pooling(states, mask).float().cpu().numpy() for pooling in poolings]

    def _store(self, pooling: Pooling) -> VectorCache | _InMemory:
        if self.cache is None:
            return _InMemory(self.size)
        about = {
            "encoder": self.fingerprint,
            "pooling": pooling.name,
            "max_tokens": self.max_tokens,
        }
        name = "-".join(str(value) for value in about.values()).replace(":", "-")
        return VectorCache(self.cache / name.replace(",", "-"), about, self.size)


class _InMemory:
    """What stands for the cache without a folder."""

    def __init__(self, size: int):
        self.size, self.vectors = size, dict[str, np.ndarray]()

    def missing(self, sentences: Sequence[str]) -> list[str]:
        return [s for s in dict.fromkeys(sentences) if s not in self.vectors]

    def put(self, sentences: Sequence[str], vectors: np.ndarray) -> None:
        self.vectors.update(zip(sentences, vectors, strict=True))

    def get(self, sentences: Sequence[str]) -> np.ndarray:
        if not sentences:
            return np.empty((0, self.size), np.float32)
        return np.stack([self.vectors[s] for s in sentences])


def encode(
    sentences: Sequence[str],
    encoder: str | Path | Encoder,
    *,
    pooling: str = "mean",
    max_tokens: int = 64,
    batch_size: int = 64,
    cache: str | Path | None = None,
    progress: Progress = None,
) -> np.ndarray:
    """The vectors of sentences, (n, d) float32: `Encoder` in one call.

    Args:
        sentences: any number of them.
        encoder: a folder, a name on the Hugging Face hub, or an `Encoder`.
        pooling: 'mean', 'cls', 'first-last', or 'layers:2,3' for any layers.
        max_tokens: longer sentences are cut.
        batch_size: sentences of one pass.
        cache: a folder that keeps the vectors.
        progress: called with how many are done, and of how many.
    """
    if not isinstance(encoder, Encoder):
        encoder = Encoder(encoder, max_tokens=max_tokens, batch_size=batch_size, cache=cache)
    return encoder.encode(sentences, pooling, progress)


def _open(source: str, device: str | None) -> Any:
    """The transformer of an encoder: the first module of a sentence-transformers pipeline."""
    library = require("sentence_transformers", "text", "encoding sentences")
    try:
        return library.SentenceTransformer(source, device=device)[0]
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["no reason was given"])[0]
        raise UsageError(
            f"'{source}' is no encoder that sentence-transformers opens: give the folder of one, "
            f"or its name on the hub ({reason})"
        ) from error


def _fingerprint(network: torch.nn.Module) -> str:
    """Sixteen hex digits that change with the weights: of a sample of every one of them."""
    digest = hashlib.sha256()
    for name, weights in network.state_dict().items():
        digest.update(f"{name} {tuple(weights.shape)}".encode())
        flat = weights.detach().flatten()
        digest.update(flat[:: max(1, len(flat) // 64)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_sentences(sentences: Sequence[str]) -> None:
    if isinstance(sentences, str):
        raise UsageError("a list of sentences is expected, but one text was given: put it in []")
    for i, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise UsageError(f"sentence {i} is a {type(sentence).__name__}, not a text")
