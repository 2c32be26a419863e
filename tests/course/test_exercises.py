"""The exercises' checks: solutions pass, each usual mistake is recognised, and no answer makes a check fall over."""

from collections import Counter

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.course import exercises as ex
from deca_lab.course.exercises import harder, pieces
from deca_lab.course.exercises import lesson_06 as l6
from deca_lab.course.exercises.exercise import Exercise, Mistake, gap, verdict
from deca_lab.course.exercises.lesson_00 import DIRECTED
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology
from deca_lab.runconfig import defaults

TABLE = list(ex.EXERCISES.values())
every = cases("exercise", TABLE)
MISTAKES = [(e, m) for e in TABLE for m in e.mistakes]


class Angry:
    """Whatever is asked of it goes wrong."""

    def raises(self, *args):
        raise RuntimeError("angry")

    __array__ = __eq__ = __len__ = __iter__ = __repr__ = __str__ = __bool__ = __float__ = (
        __getitem__
    ) = raises
    __hash__ = None


class AngryList(list):
    __len__ = __iter__ = __getitem__ = Angry.raises


class AngryDict(dict):
    __iter__ = __getitem__ = __contains__ = keys = Angry.raises


class AngryText(str):
    __eq__ = __getitem__ = Angry.raises
    __hash__ = None


class AngryArray(np.ndarray):
    def __array_ufunc__(self, *args, **kwargs):
        raise RuntimeError("angry")


class AngryError(Exception):
    def __str__(self):
        raise RuntimeError("angry")


def named(name, function):
    """The function under an exercise's name."""

    def yours(*args):
        return function(*args)

    yours.__name__ = name
    return yours


def loop():
    ring = [1.0]
    ring.append(ring)
    return ring


ODD = [
    None,
    "text",
    b"bytes",
    3,
    2.5,
    1j,
    True,
    np.nan,
    np.inf,
    [],
    [1, [2, 3]],
    {},
    {"a": 1},
    {1: Angry()},
    set(),
    object(),
    Angry(),
    [Angry()] * 2,
    (Angry(), None, "x"),
    loop(),
    np.array(["a"]),
    np.array([None]),
    np.zeros(0),
    np.zeros((2, 0)),
    np.zeros((3, 3), complex),
    np.array(5),
    torch.zeros(3, requires_grad=True),
    torch.zeros(2, device="meta"),
    torch.eye(3).to_sparse(),
    torch.zeros(2, dtype=torch.bfloat16),
    AngryList([1]),
    AngryDict(a=1),
    AngryText("a"),
    np.array([[1.0]]),
    np.ones((5, 2)).view(AngryArray),
    dict.fromkeys(range(999)),
    "long" * 999,
    np.ma.masked_all((5, 2)),
    np.array(["2026-01-01"], "datetime64[D]"),
    range(5),
    (k for k in range(3)),
    len,
    int,
    Ellipsis,
]


@every
def test_the_solution_passes(exercise):
    assert ex.check(named(exercise.name, exercise.solution)).startswith(
        "Right: yours is the library's own "
    )
    assert exercise.solution.__name__ == exercise.name


@every
def test_the_unsolved_stub_is_told_what_to_do(exercise):
    def stub(*args):
        raise NotImplementedError

    assert (
        ex.check(named(exercise.name, stub))
        == "Not yet: replace the line that raises NotImplementedError, and run the cell again."
    )


@cases(("exercise", "mistake"), MISTAKES)
def test_each_mistake_is_told_by_its_words_and_no_other_s(exercise, mistake):
    said = ex.check(named(exercise.name, mistake.computes))
    assert said.startswith("Not yet, on ")
    assert said.endswith(f": {mistake.words}")


@every
def test_there_is_enough_to_say(exercise):
    assert len(exercise.mistakes) >= 3
    assert len(exercise.hints) >= 2
    assert len({m.words for m in exercise.mistakes}) == len(exercise.mistakes)
    assert not exercise.about.endswith(".")
    for words in (*(m.words for m in exercise.mistakes), *exercise.hints):
        assert words.endswith((".", "?"))
    for number, words in enumerate(exercise.hints, 1):
        assert (
            ex.hint(named(exercise.name, len), number)
            == f"Hint {number} of {len(exercise.hints)}: {words}"
        )


@every
@pytest.mark.slow
def test_no_answer_makes_a_check_raise(exercise):
    for answer in ODD:
        said = ex.check(named(exercise.name, lambda *args, answer=answer: answer))
        assert said.startswith("Not yet")
        assert len(said) < 700


@every
@cases(
    "error",
    [
        ValueError("odd"),
        AngryError(),
        SystemExit(1),
        ValueError("long" * 999),
        RecursionError(),
        StopIteration(),
    ],
)
def test_an_exception_is_told_by_its_type(exercise, error):
    def stops(*args):
        raise error

    assert f"your function stopped with {type(error).__name__}" in ex.check(
        named(exercise.name, stops)
    )


