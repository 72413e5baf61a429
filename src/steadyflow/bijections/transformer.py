"""The block of TarFlow: an affine autoregressive map of a sequence of tokens.

    z_i = (x_i - b_i) * exp(-s_i)             (s_i, b_i) from x_0 .. x_{i-1} by a transformer
    log|det dz/dx| = -sum_i s_i

The Jacobian is block triangular in the order of the tokens, with diagonal blocks on its diagonal.
Forward is one pass for all tokens; the inverse finds them one after the other, see
`steadyflow.bijections.decoding`.

Zhai et al., "Normalizing Flows are Capable Generative Models" (2024), eq. 3-6. What differs: s is
bounded and the last layer normalised, so that no latent leads to a number that is not finite; the
first token has parameters too, so that it follows the context; weights and biases of the output
start at zero, so that the block starts as the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from steadyflow.bijections.bijection import (
    Bijection,
    Shape,
    Transformed,
    same_shape,
    sum_event,
    zero_log_det,
)
from steadyflow.bijections.decoding import Decoding, solve
from steadyflow.bijections.implicit import attach_gradient
from steadyflow.bijections.precision import widened
from steadyflow.bijections.transforms import Affine
from steadyflow.networks.precision import full_precision
from steadyflow.networks.transformer import CausalTransformer


class AutoregressiveTransformer(Bijection):
    """A block on sequences (batch, tokens, features).

    Args:
        tokens: length of the sequence; at least two.
        features: numbers of one token.
        width: channels of the transformer.
        layers: how many it has.
        heads: of its attention; None for heads of about 64 channels.
        context_features: length of a context vector; None for none.
        scale: how the log-scale is bounded: 'tanh', 'softsign', 'sigmoid' or 'exp' (not at all).
        bound: the bound on it.
        checkpoint: compute the transformer's activations again in the backward pass, so that
            training stores only the tokens between the blocks.

    Attributes:
        quickest: what `sampler='auto'` has found out: the sampler for each kind of call.

    Example:
        >>> import torch
        >>> from steadyflow.bijections import AutoregressiveTransformer
        >>> block = AutoregressiveTransformer(tokens=5, features=3, width=16, layers=1)
        >>> z, log_det = block(torch.randn(2, 5, 3))
        >>> z.shape, log_det.shape
        (torch.Size([2, 5, 3]), torch.Size([2]))
    """

    def __init__(
        self,
        tokens: int,
        features: int,
        width: int = 128,
        layers: int = 4,
        heads: int | None = None,
        context_features: int | None = None,
        scale: str = "tanh",
        bound: float = 4.0,
        checkpoint: bool = False,
    ):
        super().__init__()
        if tokens < 2:
            raise ValueError(f"an autoregressive block needs at least two tokens, got {tokens}")
        self.tokens, self.features = tokens, features
        self.transform = Affine(scale, bound)
        self.network = CausalTransformer(
            tokens, features, 2 * features, width, layers, heads, context_features
        )
        self.checkpoint = checkpoint
        self.quickest: dict[tuple, str] = {}

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """All tokens at once, in float32 even under autocast."""
        x = widened(x)
        s, b = self.split(self._evaluate(x, context).to(x.dtype))
        return (x - b) * torch.exp(-s), -sum_event(s)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """One token after the other; differentiable in z, the context and the parameters."""
        z = widened(z)
        solved = solve(self, z.detach(), context, Decoding())
        if not torch.is_grad_enabled():
            return solved.x, sum_event(solved.log_scale)
        fixed = None if context is None else context.detach()
        residual = z - self.forward(solved.x, context)[0]
        x = attach_gradient(
            solved.x, residual, lambda x: self._linearized(x, fixed), rounds=self.tokens
        )
        return x, -self.forward(x, context)[1]

    def split(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """The network's output (..., 2 features) to the log-scale s and the shift b."""
        s, b = raw.chunk(2, -1)
        return self.transform.log_scale(s), b

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another one than the constructor's."""
        return same_shape(self, (self.tokens, self.features), event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another one than the constructor's."""
        return same_shape(self, (self.tokens, self.features), event_shape)

    def _evaluate(self, x: Tensor, context: Tensor | None) -> Tensor:
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(self.network, x, context, use_reentrant=False)  # type: ignore
        return self.network(x, context)

    def _linearized(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        s, b = self.split(self.network(x, context).to(x.dtype))
        return (x - b) * torch.exp(-s), torch.exp(-s)


class LearnedOrder(Bijection):
    """z = W x over the tokens, with a learned invertible W that starts by turning them round.

        W = exp(A) J,   J the reversal              log|det dz/dx| = features * trace A

    A learned generalisation of the order, as Glow's 1x1 convolution is of a permutation of
    channels.

    Args:
        tokens: length of the sequence.
    """

    def __init__(self, tokens: int):
        super().__init__()
        self.tokens = tokens
        self.generator = nn.Parameter(torch.zeros(tokens, tokens))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Turns the tokens round and mixes them."""
        x = widened(x)
        return self._mix(self.generator, x.flip(1)), self._log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Unmixes them and turns them back."""
        z = widened(z)
        return self._mix(-self.generator, z).flip(1), -self._log_det(z)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of tokens."""
        return same_shape(self, (self.tokens, *event_shape[1:]), event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of tokens."""
        return same_shape(self, (self.tokens, *event_shape[1:]), event_shape)

    def _mix(self, generator: Tensor, x: Tensor) -> Tensor:
        with full_precision(x):
            wide = generator.to(torch.promote_types(generator.dtype, torch.float32))
            return torch.matmul(torch.matrix_exp(wide).to(x.dtype), x)

    def _log_det(self, x: Tensor) -> Tensor:
        return zero_log_det(x) + x.shape[2] * self.generator.diagonal().sum()
