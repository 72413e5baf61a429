"""Every Python block of the README and of docs/ runs, page by page, in an empty folder."""

import importlib.util
import re
from pathlib import Path

import pytest

from steadyflow.cli.main import VERBS, verb
from steadyflow.cli.options import read
from steadyflow.cli.reference import markdown
from steadyflow.models import MODELS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUNNING = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), names)


def test_the_reference_of_the_command_line_is_the_program():
    text = markdown()
    for name in VERBS:
        assert f"## steadyflow {name}\n" in text
        for option in read(verb(name), leave_out=["options"]):
            assert option.positional or option.flags[0] in text
    for name in MODELS:
        assert f"### {name}\n" in text


def test_the_guide_and_the_chinese_readme_name_every_model():
    for page in ("docs/which-model.md", "README.zh.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        missing = [name for name in MODELS if f"`{name}`" not in text]
        assert not missing, page


def test_make_bench_runs_every_benchmark_and_reads_its_tables():
    module = importlib.util.spec_from_file_location("bench", ROOT / "benchmarks" / "bench.py")
    bench = importlib.util.module_from_spec(module)
    module.loader.exec_module(bench)
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert files == {
        *bench.BENCHMARKS,
        *bench.APART,
    }  # a new benchmark is part of `make bench`
    text = "noise\n\n### D = 8\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\nend\n"
    assert bench.tables(text) == [
        {"title": "D = 8", "columns": ["a", "b"], "rows": [["1", "2"], ["3", "4"]]}
    ]
    row = {
        "command": "c",
        "when": "w",
        "quick": True,
        "status": "done",
        "tables": bench.tables(text),
    }
    report = {"machine": "m", "peers": {"x": "1", "y": None}, "benchmarks": {"t": row}}
    page = bench.page(report)
    assert "Not installed: y" in page
    assert "| 3 | 4 |" in page
