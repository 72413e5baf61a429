"""Images as sequences of patches.

    (batch, channels, height, width)  <->  (batch, patches, channels * p * p)

Patches come row by row; inside one, numbers stand in the order (channel, row, column), as in
`torch.nn.functional.pixel_unshuffle`.
"""

from __future__ import annotations

from torch import Tensor

Shape = tuple[int, ...]


def to_patches(x: Tensor, patch: int) -> Tensor:
    """Images (batch, channels, height, width) to (batch, patches, channels * patch**2)."""
    batch, channels, height, width = x.shape
    rows, columns = height // patch, width // patch
    cells = x.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch, rows * columns, channels * patch * patch)


def from_patches(tokens: Tensor, event_shape: Shape, patch: int) -> Tensor:
    """The images of shape `event_shape` that `to_patches` cut up."""
    channels, height, width = event_shape
    rows, columns = height // patch, width // patch
    batch = tokens.shape[0]
    cells = tokens.reshape(batch, rows, columns, channels, patch, patch)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def check_patch(event_shape: Shape, patch: int) -> None:
    """Raises a ValueError unless patches of this size tile the images."""
    _, height, width = event_shape
    if patch < 1 or height % patch or width % patch:
        raise ValueError(
            f"patches of {patch} x {patch} do not tile an image of {height} x {width}: choose "
            "a patch that divides both"
        )
