"""Ordinary networks that give bijections their parameters."""

from steadyflow.networks.contractive import ContractiveConvNet, ContractiveMLP
from steadyflow.networks.convolutional import ResidualConvNet
from steadyflow.networks.dit import DiffusionTransformer
from steadyflow.networks.gated import GatedConvNet
from steadyflow.networks.glow import GlowNet, ZeroConv
from steadyflow.networks.lipschitz import LipschitzConv2d, LipschitzLinear
from steadyflow.networks.masked import MaskedMLP
from steadyflow.networks.mlp import MLP
from steadyflow.networks.transformer import CausalTransformer
from steadyflow.networks.unet import UNet
from steadyflow.networks.vector_field import VectorField

__all__ = [
    "MLP",
    "CausalTransformer",
    "ContractiveConvNet",
    "ContractiveMLP",
    "DiffusionTransformer",
    "GatedConvNet",
    "GlowNet",
    "LipschitzConv2d",
    "LipschitzLinear",
    "MaskedMLP",
    "ResidualConvNet",
    "UNet",
    "VectorField",
    "ZeroConv",
]
