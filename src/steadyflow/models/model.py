"""The interface that training, evaluation and the command line see of every model.

A model is built from plain values, which are its config; it can be saved into a folder of two
files (config.json and model.safetensors) and built again from it, without running anybody's code.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow import trained
from steadyflow.bijections.bijection import Chain
from steadyflow.flow import Flow
from steadyflow.models.players import Player, parameters_of
from steadyflow.storage import recover_folder, replace_file, replace_folder
from steadyflow.tracing import recording

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def _recording(init):
    """Wraps a constructor so that the outermost call leaves its arguments in `self.config`."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: GenerativeModel, **given: Any) -> None:
        outermost = not getattr(self, "_building", False)
        if outermost:
            object.__setattr__(self, "_building", True)
        try:
            init(self, **given)
        finally:
            if outermost:
                object.__setattr__(self, "_building", False)
        if outermost:
            bound = signature.bind(self, **given)
            bound.apply_defaults()
            config = {k: v for k, v in bound.arguments.items() if k != "self"} | self._resolved
            self.config = json.loads(json.dumps(config, default=_plain))

    return wrapped


def _plain(value: Any) -> Any:
    """NumPy and torch numbers as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a model is built from plain values, not from a {type(value).__name__}")


class GenerativeModel(nn.Module):
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
    context_mean: Tensor
    context_std: Tensor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
    ):
        super().__init__()
        self.event_shape = check_event_shape(event_shape)
        if num_classes is not None and context_features is not None:
            raise ValueError("give num_classes or context_features, not both")
        for name, value in (("num_classes", num_classes), ("context_features", context_features)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 (or None), got {value}")
        self.num_classes, self.context_features = num_classes, context_features
        if context_features is not None:
            self.register_buffer("context_mean", torch.zeros(context_features))
            self.register_buffer("context_std", torch.ones(context_features))

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

    def condition(self, context: Tensor | None, batch: int) -> Tensor | None:
        """Turns labels or vectors into the float context (batch, features) of the networks.

        Raises:
            ValueError: if labels or a context are missing, not wanted, or out of range.
        """
        if self.num_classes is not None:
            return self._embed(context, batch, self.num_classes)
        if self.context_features is None:
            if context is not None:
                raise ValueError(
                    f"this {type(self).__name__} is unconditional: "
                    "build it with num_classes or context_features to use a context"
                )
            return None
        if context is None:
            raise ValueError(
                f"this {type(self).__name__} needs a context of {self.context_features} numbers"
            )
        context = context.to(self.context_mean.device)
        if context.dim() == 1:
            context = context[None]
        if context.dim() != 2 or context.shape[1] != self.context_features:
            raise ValueError(
                f"expected a context of shape ({batch}, {self.context_features}), "
                f"got {tuple(context.shape)}"
            )
        return self._rows((context - self.context_mean) / self.context_std, batch)

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
        context = F.one_hot(labels.to(here).long().reshape(-1), classes)
        return self._rows(context.to(torch.get_default_dtype()), batch)

    @staticmethod
    def _rows(context: Tensor, batch: int) -> Tensor:
        if context.shape[0] == batch:
            return context
        if context.shape[0] == 1:
            return context.expand(batch, -1)
        raise ValueError(f"{batch} examples need {batch} rows of context, got {context.shape[0]}")

    def save_pretrained(
        self, folder: str | Path, state: Mapping[str, Tensor] | None = None
    ) -> None:
        """Writes config.json and model.safetensors into a folder, all or nothing.

        A folder that holds something else keeps it: there the two files are replaced one by one.

        Args:
            folder: where to.
            state: the weights to write; the model's own `state_dict()` without it.
        """
        state = self.state_dict() if state is None else state
        folder = Path(folder)
        if folder.is_dir() and not _only_a_model(folder):
            with (
                replace_file(folder / CONFIG) as config,
                replace_file(folder / WEIGHTS) as weights,
            ):
                self._write(config, weights, state)
            return
        with replace_folder(folder) as aside:
            self._write(aside / CONFIG, aside / WEIGHTS, state)

    def _write(self, config: Path, weights: Path, state: Mapping[str, Tensor]) -> None:
        tensors = {k: v.detach().contiguous().cpu() for k, v in state.items()}
        content = {"model": self.name, "config": self.config}
        config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        safetensors.torch.save_file(tensors, str(weights), {"format": "pt"})

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
        folder = _fetch(source)
        name, config = _read_config(folder)
        from steadyflow.models import model_class

        model_type = model_class(name)
        if not issubclass(model_type, cls):
            raise ValueError(f"{folder} holds a {model_type.__name__}, not a {cls.__name__}")
        try:
            model = model_type(**config)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / CONFIG} does not fit {model_type.__name__}: {error}"
            ) from error
        _load_weights(model, folder / WEIGHTS)
        model._read(folder)
        return model.eval()  # type: ignore[return-value]


class FlowModel(GenerativeModel):
    """A generative model that is one `Flow`; a subclass builds `self.flow` in its constructor.

    Example:
        >>> import torch
        >>> from steadyflow import RealNVP
        >>> model = RealNVP(event_shape=(2,))
        >>> model.log_prob(torch.randn(5, 2)).shape, model.sample(3).shape
        (torch.Size([5]), torch.Size([3, 2]))
    """

    flow: Flow

    @property
    def likelihood(self) -> str:
        """'exact' for real-valued data, 'bound' for integers (dequantised)."""
        return self.flow.likelihood

    @property
    def dequantization(self) -> nn.Module | None:
        """What makes integers real, or None for real-valued data."""
        return self.flow.dequantization

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The same as `log_prob`."""
        return self.log_prob(x, context)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-likelihood of x: (batch, *event), shape (batch,) in nats."""
        return self.flow.log_prob(x, self._rows_for(x, context))

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood in nats per dimension, a scalar."""
        return self.flow.loss(x, self._rows_for(x, context))

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws n examples (n, *event); a context of one row serves all of them."""
        return self.flow.sample(n, self.condition(context, n), temperature, generator)

    def sample_with_log_prob(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws with their log_prob and gradients; see `Flow.sample_with_log_prob`."""
        return self.flow.sample_with_log_prob(
            n, self.condition(context, n), temperature, generator
        )

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The latents of x: (batch, *event)."""
        return self.flow.encode(x, self._rows_for(x, context))

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The data of latents z."""
        return self.flow.decode(z, self._rows_for(z, context))

    @torch.no_grad()
    def predict_proba(self, x: Tensor, prior: Tensor | None = None, draws: int = 1) -> Tensor:
        """The probability of each class by Bayes' rule, P(c | x) ~ p(x | c) P(c).

        A generative model of classes is a classifier for free. All classes see the same
        dequantization noise.

        Args:
            x: (batch, *event).
            prior: (classes,), P(c); all alike without it.
            draws: of the noise, whose likelihoods are averaged.

        Returns:
            (batch, classes).

        Raises:
            ValueError: if the model knows no classes.
        """
        if self.num_classes is None:
            raise ValueError(f"this {type(self).__name__} knows no classes: give num_classes")
        scores = torch.stack([self._class_scores(x, self.num_classes) for _ in range(draws)])
        joint = scores.logsumexp(0)
        return (joint if prior is None else joint + prior.to(joint).log()).softmax(1)

    def _class_scores(self, x: Tensor, classes: int) -> Tensor:
        """Log p(y | c) of one draw y of the noise, for every class: (batch, classes)."""
        y, _ = self.flow._to_real(x)
        scores = []
        for label in torch.arange(classes, device=x.device):
            row = self.condition(label, len(x))
            z, log_det = self.flow.bijection(y, row)
            scores.append(self.flow.base.log_prob(z, row) + log_det)
        return torch.stack(scores, 1)

    def _rows_for(self, x: Tensor, context: Tensor | None) -> Tensor | None:
        """The context of the networks for each example of a batch."""
        if x.dim() == 0:
            raise ValueError(
                f"expected examples of shape (batch, {', '.join(map(str, self.event_shape))}), "
                "got a single number"
            )
        return self.condition(context, x.shape[0])

    def distribution(self, context: Tensor | None = None):
        """The model as a torch.distributions.Distribution, given labels or vectors if it has them.

        Args:
            context: (*batch,) labels or (*batch, features) vectors for a batch of distributions.
        """
        if context is None:
            return self.flow.distribution(self.condition(None, 1))
        event = 0 if self.num_classes is not None else 1
        batch = context.shape[: max(context.dim() - event, 0)]
        flat = context.reshape(-1, *context.shape[len(batch) :])
        rows = self.condition(flat, len(flat))
        return self.flow.distribution(None if rows is None else rows.reshape(*batch, -1))

    def check(self, x: Tensor, context: Tensor | None = None, points: int = 3):
        """Measures whether the density can be trusted; see `Flow.check`."""
        return self.flow.check(x, self._rows_for(x, context), points)

    @torch.no_grad()
    def drift(self) -> float:
        """The largest relative error with which reversible training got back a chain's input.

        0 for a model that stores its activations. It grows with depth and with what the layers
        stretch; beyond a thousandth gradients begin to be those of another point.
        """
        return float(max((chain.drift for chain in self._reversible_chains()), default=0.0))

    def metrics(self) -> dict[str, float | Tensor]:
        """The `drift` of reversible training, for metrics.csv."""
        chains = self._reversible_chains()
        return {"drift": torch.stack([chain.drift for chain in chains]).max()} if chains else {}

    def _reversible_chains(self) -> list[Chain]:
        return [part for part in self.modules() if isinstance(part, Chain) and part.reversible]

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets data-dependent parameters (standardisation, activation normalisation)."""
        self.standardize_context(context)
        self.flow.initialize(x, self._rows_for(x, context))


def check_event_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
    """A tuple of positive integers, of length 1 (vectors) or 3 (images)."""
    try:
        shape = tuple(operator.index(n) for n in event_shape)
    except TypeError:
        raise ValueError(
            f"event_shape must be a list such as [2] or [1, 28, 28], got {event_shape!r}"
        ) from None
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise ValueError(
            "event_shape must be [variables] for vectors or [channels, height, width] for images, "
            f"got {list(shape)}"
        )
    return shape


def _only_a_model(folder: Path) -> bool:
    """Whether the folder may be replaced as a whole: our two files, and nobody stands in it."""
    names = {file.name for file in folder.iterdir()}
    return names == {CONFIG, WEIGHTS} and not folder.samefile(Path.cwd())


def _fetch(source: str | Path) -> Path:
    folder = Path(source)
    recover_folder(folder)
    if folder.is_dir():
        return folder
    if shipped := trained.find(source):
        return shipped
    if str(source).count("/") != 1 or folder.is_absolute() or str(source).startswith("."):
        raise FileNotFoundError(f"there is no model folder '{source}'")
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(str(source), allow_patterns=[CONFIG, WEIGHTS])
        )
    except Exception as error:
        raise FileNotFoundError(
            f"'{source}' is neither a folder here nor a model that the hub would give: {error}"
        ) from error


def _read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a saved model: it has no {CONFIG}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name, config = content["model"], content["config"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{path} was not written by steadyflow, or is damaged") from None
    if not isinstance(name, str) or not isinstance(config, dict):
        raise ValueError(f"{path} was not written by steadyflow, or is damaged")
    return name, config


def _load_weights(model: GenerativeModel, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a saved model: it has no {WEIGHTS}")
    try:
        weights = safetensors.torch.load_file(str(path))
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(kinds) == 1:  # sixteen bits are for the disk, a density needs thirty-two
        model.to(torch.promote_types(kinds.pop(), torch.float32))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit its {CONFIG}: {reason}") from error
    try:
        model.verify()
    except ValueError as error:
        raise ValueError(f"{path} can not be used: {error}") from error
