"""Parameters of tests: what runs usually, and what with ``-m ''`` alone."""

import pytest


def thorough(cases, usual):
    """Return `cases` as parameters; those that are not `usual`, a function of a case, are thorough."""
    return [
        pytest.param(
            *case, marks=() if usual(*case) else pytest.mark.thorough, id="-".join(map(_name, case))
        )
        for case in cases
    ]


def _name(value):
    return getattr(value, "stem", str(value))  # of a path, without its folder
