import dataclasses
import inspect
import re
import subprocess
import sys

import pytest
import yaml

from steadyflow.errors import UsageError
from steadyflow.training import TrainingOptions


def test_every_option_has_a_line_in_the_docstring():
    described = set(re.findall(r"^ {4}(\w+): ", inspect.getdoc(TrainingOptions), re.MULTILINE))
    assert described >= {field.name for field in dataclasses.fields(TrainingOptions)}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("steps", -1),
        ("steps", 1.5),
        ("minutes", 0),
        ("minutes", float("nan")),
        ("batch_size", 0),
        ("learning_rate", -1e-3),
        ("learning_rate", "fast"),
        ("warmup", -1),
        ("clip", -1),
        ("weight_decay", float("inf")),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
        ("ema", 1.0),
        ("seed", -1),
        ("processes", 0),
        ("accumulate", True),
        ("validate_every", 0),
        ("patience", 0),
        ("initialization_examples", 0),
        ("log_every", 0),
    ],
)
def test_values_out_of_range_are_refused_by_name(option, value):
    with pytest.raises(UsageError, match=f"{option}=.*must be"):
        TrainingOptions(**{option: value})


@pytest.mark.parametrize(
    ("option", "value", "nearest"),
    [
        ("precision", "float23", "float32"),
        ("device", "gpu", "cpu"),
        ("schedule", "cosin", "cosine"),
        ("log", "tensorbord", "tensorboard"),
    ],
)
def test_unknown_choices_suggest_the_nearest(option, value, nearest):
    with pytest.raises(UsageError, match=f"did you mean '{nearest}'"):
        TrainingOptions(**{option: value})


def test_an_unknown_option_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'batch_size'"):
        TrainingOptions.of(batchsize=3)


def test_plain_values_survive_yaml():
    options = TrainingOptions(minutes=3, betas=[0.8, 0.9])
    assert TrainingOptions.of(**yaml.safe_load(yaml.safe_dump(options.plain()))) == options


def test_budget_is_what_was_given_or_a_default():
    assert TrainingOptions().budget == {"steps": 5000}
    assert TrainingOptions(minutes=1, epochs=2).budget == {"epochs": 2, "minutes": 1}


def test_options_need_neither_torch_nor_lightning():
    code = (
        "import sys; from steadyflow.training import Run, TrainingOptions, fit; "
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
