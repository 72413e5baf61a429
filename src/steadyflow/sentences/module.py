"""A calibration inside a SentenceTransformer: saved with it, loaded with it, used by `encode`.

    SentenceTransformer = [Transformer, Pooling, Dense(W, b), Normalize]        a whitening
                          [Transformer, Pooling, LatentModule, Normalize]       a flow

A whitening becomes modules of sentence-transformers' own: whoever loads them needs neither this
package nor trust_remote_code. A flow needs both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from steadyflow.errors import require

KEY = "sentence_embedding"


def calibrated(encoder: Any, calibration: Any, *, normalize: bool = True) -> Any:
    """The encoder with a calibration behind its pooling.

    The calibration is of vectors as they are pooled: a normalisation that the encoder ends with
    is taken out before it, and put back behind it.

    Args:
        encoder: a SentenceTransformer; it shares its weights with the result.
        calibration: a fitted `Whitening`, `EmbeddingWhitener` or `SentenceFlow`.
        normalize: scale the result to length 1.

    Returns:
        a SentenceTransformer.
    """
    library = require("sentence_transformers", "text", "a sentence-transformers module")
    modules = require("sentence_transformers.models", "text", "a sentence-transformers module")
    kept = [part for part in encoder if not isinstance(part, modules.Normalize)]
    behind = [modules.Normalize()] if normalize else []
    made = [*kept, _module(calibration, modules), *behind]
    return library.SentenceTransformer(modules=made, device=str(encoder.device))


def _module(calibration: Any, modules: Any) -> nn.Module:
    from steadyflow.models.sentence_flow import SentenceFlow
    from steadyflow.whitening.export import to_linear

    if isinstance(calibration, SentenceFlow):
        return LatentModule(calibration)
    layer = to_linear(calibration)
    return modules.Dense(
        layer.in_features,
        layer.out_features,
        activation_function=nn.Identity(),
        init_weight=layer.weight.data,
        init_bias=layer.bias.data,
    )


class LatentModule(nn.Module):
    """A `SentenceFlow` (or any model with `transform`) as a module of a SentenceTransformer.

    Loading it wants ``SentenceTransformer(folder, trust_remote_code=True)``, since its class is
    not one of sentence-transformers. The files are config.json and model.safetensors.

    Args:
        model: the model.
    """

    forward_kwargs: set[str] = set()  # noqa: RUF012 - what sentence-transformers looks for
    save_in_root = False

    def __init__(self, model: Any):
        super().__init__()
        self.model = model.eval().requires_grad_(False)

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Replaces the sentence embeddings (batch, d) by their latents (batch, k)."""
        x: Tensor = features[KEY]
        features[KEY] = self.model.transform(x.to(_dtype(self.model))).to(x.dtype)
        return features

    def get_embedding_dimension(self) -> int:
        """The length of a latent."""
        size = self.model.dimensions
        return int(self.model.transform(torch.zeros(1, size, dtype=_dtype(self.model))).shape[1])

    get_sentence_embedding_dimension = get_embedding_dimension

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Writes config.json and model.safetensors into a folder."""
        self.model.save_pretrained(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> Self:
        """Reads what `save` wrote, from a folder or the hub."""
        from steadyflow.models import GenerativeModel

        folder = Path(model_name_or_path) / subfolder
        if not folder.is_dir():
            util = require("sentence_transformers.util", "text", "a sentence-transformers module")
            known = ("token", "cache_folder", "revision", "local_files_only")
            given = {name: options[name] for name in known if name in options}
            folder = Path(util.load_dir_path(model_name_or_path, subfolder=subfolder, **given))
        return cls(GenerativeModel.from_pretrained(folder))


def _dtype(model: nn.Module) -> torch.dtype:
    return next(b.dtype for b in model.buffers() if b.is_floating_point())
