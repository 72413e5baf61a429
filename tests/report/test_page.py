"""report.html: one file, nothing fetched, everything said, everything escaped."""

import html
import json
import re
import sys
from html.parser import HTMLParser

import pytest

from steadyflow import report
from steadyflow.evaluation import evaluate
from steadyflow.report import load_evaluation, recipe
from steadyflow.report.page import headline

EMPTY = {"meta", "img", "path", "br", "link"}


class Reader(HTMLParser):
    """Collects what a browser would load, and whether every tag is closed."""

    def __init__(self):
        super().__init__()
        self.loads, self.open, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.loads += [v for k, v in attributes if k in ("src", "href", "srcset", "xlink:href")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


@pytest.mark.parametrize("kind", ["labelled images", "plane"])
def test_a_report_is_one_file_that_fetches_nothing(make, kind):
    run = make(kind)
    path = report.build(run)
    page, source = read(path), path.read_text(encoding="utf-8")
    assert path == run.folder / "report.html"
    assert page.loads
    assert all(v.startswith("data:image/png;base64,") for v in page.loads)
    assert not re.search(r"https?://|@import|url\(|<script", source)
    assert len(page.loads) == len(list(run.folder.glob("*.png")))
    evaluation = load_evaluation(run.folder)
    word = {"bound": "lower bound", "exact": "exact"}[evaluation.likelihood]
    for words in (word, evaluation.meaning[1:], headline(evaluation, run.data().kind)[0]):
        assert words in page.text
    assert f"{evaluation.examples:,} examples" in page.text
    assert "prefers-color-scheme" in source


def test_names_are_escaped(plain):
    run = plain
    run.data().name = "<script>alert('x')</script> & co"
    source = report.build(run).read_text(encoding="utf-8")
    assert "<script" not in source
    assert html.escape("<script>alert('x')</script> & co", quote=False).split("(")[0] in source


@pytest.fixture
def plain(make, monkeypatch):
    """A run whose report has no pictures, to be quick."""
    module = sys.modules["steadyflow.report.build"]  # the package has a function of this name
    monkeypatch.setattr(module, "write_pictures", lambda *a, **k: [])
    return make("plane")


def test_an_evaluation_is_saved_used_and_kept(plain):
    run = plain
    report.build(run)
    saved = json.loads(run.path("evaluation.json").read_text())
    assert saved["where"] == "points (test examples)"
    assert saved["examples"] == len(run.data().test.x)
    given = evaluate(run.model(), run.data().test, limit=5)
    report.build(run, given)
    assert load_evaluation(run.folder) == given
    report.build(run, refresh=False)
    assert load_evaluation(run.folder) == given
    report.build(run)
    assert load_evaluation(run.folder).examples == saved["examples"]


def test_a_damaged_evaluation_is_made_anew(plain):
    run = plain
    run.path("evaluation.json").write_text("{")
    report.build(run, refresh=False)
    assert load_evaluation(run.folder) is not None


def test_without_test_examples_validation_stands_in(plain):
    run = plain
    run.data().test.x = run.data().test.x[:0]
    report.build(run)
    assert load_evaluation(run.folder).where == "points (validation examples)"


def test_examples_without_a_finite_likelihood_are_shouted(make):
    run = make("plane")
    found = evaluate(run.model(), run.data().test)
    broken = type(found)(**{**vars(found), "log_likelihood": None, "non_finite": 3})
    page = read(report.write_report(run, broken))
    assert "3 of 40 examples have no finite log-likelihood" in page.text


def test_the_command_repeats_what_is_not_a_default(make):
    run = make("labelled images")
    data = {
        "source": "my photos/",
        "seed": 4,
        "fractions": {"validation": 0.1, "test": 0.2},
        "options": {"size": 32, "gray": True, "columns": ["a", "b"]},
    }
    training = {"steps": 40, "batch_size": 256, "betas": [0.9, 0.99], "progress": False}
    command = recipe.training_command(run.model(), data, training)
    assert command == (
        "steadyflow train realnvp 'my photos/' --conditional --hidden-channels 4 --blocks 1 "
        "--data-seed 4 --test 0.2 --size 32 --gray --columns a b "
        "--steps 40 --betas 0.9 0.99 --no-progress"
    )


def test_data_in_memory_are_repeated_in_python(make):
    run = make("labelled plane")
    line = recipe.again(run.model(), {"source": "array", "in_memory": True}, {"steps": 7})
    assert line == (
        "steadyflow.fit('realnvp', data, conditional=True, "
        "model_options={'couplings': 2, 'hidden_features': [8]}, steps=7)"
    )


@pytest.mark.parametrize(
    ("training", "flags"),
    [({}, "--steps 10000"), ({"minutes": 2.5, "steps": None}, "--minutes 5")],
)
def test_going_on_takes_a_larger_budget(training, flags):
    assert recipe.more_budget(training) == flags


def test_a_run_outside_of_here_is_called_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe.typed(tmp_path / "runs" / "a") == "runs/a"
    assert recipe.typed("runs/a") == "runs/a"
    monkeypatch.chdir("/")
    assert recipe.typed("/nowhere/else/a").endswith("a")
