"""The decorator that runs many trivial cases in one test: all of them, with the test's fixtures, and a failure names its case."""

import pytest
from cases import cases


@pytest.fixture
def squares():
    held = []
    yield held
    assert held == [("a", 4), ("a", 9), ("b", 4), ("b", 9)]


@cases("letter", "ab")
@cases("number", (2, 3))
def test_every_case_is_run_with_the_fixtures(letter, number, squares):
    squares.append((letter, number * number))


@pytest.mark.parametrize("fails", [lambda: pytest.fail("no"), lambda: 1 / 0, lambda: int("x")])
def test_a_failure_names_its_case_and_ends_the_test(fails):
    done = []

    @cases(("number", "works"), [(1, lambda: None), (2, fails), (3, lambda: None)])
    def check(number, works):
        done.append(number)
        works()

    with pytest.raises(BaseException, match=r"no|zero|invalid") as caught:
        check()
    assert done == [1, 2]
    assert caught.value.__notes__[0].startswith("the case: number = 2, works = <function ")
