"""What a model is conditioned on: class labels, vectors, or nothing.

    labels    c in {0, ..., C - 1}    one-hot, (batch, C)
    vectors   c in R^F                (c - mean) / std, (batch, F), by the moments of training

One row of context serves all examples of a batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.tracing import recording, transforming


class Conditional(nn.Module):
    """Takes labels or vectors, and turns them into the context that its networks see.

    Args:
        num_classes: number of class labels; None for a model without labels.
        context_features: length of the context vector; None for none.
    """

    context_mean: Tensor
    context_std: Tensor

    def __init__(self, num_classes: int | None, context_features: int | None):
        super().__init__()
        if num_classes is not None and context_features is not None:
            raise ValueError("give num_classes or context_features, not both")
        for name, value in (("num_classes", num_classes), ("context_features", context_features)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 (or None), got {value}")
        self.num_classes, self.context_features = num_classes, context_features
        if context_features is not None:
            self.register_buffer("context_mean", torch.zeros(context_features))
            self.register_buffer("context_std", torch.ones(context_features))

    def condition(self, context: Tensor | None, batch: int) -> Tensor | None:
        """Turns labels or vectors into the float context (batch, features) of the networks.

        Raises:
            ValueError: if labels or a context are missing, not wanted, or out of range.
        """
        if self.num_classes is not None:
            return self._embed(context, batch, self.num_classes)
        if self.context_features is not None:
            return self._standardized(context, batch, self.context_features)
        if context is not None:
            raise ValueError(
                f"this {type(self).__name__} is unconditional: "
                "build it with num_classes or context_features to use a context"
            )
        return None

    @torch.no_grad()
    def standardize_context(self, context: Tensor | None) -> None:
        """From now on the networks see contexts with the mean and std of these: (N, features).

        A feature that is constant in them is centred only. Classes are left as they are.
        """
        if self.context_features is None or context is None or len(context) < 2:
            return
        wide = context.double()
        mean, std = wide.mean(0), wide.std(0, correction=0)
        self.context_mean.copy_(mean)
        self.context_std.copy_(torch.where(std > 1e-12 * mean.abs().clamp_min(1e-12), std, 1.0))

    def _standardized(self, context: Tensor | None, batch: int, features: int) -> Tensor:
        if context is None:
            raise ValueError(f"this {type(self).__name__} needs a context of {features} numbers")
        context = context.to(self.context_mean.device)
        if context.dim() == 1:
            context = context[None]
        if context.dim() != 2 or context.shape[1] != features:
            raise ValueError(
                f"expected a context of shape ({batch}, {features}), got {tuple(context.shape)}"
            )
        return self._rows((context - self.context_mean) / self.context_std, batch)

    def _embed(self, labels: Tensor | None, batch: int, classes: int) -> Tensor:
        if labels is None:
            raise ValueError(
                f"this {type(self).__name__} needs class labels, integers from 0 to {classes - 1}"
            )
        labels = torch.as_tensor(labels)
        if labels.is_floating_point() or labels.dim() > 1:
            raise ValueError(
                f"class labels must be integers of shape ({batch},), "
                f"got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        # where values can not be read, one_hot itself refuses a wrong label
        if not recording() and labels.numel():
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= classes:
                raise ValueError(
                    f"class label {low if low < 0 else high} is out of range: "
                    f"this model knows 0 to {classes - 1}"
                )
        here = next(self.parameters()).device
        rows = labels.to(here).long().reshape(-1, 1)
        if transforming():  # one_hot reads the labels; scatter refuses a wrong one as well
            context = torch.zeros(len(rows), classes, device=here).scatter(1, rows, 1.0)
        else:
            context = F.one_hot(rows[:, 0], classes).to(torch.get_default_dtype())
        return self._rows(context, batch)

    @staticmethod
    def _rows(context: Tensor, batch: int) -> Tensor:
        if context.shape[0] == batch:
            return context
        if context.shape[0] == 1:
            return context.expand(batch, -1)
        raise ValueError(f"{batch} examples need {batch} rows of context, got {context.shape[0]}")
