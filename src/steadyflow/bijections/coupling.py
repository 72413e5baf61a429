"""Coupling: some variables stay, and tell the others how to move.

    z_a = x_a
    z_b = T(x_b; theta(x_a))          log|det dz/dx| = sum_b log |dT/dx_b|

The Jacobian is triangular, so the log-determinant is that of the elementwise transform, and the
inverse needs theta only at z_a = x_a: it costs as much as the forward direction.

Dinh, Krueger & Bengio (2014), sec. 3.2; Dinh, Sohl-Dickstein & Bengio (2017), sec. 3.2-3.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from steadyflow.bijections import fused_coupling
from steadyflow.bijections.bijection import Bijection, Transformed, gradients
from steadyflow.bijections.shape import channels_to_space, space_to_channels
from steadyflow.bijections.transforms import Transform

Conditioner = Callable[[Tensor, Tensor | None], Tensor]


class Split:
    """Which variables stay and which move, as two tensors and back. Holds no weights.

    Args:
        flip: exchange the two roles.
    """

    def __init__(self, flip: bool = False):
        self.flip = flip

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Divides x: (batch, *event) into (kept, moved)."""
        first, second = self.divide(x)
        return (second, first) if self.flip else (first, second)

    def merge(self, kept: Tensor, moved: Tensor) -> Tensor:
        """Puts kept and moved back where they came from."""
        return self.join(moved, kept) if self.flip else self.join(kept, moved)

    def divide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts, before the roles are exchanged."""
        raise NotImplementedError

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """The inverse of `divide`."""
        raise NotImplementedError

    def columns(self, features: int) -> tuple[range, range] | None:
        """The indices of kept and moved in a vector, if both are regular with the same step."""
        return None

    def shapes(self, event_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of kept and moved for an event shape; fails if it can not be divided."""
        kept, moved = self(torch.empty(1, *event_shape, device="meta"))
        if 0 in kept.shape[1:] or 0 in moved.shape[1:]:
            raise ValueError(
                f"{type(self).__name__} can not divide an event of shape {tuple(event_shape)}: "
                "a coupling needs at least two variables"
            )
        return tuple(kept.shape[1:]), tuple(moved.shape[1:])


