"""Ordinary networks that give bijections their parameters."""

from steadyflow.networks.convolutional import ResidualConvNet
from steadyflow.networks.mlp import MLP

__all__ = ["MLP", "ResidualConvNet"]
