import sys


class Terminal:
    """An error output that says it is a terminal, and remembers what it was sent."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return True


def test_a_terminal_sees_steps_loss_and_speed(points, small, fit, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    fit(small(), points, progress=True, steps=12)
    assert "step 12" in terminal.text
    assert "loss" in terminal.text
    assert "examples/s" in terminal.text


def test_no_bar_unless_asked(points, small, fit, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fit(small(), points, progress=False)
    assert terminal.text == ""