class Halves(Split):
    """The first half of the variables or channels, and the second: x[:, :n/2], x[:, n/2:]."""

    def columns(self, features: int) -> tuple[range, range]:
        """The first half and the second."""
        first, second = range(features // 2), range(features // 2, features)
        return (second, first) if self.flip else (first, second)

    def divide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Divides along axis 1; the first part is the smaller one if the number is odd."""
        first, second = x.tensor_split((x.shape[1] // 2,), 1)
        return first, second

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """Concatenates along axis 1."""
        return torch.cat((first, second), 1)


class Alternating(Split):
    """Even variables and odd variables: x[:, 0::2], x[:, 1::2] (NICE's partition)."""

    def columns(self, features: int) -> tuple[range, range]:
        """The even indices and the odd ones."""
        first, second = range(0, features, 2), range(1, features, 2)
        return (second, first) if self.flip else (first, second)

    def divide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Divides by the parity of the index along axis 1."""
        return x[:, 0::2], x[:, 1::2]

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """Interleaves along axis 1."""
        if first.shape[1] == second.shape[1]:
            return torch.stack((first, second), 2).flatten(1, 2)
        together = torch.stack((first[:, :-1], second), 2).flatten(1, 2)
        return torch.cat((together, first[:, -1:]), 1)


class Checkerboard(Split):
    """The two colours of a checkerboard on the pixels of an image.

    Each colour comes as an image of half the height and width and twice the channels: no
    multiplication is spent on masked pixels. x: (batch, c, h, w) gives two (batch, 2c, h/2, w/2).
    """

    def divide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The pixels with i + j even, and those with i + j odd."""
        if x.dim() != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(
                "a checkerboard needs images (channels, height, width) of even height and width, "
                f"got {tuple(x.shape[1:])}"
            )
        # unshuffled channels are (c, 2 * row + column): 0 and 3 have i + j even, 1 and 2 odd
        cells = space_to_channels(x).unflatten(1, (-1, 4))
        even = cells[:, :, 0::3].flatten(1, 2)
        odd = cells[:, :, 1:3].flatten(1, 2)
        return even, odd

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """Puts the two colours back on the board."""
        even, odd = first.unflatten(1, (-1, 2)), second.unflatten(1, (-1, 2))
        cells = torch.cat((even[:, :, :1], odd, even[:, :, 1:]), 2)
        return channels_to_space(cells.flatten(1, 2))


SPLITS: dict[str, type[Split]] = {
    "halves": Halves,
    "channels": Halves,
    "alternating": Alternating,
    "checkerboard": Checkerboard,
}


class Coupling(Bijection):
    """One coupling layer: a split, an elementwise transform and a conditioner network.

    Args:
        split: which variables stay and which move.
        transform: how the others move, for example `Affine()`.
        conditioner: a network that maps (kept, context) to the transform's parameters,
            (batch, planes * moved channels, *rest).

    Example:
        >>> import torch
        >>> from steadyflow.bijections import Affine, Coupling, Halves
        >>> from steadyflow.networks import MLP
        >>> layer = Coupling(Halves(), Affine(), MLP(2, 4, hidden_features=(16,)))
        >>> z, log_det = layer(torch.randn(5, 4))
        >>> z.shape, log_det.shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    def __init__(self, split: Split, transform: Transform, conditioner: nn.Module):
        super().__init__()
        self.split, self.transform, self.conditioner = split, transform, conditioner

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Moves the moved variables as the kept ones say."""
        return self._apply_to(x, context, inverse=False)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Moves them back; exact, at the cost of one forward."""
        return self._apply_to(z, context, inverse=True)

    def _apply_to(self, x: Tensor, context: Tensor | None, inverse: bool) -> Transformed:
        if not torch.compiler.is_compiling():
            fast = fused_coupling.attempt(self, x, context, inverse)
            if fast is not None:
                return fast
        return self.plain(self.conditioner, x, context, inverse)

    def plain(
        self, conditioner: Conditioner, x: Tensor, context: Tensor | None, inverse: bool
    ) -> Transformed:
        """The definition, in torch's own operations, with any conditioner."""
        kept, moved = self.split(x)
        parameters = conditioner(kept, context).to(x.dtype)
        transform = self.transform.inverse if inverse else self.transform.forward
        moved, log_det = transform(moved, parameters)
        return self.split.merge(kept, moved), log_det

    def backward_step(
        self,
        z: Tensor,
        grad_z: Tensor,
        grad_log_det: Tensor,
        context: Tensor | None,
        inputs: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Sequence[Tensor | None]]:
        """The input and the gradients from the output, with one evaluation of the conditioner.

        For reversible training; see `steadyflow.bijections.reversible.OneEvaluation`.
        """
        kept, moved = self.split(z)
        of_kept, of_moved = self.split(grad_z)
        with torch.enable_grad():
            kept = kept.detach().requires_grad_()
            parameters = self.conditioner(kept, context).to(z.dtype)
            with torch.no_grad():
                start = self.transform.inverse(moved, parameters)[0]
            outputs = self.transform.forward(start.requires_grad_(), parameters)
        sources = [start, kept, *inputs]
        of_start, more, *grads = gradients(outputs, (of_moved, grad_log_det), sources)
        of_kept = of_kept if more is None else of_kept + more
        x = self.split.merge(kept.detach(), start.detach())
        return x, self.split.merge(of_kept, of_start), grads  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        """Split and transform, for the printed model."""
        split = f"{type(self.split).__name__}(flip={self.split.flip})"
        return f"split={split}, transform={type(self.transform).__name__}"