@every
def test_right_in_other_clothes_is_right(exercise):
    """A tensor for an array, an array for a tensor, lists for tuples: the numbers count."""
    assert ex.check(named(exercise.name, lambda *a: dressed(exercise.solution(*a)))).startswith(
        "Right"
    )


def dressed(answer):
    if isinstance(answer, dict):
        return {k: dressed(v) for k, v in answer.items()}
    if isinstance(answer, tuple | list):
        return [dressed(v) for v in answer]
    if isinstance(answer, torch.Tensor):
        return answer.numpy()
    return torch.as_tensor(answer) if not isinstance(answer, str) else answer


@every
def test_what_is_a_little_off_is_not_right(exercise):
    def off(answer):
        if isinstance(answer, dict):
            return {k: off(v) for k, v in answer.items()}
        if isinstance(answer, tuple | list):
            return [off(v) for v in answer]
        if isinstance(answer, str):
            return answer + "!"
        return not answer if isinstance(answer, bool) else answer * 1.01 + 1e-3

    assert "should be" in ex.check(named(exercise.name, lambda *a: off(exercise.solution(*a))))


@every
def test_arguments_changed_in_place_are_told(exercise):
    def changes(*args):
        answer = exercise.solution(*args)
        for a in args:
            if isinstance(a, np.ndarray | torch.Tensor):
                a *= 2
                a += 1
        return answer

    arrays = any(
        isinstance(a, np.ndarray | torch.Tensor) for case in exercise.cases.values() for a in case
    )
    assert ("in place" in ex.check(named(exercise.name, changes))) == arrays
    assert ex.check(named(exercise.name, exercise.solution)).startswith("Right"), (
        "the cases themselves were changed"
    )


# ---- the words, one by one


@cases(("yours", "words"), [
    (lambda W, X: W @ X[:, 0], "has shape (5,); it must be an array of shape (5, 2)"),
    (lambda W, X: W @ X + np.eye(5, 2) * [1, 3], "entry [1, 1] of the answer is"),
    (lambda W, X: W @ X * np.nan, "some entries of the answer are not finite"),
    (lambda W, X: W @ X.T, "a W that is not symmetric: your function stopped with ValueError: "),
    (lambda W, X: None, "the answer is None; it must be an array of shape (5, 2). Is there a return?"),
    (lambda W, X: "W @ X", "the answer is of type str; it must be an array"),
    (lambda W, X: W @ X + 0j, "the answer is complex"),
    (lambda W, X: W @ X > 0, "the answer is an array of True and False"),
    (lambda W, X: {"X": W @ X}, "the answer is of type dict"),
])  # fmt: skip
def test_mixing_is_told_what_is_wrong(yours, words):
    said = ex.check(named("mix", yours))
    assert said.startswith("Not yet")
    assert words in said


def test_mixing_one_after_another_is_told_apart_from_changing_in_place():
    def in_place(W, X):
        X[:] = W @ X
        return X

    assert "your function changed X in place" in ex.check(named("mix", in_place))
    np.testing.assert_allclose([DIRECTED.sum(0), DIRECTED.sum(1)], 1)


def test_a_wrong_case_behind_a_right_one_is_named():
    first = ex.EXERCISES["mix"].cases["a W that is not symmetric"][0]
    said = ex.check(named("mix", lambda W, X: W @ X + (not np.array_equal(W, first))))
    assert "on a path of five clients: entry [" in said


@cases(("got", "wanted", "words"), [
    ({"a": 1}, {"a": 1, "b": 2}, "the answer has the keys 'a'; it must have 'a', 'b'."),
    ([1], {"a": 1}, "the answer is of type list; it must be a dict with the keys 'a'."),
    ({"a": [1, 2]}, {"a": (1, 3)}, "entry ['a'][1] of the answer is 2, and it should be 3."),
    ((1, 2), (1, 2, 3), "the answer has 2 parts; it must be a tuple of 3."),
    (4, (1, 2), "the answer is of type int; it must be a tuple of 2."),
    ((1.0, None), (1.0, 2.0), "entry [1] of the answer is None; it must be a number. Is there a return?"),
    (np.array([1.0, 2.5]), (1.0, 2.0), "entry [1] of the answer is 2.5, and it should be 2."),
    ((1.0, np.ones(2)), (1.0, np.array([1, 3])), "entry [1] of entry [1] of the answer is 1, and it should be 3."),
    ("no", "yes", "the answer is 'no', and it should be 'yes'."),
    (1, True, "the answer is a number; it must be True or False."),
    (True, 1, "the answer is True or False; it must be a number."),
    (False, True, "the answer is False, and it should be True."),
    (np.array([True, False]), np.array([True, True]), "entry [1] of the answer is False, and it should be True."),
    (float("inf"), 1.0, "the answer is not a finite number."),
    (torch.tensor([1.0, 2.1]), np.array([1.0, 2.0]), "entry [1] of the answer is 2.1, and it should be 2."),
])  # fmt: skip
def test_the_worst_difference_in_words(got, wanted, words):
    assert gap(got, wanted).words == words


