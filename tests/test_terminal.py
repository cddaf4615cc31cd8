"""What is shown of a run that goes on."""

from __future__ import annotations

import re

from medsr.terminal import progress


def test_lines_of_a_whole_run_tell_how_far_it_is(capsys):
    """One line a stage, however often it reports; shares are of everything."""
    with progress(quiet=False, whole=True) as report:
        for stage, share in (("first", 0.0), ("first", 0.2), ("second\x1b[2J", 0.25), ("third", 0.5)):
            report(stage, share)
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "first (0% done)"
    assert re.fullmatch(r"second\\x1b\[2J \(25% done, 0 min left\)", second)
    assert third.startswith("third (50% done")


def test_quiet_is_silent(capsys):
    with progress(quiet=True, whole=True) as report:
        assert report is None
    assert capsys.readouterr() == ("", "")
