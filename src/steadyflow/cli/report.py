"""`steadyflow report`: the pictures and the page of a run, drawn anew."""

from __future__ import annotations

from typing import Any

from steadyflow.cli import console


def report(run: str) -> dict[str, Any]:
    """Evaluates a run, draws its pictures and writes report.html, which needs no network.

    Args:
        run: a run folder.
    """
    from steadyflow.cli import finish
    from steadyflow.cli.opened import open_run

    opened = open_run(run)
    assert opened.run is not None
    made = finish.page(opened.run)
    console.say("", f"pictures  {', '.join(made['pictures'])}")
    console.say(f"report    {made['report']} (open it in a browser)")
    return {"run": run, **made}
