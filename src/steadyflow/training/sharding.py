"""Weights, gradients and Adam's state cut over the processes, for models too large for one GPU.

Each process keeps 1/n of every weight. A layer's weights are gathered when it is called and let go
after it; its gradients are averaged and cut again in the backward pass. The arithmetic is torch's
fully sharded data parallel training (`fully_shard`; Zhao et al., "PyTorch FSDP", 2023). Everything
that is written (best weights, checkpoints) is whole, so that a run may be continued with another
number of processes, sharded or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from steadyflow.bijections import Chain
from steadyflow.errors import UsageError
from steadyflow.models.model import GenerativeModel


class Sharded(DDPStrategy):
    """Lightning's processes, with the model cut over them instead of copied to each."""

    def configure_ddp(self) -> None:
        """Cuts the model; called when it is on its device and before there is an optimizer."""
        training: Any = self.lightning_module
        shard(training.model, self.root_device.type)
        training.register_state_dict_post_hook(_make_whole)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Adam's averages, whole; every process must ask."""
        return whole(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Cuts the averages of a checkpoint as the weights are cut."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            cut = {
                i: {name: like(parameters[i], value) for name, value in values.items()}
                for i, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": cut})


def shard(model: GenerativeModel, device: str) -> None:
    """Cuts a model over all processes, in place: layer by layer, then what is left.

    Raises:
        UsageError: for a model with several players, or with reversible layers.
    """
    if len(model.players()) > 1:
        raise UsageError(
            f"shard is for models with one loss, but {model.name} has several players"
        )
    if any(isinstance(part, Chain) and part.reversible for part in model.modules()):
        raise UsageError(
            "shard and reversible training do not go together: build the model with "
            "reversible=False"
        )
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(model, "loss")


def is_sharded(model: GenerativeModel) -> bool:
    """Whether `shard` was called on it."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def whole(tree: Any) -> Any:
    """The same dicts, lists and values, with tensors that are cut gathered; a collective call."""
    if isinstance(tree, DTensor):
        gathered = tree.full_tensor().detach()
        return gathered.wait() if isinstance(gathered, AsyncCollectiveTensor) else gathered
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole(value) for value in tree)
    return tree


def like(cut: Tensor, value: Any) -> Any:
    """A whole tensor cut as another of its shape is; anything else as it is."""
    if isinstance(cut, DTensor) and isinstance(value, Tensor) and value.shape == cut.shape:
        return distribute_tensor(value.to(cut.device), cut.device_mesh, cut.placements)
    return value


def _make_whole(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    # after the last step there is nobody to gather from: then the files have the weights already
    for name, value in [*state.items()]:
        if isinstance(value, DTensor) and not torch.distributed.is_initialized():
            del state[name]
        else:
            state[name] = whole(value)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    # the outermost chains' bijections that hold networks: a chain calls each as a whole
    for part in module.children():
        if isinstance(part, Chain):
            yield from (b for b in part.bijections if _has_network(b))
        else:
            yield from _layers(part)


def _has_network(layer: nn.Module) -> bool:
    return any(True for _ in layer.children()) and any(True for _ in layer.parameters())
