"""Runge-Kutta methods as their coefficients.

    k_i = f(t + c_i h, x + h sum_{j<i} a_ij k_j)        x' = x + h sum_i b_i k_i
    error = h sum_i e_i k_i                              e = b - b of the embedded lower order

Hairer, Norsett & Wanner, "Solving Ordinary Differential Equations I" (1993), sec. II.1, II.4-5;
Bogacki & Shampine (1989); Dormand & Prince (1980); Tsitouras (2011).
"""

from __future__ import annotations

import dataclasses

from steadyflow.errors import unknown


@dataclasses.dataclass(frozen=True)
class Tableau:
    """One explicit Runge-Kutta method.

    Attributes:
        order: of the result.
        c: where in the step each stage is evaluated, from 0 to 1.
        a: the rows of stages 2, 3, ... .
        b: the weights of the result.
        e: the weights of the error estimate; empty for a method without one.
    """

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...] = ()

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is the first one of the next step."""
        return bool(self.a) and self.a[-1] == self.b[:-1] and self.b[-1] == 0


METHODS: dict[str, Tableau] = {
    "euler": Tableau(1, (0.0,), (), (1.0,)),
    "midpoint": Tableau(2, (0.0, 0.5), ((0.5,),), (0.0, 1.0)),
    "heun": Tableau(2, (0.0, 1.0), ((1.0,),), (0.5, 0.5)),
    "rk4": Tableau(
        4,
        (0.0, 0.5, 0.5, 1.0),
        ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
    "bosh3": Tableau(
        3,
        (0.0, 1 / 2, 3 / 4, 1.0),
        ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        (2 / 9, 1 / 3, 4 / 9, 0.0),
        (-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    ),
    "dopri5": Tableau(
        5,
        (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        (
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
        (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    ),
    "tsit5": Tableau(
        5,
        (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
        (
            (0.161,),
            (-0.008480655492356989, 0.335480655492357),
            (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
            (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
            (
                5.86145544294642,
                -12.92096931784711,
                8.159367898576159,
                -0.071584973281401,
                -0.028269050394068383,
            ),
            (
                0.09646076681806523,
                0.01,
                0.4798896504144996,
                1.379008574103742,
                -3.290069515436081,
                2.324710524099774,
            ),
        ),
        (
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
            0.0,
        ),
        (
            -0.00178001105222577714,
            -0.0008164344596567469,
            0.007880878010261995,
            -0.1447110071732629,
            0.5823571654525552,
            -0.45808210592918697,
            0.015151515151515152,
        ),
    ),
}


def tableau(method: str) -> Tableau:
    """The coefficients of a method by its name; an unknown one suggests the nearest."""
    if method not in METHODS:
        raise unknown("ODE method", method, METHODS)
    return METHODS[method]
