"""The interface that training, evaluation and the command line see of every model.

A model is built from plain values, which are its config (`models.config`); it can be saved into a
folder of two files (`models.pretrained`) and is perhaps conditioned (`models.conditioning`). One
that is a `Flow` has most of what is asked here from `FlowModel` (`models.flow_model`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from steadyflow.models import pretrained
from steadyflow.models.conditioning import Conditional
from steadyflow.models.config import check_event_shape, keeps_arguments
from steadyflow.models.players import Player, parameters_of
from steadyflow.models.pretrained import CONFIG as CONFIG
from steadyflow.models.pretrained import WEIGHTS as WEIGHTS

if TYPE_CHECKING:
    from steadyflow.models.flow_model import FlowModel as FlowModel


class GenerativeModel(Conditional):
    """A distribution over data that can be trained, drawn from and, mostly, evaluated.

    A subclass is one model of the literature in one file. Its constructor is keyword-only, takes
    plain values (numbers, strings, lists, None), and passes the shared ones on to this one.

    Args:
        event_shape: shape of one example: (D,) for vectors, (channels, height, width) for images.
        num_classes: number of class labels; None for a model without labels.
        context_features: length of the context vector; None for none.

    Attributes:
        name: what the command line calls the model.
        config: the arguments that it was built with.
        replayable: whether `loss` is the same sequence of tensor operations at every call, with no
            numbers that Python draws or decides (and `metrics` that it leaves in buffers), so that
            a GPU may replay it (`training.replay`).
        closed_form: whether `initialize` on all training examples is the whole of its training.
        initializes_on_all: whether `initialize` wants all training examples, not a first batch.
        loss_in_nats: whether the loss is the negative log-likelihood, in nats per dimension.
    """

    name: str
    replayable = False
    config: dict[str, Any]
    _resolved: dict[str, Any] = {}  # noqa: RUF012 - arguments as they are to be recorded
    closed_form: bool = False
    initializes_on_all: bool = False
    loss_in_nats: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = keeps_arguments(cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
    ):
        shape = check_event_shape(event_shape)
        super().__init__(num_classes, context_features)
        self.event_shape = shape

    @property
    def likelihood(self) -> str:
        """What `log_prob` is: 'exact', 'bound', 'estimate' or 'none'."""
        raise NotImplementedError

    @property
    def dimensions(self) -> int:
        """The number of variables of one example."""
        return math.prod(self.event_shape)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The training loss of a batch, a scalar; nats per dimension for likelihood models.

        Args:
            x: (batch, *event).
            context: class labels, int64 (batch,), or vectors, float (batch, features), or None.
        """
        raise NotImplementedError

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-likelihood of x: (batch, *event), shape (batch,) in nats; see `likelihood`."""
        raise NotImplementedError

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws n examples (n, *event), without gradients."""
        raise NotImplementedError

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets data-dependent parameters from a batch; training calls it once."""

    def begin_step(self, progress: float) -> None:
        """Training calls it before each step; a model with a schedule follows it from here.

        Args:
            progress: the share of the budget that is used up, from 0 to 1.
        """

    def metrics(self) -> dict[str, float | Tensor]:
        """The parts of the last `loss` by name, scalars, which training writes to metrics.csv."""
        return {}

    def players(self) -> tuple[Player, ...]:
        """Who moves in a training step, in this order: one who lowers `loss`, or a game's players.

        In a game `loss` says how good the model is, on validation examples.
        """
        return (Player("model", parameters_of(self), self.loss),)

    def settle(self) -> None:
        """Called on weights that are about to be kept: measures what a likelihood needs besides.

        Such as a normalising constant, into a buffer. By default there is nothing to measure.
        """

    def verify(self) -> None:
        """Raises a ValueError if the weights break what the model promises.

        Called after training and loading; by default there is nothing to check.
        """

    def save_pretrained(
        self, folder: str | Path, state: Mapping[str, Tensor] | None = None
    ) -> None:
        """Writes config.json and model.safetensors into a folder, all or nothing.

        A folder that holds something else keeps it: there the two files are replaced one by one.

        Args:
            folder: where to.
            state: the weights to write; the model's own `state_dict()` without it.
        """
        pretrained.save(self, folder, self.state_dict() if state is None else state)

    def _read(self, folder: Path) -> None:
        """Reads what else a model has written beside its weights; by default nothing."""

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Builds the model that `save_pretrained` wrote.

        Called on `GenerativeModel` it gives whatever model the folder holds.

        Args:
            source: a folder, the name of a model that comes along (`steadyflow.trained`), or that
                of a repository on the Hugging Face hub ('owner/name').

        Raises:
            FileNotFoundError: if there is no such folder or repository.
            ValueError: if it holds something else, or a damaged file.
        """
        return pretrained.load(source, cls)  # type: ignore[return-value]


def __getattr__(name: str) -> Any:
    if name == "FlowModel":  # which is built on this module, so that it can not be imported above
        from steadyflow.models.flow_model import FlowModel

        return FlowModel
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
