"""The page: sliders and pictures around an `Explorer`, by gradio.

gradio, because it is what the field's demonstrations are made with: a page of this one can go to a
Hugging Face space as it is; it serves all that the page needs from this machine, so that it works
without a network, and a browser is all that a visitor needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from steadyflow.errors import require
from steadyflow.explorer.session import Explorer

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
HOTTEST = 1.5
BUTTONS = ["download", "fullscreen"]  # gradio's third would send the picture elsewhere
WORDS = {"exact": "exact", "bound": "a lower bound", "estimate": "an estimate"}


def build(explorer: Explorer, title: str) -> Any:
    """The page, a gradio Blocks.

    Raises:
        ImportError: if gradio is missing, with the line that installs it.
    """
    gr = require("gradio", "explore", "the explorer")
    with gr.Blocks(title=f"steadyflow: {title}", analytics_enabled=False) as page:
        gr.Markdown(f"# {title}\n{_about(explorer)}")
        with gr.Tab("Draw"):
            _drawing(gr, explorer)
        if explorer.has_latents:
            with gr.Tab("Mix two images"):
                _mixing(gr, explorer)
        if explorer.attributes:
            with gr.Tab("Attributes"):
                _attributes(gr, explorer)
        if explorer.model.likelihood != "none":
            with gr.Tab("Likelihood"):
                _likelihood(gr, explorer)
    return page


def serve(explorer: Explorer, title: str, *, port: int | None, browser: bool, wait: bool) -> str:
    """Serves the page on this machine only; gives its address, or waits until Ctrl-C."""
    gr = require("gradio", "explore", "the explorer")
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    page = build(explorer, title)
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=not wait,
        quiet=True,
        share=False,
        show_error=True,
        theme=gr.themes.Base(**fonts),  # no fonts from elsewhere
        footer_links=[],
    )
    return str(address)


def _about(explorer: Explorer) -> str:
    model = explorer.model
    size = " x ".join(map(str, model.event_shape))
    kind = "images" if explorer.is_image else "vectors"
    word = WORDS.get(model.likelihood)
    likelihood = f"its likelihood is {word}" if word else "it gives no likelihood"
    return f"{type(model).__name__} on {kind} of {size}; {likelihood}."


def _drawing(gr: Any, explorer: Explorer) -> None:
    with gr.Row():
        temperature = gr.Slider(0, HOTTEST, 1.0, step=0.05, label="temperature", elem_id="heat")
        n = gr.Slider(1, 100, 16, step=1, label="how many", elem_id="count")
        label = _class_choice(gr, explorer, "all classes in turn")
        seed = gr.Number(0, precision=0, label="seed", elem_id="seed")
    button = gr.Button("Draw", variant="primary", elem_id="draw")
    inputs = [n, temperature, label, seed]
    if explorer.is_image or explorer.model.event_shape == (2,):
        shown = gr.Image(
            label="draws", type="numpy", format="png", buttons=BUTTONS, elem_id="drawn"
        )
    else:
        shown = gr.Dataframe(label="draws", elem_id="drawn")

    def draw(n: float, temperature: float, label: str | None, seed: float) -> Any:
        if explorer.model.event_shape == (2,):
            n = 50 * n  # points are small
        x = explorer.draw(int(n), temperature, _given(label), int(seed))
        if explorer.is_image:
            return explorer.picture(x)
        return _plane(x) if x.shape[1] == 2 else x.numpy().round(4)

    _whenever(button, [n, temperature, label, seed], _guarded(gr, draw), inputs, shown)


def _mixing(gr: Any, explorer: Explorer) -> None:
    with gr.Row():
        first, first_class = _image_choice(gr, explorer, "first", 0)
        second, second_class = _image_choice(gr, explorer, "second", 1)
    share = gr.Slider(0, 1, 0.5, step=0.01, label="share of the second", elem_id="share")
    button = gr.Button("Mix", variant="primary", elem_id="mix")
    way = gr.Image(show_label=False, format="png", buttons=BUTTONS, elem_id="way")
    mixed = gr.Image(label="the mixture", format="png", buttons=BUTTONS, elem_id="mixed")

    def mix(a: Any, b: Any, share: float, first: Any = None, second: Any = None) -> Any:
        return explorer.mix(a, b, share, (_given(first), _given(second)))

    inputs = [first, second, share, first_class, second_class]
    _whenever(button, [share], _guarded(gr, mix), inputs, [mixed, way])


def _attributes(gr: Any, explorer: Explorer) -> None:
    with gr.Row():
        image, label = _image_choice(gr, explorer, "moved", 2)
        moved = gr.Image(label="moved", format="png", buttons=BUTTONS, elem_id="moved-to")
    with gr.Row():
        names = explorer.attributes
        attribute = gr.Dropdown(names, value=names[-1], label="attribute", elem_id="attribute")
        strength = gr.Slider(-2, 2, 0.5, step=0.05, label="strength", elem_id="strength")
    button = gr.Button("Move", variant="primary", elem_id="move")

    def move(image: Any, attribute: str, strength: float, label: Any = None) -> Any:
        return explorer.move(image, attribute, strength, _given(label))

    inputs = [image, attribute, strength, label]
    _whenever(button, [strength, attribute], _guarded(gr, move), inputs, moved)


def _likelihood(gr: Any, explorer: Explorer) -> None:
    if explorer.is_image:
        given, label = _image_choice(gr, explorer, "judged", 3, "all classes, equally likely")
    else:
        given = gr.Textbox(label="the variables, with spaces or commas", elem_id="judged")
        label = _class_choice(gr, explorer, "all classes, equally likely")
    button = gr.Button("How likely is it?", variant="primary", elem_id="judge")
    words = gr.Markdown(elem_id="verdict")
    shares = gr.Label(label="the class, if all are equally likely before", elem_id="shares")
    shares.visible = explorer.is_conditional

    def judge(given: Any, label: Any = None) -> Any:
        x = explorer.read(given) if explorer.is_image else _numbers(gr, explorer, given)
        said, classes = explorer.likelihood(x, _given(label))
        return said, classes or None

    button.click(_guarded(gr, judge), [given, label], [words, shares])


def _image_choice(
    gr: Any, explorer: Explorer, name: str, number: int, every: str | None = None
) -> tuple[Any, Any]:
    """An image of one's own, or one of the test examples; with its class if the model wants it."""
    with gr.Column():
        at_hand = explorer.dataset is not None
        value, known = explorer.example(number) if at_hand else (None, None)
        image = gr.Image(
            value,
            label=f"{name} image",
            type="numpy",
            format="png",
            sources=["upload", "clipboard"],
            elem_id=name,
        )
        label = _class_choice(gr, explorer, every, known)
        if at_hand:
            which = gr.Number(number, precision=0, label="test example", elem_id=f"{name}-number")
            which.submit(lambda n: explorer.example(int(n)), which, [image, label])
    return image, label


