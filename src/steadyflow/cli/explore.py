"""`steadyflow explore`: a page on this machine to play with a trained model."""

from __future__ import annotations

import contextlib
from typing import Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option
from steadyflow.cli.parsing import Parsed


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the data, for --data."""
    return {"data": choices.data_options()}


def explore(
    run: str,
    *,
    data: str | None = None,
    port: int | None = None,
    browser: bool = True,
    options: Parsed,
) -> dict[str, Any]:
    """Opens a page on this machine to play with a trained model, until Ctrl-C.

    Draw at any temperature, mix two of your own images, move an image along an attribute, read the
    log-likelihood of an image. Needs: pip install 'steadyflow[explore]'. Works without a network.

    Args:
        run: a run folder, a saved model's folder, or a trained model that comes along.
        data: take attributes and examples from here instead of the run's own data.
        port: of the page; the first free one from 7860 without it.
        browser: open the page in a browser.
        options: filled in by the command line.
    """
    from steadyflow.cli.opened import examples, open_model
    from steadyflow.data import DataError
    from steadyflow.errors import UsageError, require
    from steadyflow.explorer import Explorer
    from steadyflow.explorer.page import serve

    require("gradio", "explore", "the explorer")
    opened = open_model(run)
    dataset = None
    if data is not None:
        dataset = examples(opened, data, None, options.given["data"])[1]
    else:
        with contextlib.suppress(UsageError, DataError, OSError):  # it may lie elsewhere by now
            dataset = opened.own_data()
    explorer = Explorer(opened.model, dataset, opened.white(), opened.classes())
    console.say(f"exploring {opened.name}; Ctrl-C ends it")
    if dataset is None:
        console.say("without the data it was trained on: give --data for attributes and examples")
    address = serve(explorer, opened.name, port=port, browser=browser, wait=True)
    return {"run": run, "address": address}
