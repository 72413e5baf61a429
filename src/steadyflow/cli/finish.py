"""What follows a training: the evaluation, the pictures, the report, and what to type next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyflow.cli import console

DRIFT = 1e-2  # of the inputs of reversible layers, above which a training warns

if TYPE_CHECKING:
    from steadyflow.evaluation import Evaluation
    from steadyflow.training import FitResult, Run


def finish(done: FitResult, *, report: bool) -> dict[str, Any]:
    """Says how the training ended, writes the report, and says where everything is.

    Raises:
        KeyboardInterrupt: if it was interrupted, with what can be done now.
    """
    run = done.run
    assert run is not None
    if done.interrupted:
        command = console.program()
        raise KeyboardInterrupt(
            f"{done.message}; the run can be used as it is, continued with '{command} train "
            f"--resume {run.folder}', or looked at with '{command} report {run.folder}'"
        )
    console.say(_how_it_ended(done), *_drift(done))
    answer: dict[str, Any] = {
        "run": str(run.folder),
        "steps": done.steps,
        "skipped": done.skipped,
        "seconds": done.seconds,
        "best_validation_loss": done.best_validation_loss,
    }
    if report:
        answer |= page(run)
    _say_where(Path(run.folder), answer)
    return answer


def _how_it_ended(done: FitResult) -> str:
    minutes = done.seconds / 60
    time = f"{minutes:.1f} minutes" if minutes >= 1 else f"{done.seconds:.0f} seconds"
    why = f" ({done.message})" if done.message else ""
    skipped = f"; {done.skipped} steps skipped, their loss was not finite" if done.skipped else ""
    return f"trained for {done.steps:,} steps in {time}{why}{skipped}"


def _drift(done: FitResult) -> list[str]:
    """How exactly reversible training got back what it did not store; a warning if it did not."""
    found = max((row.get("drift") or 0.0 for row in done.history), default=0.0)
    if not found:
        return []
    said = f"reversible training: layers got back their inputs to {found:.1e} of the largest one"
    if found < DRIFT:
        return [said]
    return [
        f"{said}, so gradients were not exact: train with --no-reversible, or a smaller --bound"
    ]


def page(run: Run) -> dict[str, Any]:
    """Evaluates, draws and writes the report: where they are, as plain values."""
    evaluation, page = write_report(run)
    return {
        "evaluation": evaluation.to_dict(),
        "report": str(page),
        "pictures": [str(path) for path in pictures(run.folder)],
    }


def write_report(run: Run) -> tuple[Evaluation, Path]:
    """Evaluates on held-out examples, draws the pictures and writes report.html."""
    from steadyflow.report import build, load_evaluation

    with console.progress("evaluating") as progress:
        page = build(run, progress=progress)
    found = load_evaluation(run.folder)
    assert found is not None
    console.say(str(found))
    return found, page


def pictures(folder: str | Path) -> list[Path]:
    """The pictures of a run, the samples first."""
    found = sorted(Path(folder).glob("*.png"))
    return sorted(found, key=lambda path: not path.stem.startswith("samples"))


def _say_where(folder: Path, answer: dict[str, Any]) -> None:
    command = console.program()
    where: dict[str, object] = {"run": folder}
    if "report" in answer:
        names = ", ".join(Path(path).name for path in answer["pictures"])
        where["pictures"] = f"{folder} ({names})"
        where["report"] = f"{answer['report']} (open it in a browser)"
    else:
        where["report"] = f"not written: {command} report {folder}"
    console.say("")
    console.facts(where)
    console.say(
        "",
        "next:",
        f"  {command} sample {folder} -n 100",
        f"  {command} interpolate {folder} --from 0 --to 1",
        f"  {command} evaluate {folder} --draws 10",
        f"  {command} --help",
    )
