"""How a model is trained: plain values, checked once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steadyflow.errors import UsageError, unknown

DEFAULT_STEPS = 5000


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a model is trained.

    Several budgets may be given: training ends with the first that is used up.

    Args:
        epochs: budget: passes over the training examples.
        steps: budget: updates of the weights; 5000 when no budget is given.
        minutes: budget: time, validation included.
        batch_size: examples of one update, over all processes together.
        learning_rate: the highest one; it is reached after the warm-up.
        warmup: steps in which the learning rate rises from 0 (at most a tenth of the budget).
        schedule: 'cosine' lets the learning rate fall to 0 over the budget; 'constant' does not.
        clip: longest gradient that is used as it is; longer ones are shortened to it. 0 for none.
        weight_decay: decoupled decay of the weights (AdamW).
        betas: Adam's decay of its averages of the gradient and of its square.
        ema: decay of the averaged weights, which are the ones evaluated and saved. 0 for none.
        precision: 'float32', 'bf16-mixed' (bfloat16 networks, float32 densities) or 'float64'.
        seed: decides the first weights, the order of the examples and the noise.
        device: 'auto' takes a GPU if there is one; 'cpu' or 'cuda'.
        processes: processes on this machine, one a GPU; they share each batch.
        shard: cut the weights, their gradients and Adam's state over the processes (FSDP), for a
            model that is too large for one GPU.
        accumulate: cut each batch into that many parts, one after another, to save memory.
        validate_every: steps between validations; None for once an epoch, but not more often than
            every 100 steps.
        patience: stop after that many validations without a better one; None for never.
        initialization_examples: how many training examples set the data-dependent parameters;
            None for 1,024 images, or for vectors of 2**18 numbers in all.
        log_every: steps between two lines of metrics.csv about training.
        log: where metrics go besides metrics.csv: 'csv' (nowhere), 'tensorboard' or 'wandb'.
        progress: show a progress bar, if the output is a terminal.
        compile: compile the loss with torch.compile; slow to start, faster afterwards.
        replay: 'auto' records the step as a CUDA graph, on one GPU, for models whose steps are all
            alike: launching a step then takes no time; 'off' does not.

    Raises:
        UsageError: for a value out of its range, naming the option and what it may be.

    Example:
        >>> TrainingOptions(minutes=10).budget
        {'minutes': 10}
        >>> TrainingOptions().budget
        {'steps': 5000}
    """

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 256
    learning_rate: float = 2e-3
    warmup: int = 200
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float = 0.999
    precision: Literal["float32", "bf16-mixed", "float64"] = "float32"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = 1
    shard: bool = False
    accumulate: int = 1
    validate_every: int | None = None
    patience: int | None = None
    initialization_examples: int | None = None
    log_every: int = 20
    log: Literal["csv", "tensorboard", "wandb"] = "csv"
    progress: bool = True
    compile: bool = False
    replay: Literal["auto", "off"] = "auto"

    def __post_init__(self):
        for name in ("epochs", "minutes"):
            self._check(name, _positive, "a number above 0", optional=True)
        for name in ("steps", "validate_every", "patience", "initialization_examples"):
            self._check(name, _counts, "a whole number of at least 1", optional=True)
        for name in ("batch_size", "processes", "accumulate", "log_every"):
            self._check(name, _counts, "a whole number of at least 1")
        for name in ("warmup", "seed"):
            self._check(name, _whole, "a whole number of at least 0")
        self._check("learning_rate", _positive, "a number above 0, such as 1e-3")
        self._check("clip", _not_negative, "a number of at least 0 (0 for no clipping)")
        self._check("weight_decay", _not_negative, "a number of at least 0")
        self._check("ema", _share, "a number from 0 to below 1 (0 for no averaging)")
        self._check("betas", _betas, "two numbers from 0 to below 1")
        object.__setattr__(self, "betas", tuple(self.betas))
        self._check_choices()

    @property
    def budget(self) -> dict[str, float]:
        """The budgets that hold, by name: those given, or the default one."""
        names = ("epochs", "steps", "minutes")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return given or {"steps": DEFAULT_STEPS}

    def plain(self) -> dict[str, Any]:
        """All values as config.yaml and JSON hold them."""
        values = dataclasses.asdict(self)
        return {**values, "betas": list(self.betas)}

    def replace(self, **changes: Any) -> TrainingOptions:
        """The same options with some changed.

        Raises:
            UsageError: for an unknown option (with the nearest one), or a wrong value.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise unknown("training option", name, known)
        return dataclasses.replace(self, **changes)

    @classmethod
    def of(cls, **values: Any) -> TrainingOptions:
        """The options with these values; an unknown name suggests the nearest one."""
        return cls().replace(**values)

    def _check(self, name: str, good: Any, wanted: str, optional: bool = False) -> None:
        value = getattr(self, name)
        if not (optional and value is None) and not good(value):
            raise UsageError(f"{name}={value!r} was given: it must be {wanted}")

    def _check_choices(self) -> None:
        choices = {
            "schedule": ("cosine", "constant"),
            "precision": ("float32", "bf16-mixed", "float64"),
            "device": ("auto", "cpu", "cuda"),
            "replay": ("auto", "off"),
            "log": ("csv", "tensorboard", "wandb"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise unknown(name, str(getattr(self, name)), known)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _not_negative(value: Any) -> bool:
    return _number(value) and value >= 0


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _counts(value: Any) -> bool:
    return _whole(value) and value >= 1


def _betas(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(map(_share, value))