def _class_choice(gr: Any, explorer: Explorer, every: str | None, value: str | None = None) -> Any:
    choices = [*([every] if every else []), *explorer.classes]
    return gr.Dropdown(
        choices,
        value=value or every,
        label="class",
        visible=explorer.is_conditional,
        allow_custom_value=not explorer.is_conditional,
    )


def _given(label: str | None) -> str | None:
    """A class, or None where all of them are meant."""
    return None if not label or label.startswith("all classes") else label


def _whenever(button: Any, moved: list[Any], act: Any, inputs: list[Any], outputs: Any) -> None:
    """Acts when the button is pressed and when something is moved."""
    button.click(act, inputs, outputs)
    for part in moved:
        event = part.release if hasattr(part, "release") else part.change
        event(act, inputs, outputs, show_progress="hidden")


def _guarded(gr: Any, act: Callable[..., Any]) -> Callable[..., Any]:
    """A mistake becomes a sentence on the page."""

    def guarded(*values: Any) -> Any:
        try:
            return act(*values)
        except (ValueError, ArithmeticError) as error:
            raise gr.Error(str(error), duration=8, print_exception=False) from error

    return guarded


def _numbers(gr: Any, explorer: Explorer, text: str) -> torch.Tensor:
    try:
        values = [float(part) for part in (text or "").replace(",", " ").split()]
    except ValueError:
        raise gr.Error("numbers are expected", print_exception=False) from None
    if len(values) != explorer.model.dimensions:
        raise gr.Error(
            f"{explorer.model.dimensions} numbers are expected, {len(values)} were given",
            print_exception=False,
        )
    return torch.tensor(values)


def _plane(x: torch.Tensor) -> np.ndarray:
    """Points (n, 2) as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from steadyflow.report.planes import scatter

    figure = Figure(figsize=(5, 5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    scatter(figure.add_subplot(), x)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
