"""One test over many trivial cases, where a test for each would cost more than what it checks."""

import inspect
from functools import wraps

import pytest


def cases(names, values):
    """Decorate like pytest.mark.parametrize(names, values), but run all cases in one test; a failure names its case.

    All cases share the test's fixtures, so it suits only tests whose cases leave nothing behind for one another.
    """
    names = (names,) if isinstance(names, str) else tuple(names)

    def over_all(test):
        @wraps(test)
        def one_test(**fixtures):
            for value in values:
                case = dict(zip(names, value if len(names) > 1 else (value,), strict=True))
                try:
                    test(**fixtures, **case)
                except (
                    BaseException
                ) as error:  # what pytest.fail and pytest.raises raise is no Exception
                    error.add_note(
                        "the case: "
                        + ", ".join(f"{name} = {thing!r:.200}" for name, thing in case.items())
                    )
                    raise

        rest = [
            parameter
            for name, parameter in inspect.signature(test).parameters.items()
            if name not in names
        ]
        one_test.__signature__ = inspect.Signature(rest)
        return one_test

    return over_all


def quick(values, first=1):
    """Return values for pytest.mark.parametrize, all but the first few marked slow: each is a whole run, of one more kind."""
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [
        pytest.param(*row, marks=[pytest.mark.slow] * (number >= first))
        for number, row in enumerate(rows)
    ]