@cases(("got", "wanted"), [
    (0.1 + 0.2, 0.3), (torch.tensor(0.3), 0.3), (np.float32(1 / 3), 1 / 3), (3.0, 3), ([1, 2], np.array([1.0, 2.0])),
    (torch.tensor([1, 2]), (1, 2)), ({"b": [1], "a": 2}, {"a": 2.0, "b": (1,)}), (np.zeros(0), np.zeros(0)), (np.True_, True),
    (torch.ones(2, requires_grad=True), np.ones(2)),
    (torch.tensor([0.5, 0.25], dtype=torch.bfloat16), np.array([0.5, 0.25])),
])  # fmt: skip
def test_what_counts_as_the_same(got, wanted):
    assert gap(got, wanted).size == 0


def test_a_mistake_is_told_only_where_it_explains_all_cases():
    made = Exercise(
        "double",
        "doubling",
        lambda x: 2 * x,
        {"two": (2,), "three": (3,)},
        (Mistake(lambda x: x * x, "squared."), Mistake(lambda x: x + 2, "added.")),
        (),
    )
    assert verdict(made, lambda x: x * x).endswith("on three: squared.")
    assert verdict(made, lambda x: x + 2).endswith("on three: added.")
    assert verdict(made, lambda x: 9 if x == 3 else 5).endswith(
        "on two: the answer is 5, and it should be 4."
    )


def test_a_mistake_that_changes_its_arguments_leaves_the_cases_alone():
    def bumped(x):
        x += 1
        return x

    made = Exercise(
        "twice",
        "doubling",
        lambda x: 2 * x,
        {"two": (np.full(2, 2.0),)},
        (Mistake(bumped, "added."),),
        (),
    )
    assert verdict(made, lambda x: x + 1).endswith(": added.")
    assert made.cases["two"][0].tolist() == [2, 2]


def test_unknown_names_and_numbers_are_refused_with_those_that_exist():
    def mixx(W, X):
        return W @ X

    with pytest.raises(
        BadInput, match=r"unknown exercise 'mixx': did you mean 'mix'\? .*allowed: .*mix"
    ):
        ex.check(mixx)
    with pytest.raises(
        BadInput, match=r"not by ndarray: give one of .*mix.*, without its arguments"
    ):
        ex.check(np.eye(2))
    for number in (0, 3, "1"):
        with pytest.raises(BadInput, match=r"number = .* 1 to 2, the hints of this exercise"):
            ex.hint(named("mix", len), number)


def test_every_lesson_has_its_exercises():
    assert list(ex.LESSONS) == [f"lesson_{k:02}" for k in range(13)]
    counts = [
        len(__import__(f"deca_lab.course.exercises.{name}", fromlist=["EXERCISES"]).EXERCISES)
        for name in ex.LESSONS
    ]
    assert counts == [1] + [2] * 11 + [3]
    more = len(pieces.EXERCISES) + len(harder.EXERCISES)
    assert sum(counts) + more == len(ex.EXERCISES), "two exercises have one name"
    kinds = Counter(exercise.kind for exercise in ex.EXERCISES.values())
    assert kinds == {"write": 30, "derive": 8, "debug": 3, "design": 3}


# ---- the solutions against formulas and against one another


