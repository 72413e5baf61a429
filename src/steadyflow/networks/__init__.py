"""Ordinary networks that give bijections their parameters."""

from steadyflow.networks.convolutional import ResidualConvNet
from steadyflow.networks.dit import DiffusionTransformer
from steadyflow.networks.gated import GatedConvNet
from steadyflow.networks.glow import GlowNet, ZeroConv
from steadyflow.networks.masked import MaskedMLP
from steadyflow.networks.mlp import MLP
from steadyflow.networks.transformer import CausalTransformer
from steadyflow.networks.unet import UNet
from steadyflow.networks.vector_field import VectorField

__all__ = [
    "MLP",
    "CausalTransformer",
    "DiffusionTransformer",
    "GatedConvNet",
    "GlowNet",
    "MaskedMLP",
    "ResidualConvNet",
    "UNet",
    "VectorField",
    "ZeroConv",
]
