"""What a build log reads while work is done."""

import io

from llmc.base.progress import Beside, reporter


def test_a_stage_is_a_line_however_often_it_is_told() -> None:
    out = io.StringIO()
    with reporter(out) as progress:
        for fraction in (0.1, 0.2, 0.3):
            progress("writing weights", fraction)
            progress("compiling kernels", fraction)
    assert [line.split("s  ")[1] for line in out.getvalue().splitlines()] == [
        "writing weights",
        "compiling kernels",
    ]


def test_work_beside_is_shown_when_asked_for() -> None:
    told: list[tuple[str, float]] = []
    beside = Beside()
    beside.show(lambda *said: told.append(said), 0.5, 1.0)
    beside("compiling", 0.25)
    beside("compiling", 0.5)
    beside.show(lambda *said: told.append(said), 0.5, 1.0)
    assert told == [("compiling", 0.75)]