def test_solutions_give_what_is_known_in_closed_form():
    solve = {name: exercise.solution for name, exercise in ex.EXERCISES.items()}
    assert solve["label_divergence"](np.eye(4) * 3) == pytest.approx(3 / 4)
    assert solve["perplexity"](np.log([2.0, 8.0])) == pytest.approx(4)
    assert solve["rho"](np.full((3, 3), 1 / 3)) == pytest.approx(0, abs=1e-12)
    assert solve["consensus_distance"](torch.tensor([[1.0], [-1.0]])) == pytest.approx(1)
    assert [solve["active_block"](s, 2, 3) for s in range(8)] == [0, 0, 0, 1, 1, 1, 0, 0]
    assert solve["visit_bytes"](np.full((3, 3), 1 / 3), 10, 5) == 6 * 40 * 5
    assert solve["slope"](
        np.array([1.0, 2.0, 8.0]), np.array([1.0, 2.0, 8.0]) ** -0.5
    ) == pytest.approx(-0.5)
    assert solve["tightness"](np.array([1.0, 2.0]), np.array([4.0, 4.0])) == 0.5
    low, high = solve["paired_interval"](np.array([1.0, 2.0, 3.0]), np.zeros(3))
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    losses = np.array([1.0, 1.1, 0.9])
    assert [
        solve["better"](losses, losses + np.array(gap))
        for gap in ([1, 1.1, 1], [-1, -1.1, -1], [1, -1, 1])
    ] == ["first", "second", "undecided"]
    assert solve["round_bytes"](10, 2, 12_000, 6, 5) == 4 * 10 * 2 * 12_000 * 5
    assert solve["memory"](16_000_000, 32) == 16_000_000 * (1 + 10 / 32)
    said, true = np.full(35, 2), np.arange(35) % 5
    assert solve["macro_f1"](said, true) == pytest.approx(solve["constant_f1"](1 / 5, 5))
    assert solve["near_copies"](["a b c", "d"], ["C b A", "a e"]).tolist() == [1, 1 / 4]
    A, B = torch.ones(2, 3, dtype=torch.float64), torch.ones(4, 2, dtype=torch.float64)
    torch.testing.assert_close(
        solve["lora_delta"](A, B, 6.0), torch.full((4, 3), 6.0, dtype=torch.float64)
    )
    g = torch.tensor([[2.0, -3.0]])
    torch.testing.assert_close(
        solve["adam_direction"](0.1 * g, 0.001 * g * g, 1, 0.9, 0.999, 1e-8), g.sign()
    )


@cases(("name", "plain"), [
    ("mix", lambda W, X: W @ X),
    ("metropolis", lambda a: (W := a / (1 + np.maximum.outer(a.sum(1), a.sum(1)))) + np.diag(1 - W.sum(1))),
    ("rho", lambda W: np.linalg.norm(W - 1 / len(W), 2)),
    ("consensus_distance", lambda X: (X - X.mean(0)).square().sum() / len(X)),
    ("mean_gradient", lambda A, b, X: torch.stack([A[i] @ X[i] - b[i] for i in range(len(X))]).mean(0)),
    ("active_block", lambda s, k, r: s // r % k),
    ("feed_back", lambda m, v, h, b1, b2: (b1 * m + (1 - b1) * h, b2 * v + (1 - b2) * h * h)),
    ("adapt_then_combine", lambda W, X, D, lr: W @ (X - lr * D)),
    ("lora_delta", lambda A, B, alpha: alpha / len(A) * B @ A),
    ("interference", lambda A, B, w: sum(w[j] * B[j] @ A[j] for j in range(len(w)))
        - sum(w[j] * B[j] for j in range(len(w))) @ sum(w[j] * A[j] for j in range(len(w)))),
    ("is_sound", lambda W: bool(np.allclose(np.linalg.matrix_power(W, 4096), 1 / len(W)))),
    ("slope", lambda x, y: np.polyfit(np.log(x), np.log(y), 1)[0]),
    ("round_bytes", lambda n, k, p, b, r: 4 * n * k * p * r),
    ("memory", lambda m, b: m + 10 * m / b),
])  # fmt: skip
def test_what_the_hints_lead_to_is_right(name, plain):
    assert ex.check(named(name, plain)).startswith("Right")


def test_what_is_left_without_a_client_is_sound_wherever_it_is_connected():
    for name, connected in (("ring", True), ("star", True), ("path", False), ("complete", True)):
        W = topology(name, 5).at(0)
        left = ex.EXERCISES["without_client"].solution(W, 2)
        np.testing.assert_allclose([left.sum(0), left.sum(1)], 1)
        assert left[2].tolist() == [0, 0, 1, 0, 0]
        alive = np.delete(np.delete(left, 2, 0), 2, 1)
        assert ex.EXERCISES["is_sound"].solution(alive) == connected


def test_the_step_of_deca_is_that_of_its_other_exercises():
    (W, X, G, m, v, steps, lr), solve = (
        ex.EXERCISES["deca_step"].cases["a W that is not symmetric"],
        ex.EXERCISES,
    )
    m_new, v_new = 0.9 * m + 0.1 * G, 0.999 * v + 0.001 * G * G
    direction = solve["adam_direction"].solution(m_new, v_new, steps + 1, 0.9, 0.999, 1e-8)
    x_new = solve["adapt_then_combine"].solution(W, X, direction, lr)
    fed = solve["feed_back"].solution(m_new, v_new, x_new - X, 0.99, 0.999)
    for got, wanted in zip(
        solve["deca_step"].solution(W, X, G, m, v, steps, lr), (x_new, *fed), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def test_the_decays_of_the_step_are_the_usual_ones():
    usual = defaults()
    assert tuple(usual[name] for name in ("a1", "a2", "eps", "b1", "b2")) == (
        l6.A1,
        l6.A2,
        l6.EPS,
        l6.B1,
        l6.B2,
    )
    assert (usual["feedback"], usual["feedback_scale"]) == ("printed", "raw")
