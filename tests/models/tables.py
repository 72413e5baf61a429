"""Small tables, and a short training, for the models of tables."""

import math

import torch
from torch import Tensor


def mixed(size: int, rows: int = 8000, seed: int = 0) -> Tensor:
    """Pairs of a mixture and a banana, standardised, rotated, then shifted and scaled."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, size, generator=generator)
    x = 0.4 * noise
    signs = torch.randint(2, (rows, size), generator=generator) * 3.0 - 1.5
    x[:, 0::2] += signs[:, 0::2]
    x[:, 1::2] += 0.5 * x[:, 0 : size - size % 2 : 2] ** 2
    x = (x - x.mean(0)) / x.std(0)
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
    return 2 * (x @ rotation) + 3


def moons(rows: int, seed: int) -> Tensor:
    """Two moons with noise 0.05, standardised; their entropy is 1.124 nats."""
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(rows, generator=generator)
    upper = torch.stack((angle.cos(), angle.sin()), 1)
    lower = torch.stack((1 - angle.cos(), 0.5 - angle.sin()), 1)
    which = torch.randint(2, (rows, 1), generator=generator) == 0
    x = torch.where(which, upper, lower) + 0.05 * torch.randn(rows, 2, generator=generator)
    return (x - torch.tensor([0.5, 0.25])) / torch.tensor([0.87, 0.50])


def fitted(model, data: Tensor, steps: int, rate: float = 1e-3, batch: int = 512):
    """The model after a training with warm-up, cosine decay and clipping."""
    generator = torch.Generator().manual_seed(1)
    model.initialize(data)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for step in range(steps):
        warm = min(1.0, (step + 1) / min(100, steps / 5))
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(data), (batch,), generator=generator)
        optimizer.zero_grad()
        (-model.log_prob(data[rows]).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return model
