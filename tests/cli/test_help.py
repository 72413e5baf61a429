import resource
import subprocess
import sys

import pytest

from steadyflow.cli.main import EXAMPLES, VERBS

CHECK = """
import sys
from steadyflow.cli.main import main
code = main({words!r})
slow = [name for name in ("torch", "lightning", "matplotlib", "sklearn") if name in sys.modules]
assert not slow, slow
sys.exit(code)
"""


@pytest.mark.parametrize("words", [["--help"], ["models"], ["--version"], ["data"], []])
def test_what_only_informs_is_fast_and_imports_nothing_heavy(words):
    seconds = []
    for _ in range(3):  # a busy machine takes longer: the best of three counts
        before = processor_time()
        command = [sys.executable, "-c", CHECK.format(words=words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        seconds.append(processor_time() - before)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert not done.stderr
        if seconds[-1] < 1:
            return
    pytest.fail(f"took {seconds} seconds of processor time")


def processor_time():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_top_level_help_teaches(cli):
    outcome = cli("--help")
    assert outcome.code == 0
    assert not outcome.err
    for verb in VERBS:
        assert f"\n  {verb}" in outcome.out
    assert len(EXAMPLES) == 5
    for command, _ in EXAMPLES:
        assert command in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 100
    assert cli().out == outcome.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(cli, verb):
    outcome = cli(verb, "--help")
    assert outcome.code == 0
    assert not outcome.err
    assert f"usage: steadyflow {verb}" in outcome.out
    assert "--json" in outcome.out
    assert "--debug" in outcome.out
    assert "filled in by" not in outcome.out
    assert "\x1b[" not in outcome.out  # no colours in a pipe


def test_every_option_of_training_a_model_has_help():
    from steadyflow.cli.choices import data_options, model_options, training_options
    from steadyflow.models import MODELS

    for name in MODELS:
        for option in (*model_options(name), *data_options(), *training_options()):
            assert option.help, option.name
            assert option.metavar != "VALUE", option


def test_train_help_has_the_options_of_the_model_in_groups(cli):
    outcome = cli("train", "nice", "--help")
    groups = [outcome.out.index(f" {title} options ") for title in ("model", "data", "training")]
    assert groups == sorted(groups)
    assert "MODEL" in outcome.out
    assert "SOURCE" in outcome.out
    assert "--hidden-layers" in outcome.out
    assert "--event-shape" not in outcome.out
    assert "--num-classes" not in outcome.out
    assert "model options" not in cli("train", "--help").out


def test_models_and_their_options(cli):
    from steadyflow.models import MODELS

    listed = cli("models").out
    assert all(name in listed for name in MODELS)
    described = cli("models", "realnvp")
    assert described.code == 0
    assert "--couplings" in described.out


def test_version(cli):
    import steadyflow

    assert cli("--version").out == f"steadyflow {steadyflow.__version__}\n"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["evalute", "x"], "'evaluate'"),
        (["train", "realnpv", "moons"], "'realnvp'"),
        (["train", "realnvp", "moon"], "'moons'"),
        (["train", "realnvp", "moons", "--coupling", "3"], "'--couplings'"),
        (["train", "realnvp", "moons", "--learning-rat=3"], "'--learning-rate'"),
        (["models", "nicer"], "'nice'"),
        (["data", "digitz"], "'digits'"),
        (["sample", "--temprature", "1", "x"], "'--temperature'"),
    ],
)
def test_what_is_unknown_is_answered_with_the_nearest_name(refused, words, meant, tmp_path):
    assert f"did you mean {meant}?" in refused(2, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "a model and data"),
        (["train", "realnvp"], "a model and data"),
        (["evaluate"], "needs RUN"),
        (["score", "moons"], "--run"),
        (["data", "moons", "digits"], "unexpected 'digits'"),
        (["data", "moons", "--n", "many"], "takes a whole number, but 'many' was given"),
        (["data", "moons", "--n"], "needs a value: a whole number"),
        (["train", "realnvp", "moons", "--hidden-features", "4", "x"], "'4 x' was given"),
        (["train", "realnvp", "moons", "--schedule", "linear"], "one of cosine, constant"),
        (["train", "realnvp", "moons", "--minutes", "-1"], "--minutes -1"),
        (["--json", "models"], "'steadyflow models ...'"),
        (["data", "--preview", "x.png"], "needs a source"),
    ],
)
def test_a_wrong_command_says_what_is_expected(refused, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(2, *words)
    assert not list(tmp_path.iterdir())
