from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest

from steadyflow.cli.choices import apart
from steadyflow.cli.options import REQUIRED, introduction, read
from steadyflow.cli.parsing import Command, parse, positionals
from steadyflow.errors import UsageError


def brew(
    leaf: str,
    *,
    minutes: float = 3.0,
    cups: int | None = None,
    add: Sequence[str] = (),
    n: int = 1,
    pot: Literal["glass", "iron"] = "glass",
    hot: bool = True,
    sweet: bool = False,
) -> None:
    """Brews tea.

    With water,
    and time.

    Args:
        leaf: what to brew.
        minutes: how long it is left
            to draw.
        cups: how many; None for one.
        add: what goes in.
        n: times.
        pot: which pot.
        hot: heat the water.
        sweet: add ``sugar``.

    Returns:
        nothing: really.
    """


@dataclass
class Kettle:
    """A kettle.

    Attributes:
        litres: its size.
    """

    litres: float = 1.5


TEA = Command("tea", "Brews.", read(brew))


def test_options_are_read_off_signature_and_docstring():
    options = {option.name: option for option in read(brew)}
    assert options["leaf"].positional
    assert options["leaf"].default is REQUIRED
    assert options["minutes"].help == "how long it is left to draw."
    assert options["sweet"].help == "add sugar."
    assert options["cups"].metavar == "INT"
    assert options["add"].metavar == "TEXT ..."
    assert options["n"].flags == ["--n", "-n"]
    assert options["hot"].flags == ["--hot", "--no-hot"]
    assert options["pot"].expects == "one of glass, iron"
    assert introduction(brew) == "Brews tea.\n\nWith water, and time."
    assert [option.name for option in read(Kettle)] == ["litres"]
    assert read(Kettle)[0].help == "its size."


def test_words_become_values():
    typed = "green --minutes 5 --cups 2 --add milk honey -n 3 --no-hot --sweet --pot iron"
    assert parse(TEA, typed.split()).values == {
        "leaf": "green",
        "minutes": 5.0,
        "cups": 2,
        "add": ["milk", "honey"],
        "n": 3,
        "pot": "iron",
        "hot": False,
        "sweet": True,
    }
    assert parse(TEA, ["--cups=2", "black"]).values["cups"] == 2
    assert parse(TEA, ["black"]).values["hot"] is True


def test_what_was_typed_is_known_from_what_is_default():
    command = Command("tea", "", read(brew), {"kettle": read(Kettle)})
    assert parse(command, ["green"]).given == {"kettle": {}}
    assert parse(command, ["green", "--litres", "1.5"]).given == {"kettle": {"litres": 1.5}}


def test_help_is_the_same_wherever_it_is_asked(capsys):
    for words in (["--help"], ["green", "--help"], ["--cups", "2", "-h"]):
        with pytest.raises(SystemExit) as stop:
            parse(TEA, words)
        assert stop.value.code == 0
        assert "LEAF" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["--minuts", "--minuts=3", "--min_uts"])
def test_an_unknown_option_suggests_the_nearest(word):
    with pytest.raises(UsageError, match="did you mean '--minutes'"):
        parse(TEA, ["green", word])


def test_arguments_are_told_from_the_values_of_options():
    words = ["--minutes", "2", "green", "--sweet", "--cups=3", "black"]
    assert positionals(TEA, words) == ["green", "black"]


def test_no_flag_comes_twice():
    groups = apart({"": read(brew), "model": read(brew), "data": read(Kettle)})
    assert [o.flag for o in groups["data"]] == ["litres"]
    assert "model-cups" in [o.flag for o in groups["model"]]
