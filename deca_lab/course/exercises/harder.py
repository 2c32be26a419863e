"""Harder exercises of lessons 2 to 9: derive a formula, find the bug, design the experiment."""

import math
from itertools import combinations

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import moments as mo
from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.course.exercises.lesson_02 import metropolis, rho
from deca_lab.course.exercises.lesson_03 import HESSIANS, SLOPES
from deca_lab.course.exercises.lesson_06 import FIVE, PATH, G, X
from deca_lab.course.exercises.pieces import FOUR
from deca_lab.mixing.graphs import Array

Two = tuple[Tensor, Tensor]


def mixings_needed(rho: float, share: float) -> int:
    """Return the least number of mixings after which at most this share of any disagreement is left, for 0 < rho < 1."""
    return math.ceil(math.log(share) / math.log(rho))


MIXINGS_NEEDED = Exercise(
    name="mixings_needed",
    kind="derive",
    about="number of mixings",
    solution=mixings_needed,
    cases={
        "rho = 0.805, a thousandth": (0.805, 1e-3),
        "rho = 0.3, a hundredth": (0.3, 1e-2),
        "rho = 0.95, a third": (0.95, 1 / 3),
    },
    mistakes=(
        Mistake(lambda r, s: math.floor(math.log(s) / math.log(r)), "one too few: round up."),
        Mistake(
            lambda r, s: math.log(s) / math.log(r), "this is the right number before rounding up."
        ),
        Mistake(
            lambda r, s: math.ceil(math.log(s) / math.log(r) / 2),
            "this is enough for squared lengths only. rho is a factor on lengths.",
        ),
        Mistake(
            lambda r, s: math.ceil((1 - s) / (1 - r)),
            "you subtracted the gap at each mixing. Each mixing takes a share of what is left.",
        ),
    ),
    hints=(
        "After k mixings at most rho^k is left. For which k is that equal to the share?",
        "Take logarithms of rho^k = share; both are negative. Then round up.",
    ),
)


def _with(adjacency: Array, i: int, j: int) -> Array:
    more = np.array(adjacency)
    more[i, j] = more[j, i] = 1
    return more


def _missing(adjacency: Array) -> list[tuple[int, int]]:
    return [(i, j) for i, j in combinations(range(len(adjacency)), 2) if not adjacency[i, j]]


def best_edge(adjacency: Array) -> tuple[int, int]:
    """Return the missing edge (i, j), i < j, that makes rho of the Metropolis weights least."""
    return min(_missing(adjacency), key=lambda edge: rho(metropolis(_with(adjacency, *edge))))


def _graph(*edges: tuple[int, int]) -> Array:
    """Return the adjacency matrix of a graph in which one missing edge is better than all others."""
    return np.asarray(nx.to_numpy_array(nx.Graph(edges), range(6), dtype=int))


TAILS = _graph((0, 1), (1, 2), (2, 0), (0, 3), (3, 4), (1, 5))
TAILED = _graph((0, 1), (1, 2), (2, 3), (3, 0), (3, 4), (4, 5))
BEST_EDGE = Exercise(
    name="best_edge",
    kind="design",
    about="best edge",
    solution=best_edge,
    cases={"a triangle with two tails": (TAILS,), "a ring of four with a tail": (TAILED,)},
    mistakes=(
        Mistake(
            lambda a: max(_missing(a), key=lambda e: rho(metropolis(_with(a, *e)))),
            "this edge makes rho largest.",
        ),
        Mistake(lambda a: _missing(a)[0], "this is the first edge that is missing; try them all."),
        Mistake(lambda a: best_edge(a)[::-1], "the smaller number comes first."),
    ),
    hints=(
        "There are not many missing edges. Try each on a copy of the adjacency matrix, and keep the best.",
        "An edge has two entries: [i, j] and [j, i]. Judge by your rho of your metropolis.",
    ),
)  # fmt: skip


def rest_point(W: Tensor, A: Tensor, b: Tensor, lr: float) -> Tensor:
    """Return the models (N, D) where X = W (X - lr (A X - b)): decentralised gradient descent moves no more."""
    N, D = b.shape
    apart = torch.eye(N, dtype=b.dtype)[:, None, :, None]
    hessian = (apart * A[:, :, None]).reshape(N * D, N * D)
    mixing = torch.kron(W.contiguous(), torch.eye(D, dtype=b.dtype))
    eye = torch.eye(N * D, dtype=b.dtype)
    x: Tensor = torch.linalg.solve(eye - mixing @ (eye - lr * hessian), lr * mixing @ b.flatten())
    return x.reshape(N, D)


def _each(A: Tensor, b: Tensor) -> Tensor:
    own: Tensor = torch.linalg.solve(A, b)
    return own


REST_POINT = Exercise(
    name="rest_point",
    kind="derive",
    about="resting point",
    solution=rest_point,
    cases={
        "a long step": (FOUR, HESSIANS, SLOPES, 0.1),
        "a short one": (FOUR, HESSIANS, SLOPES, 0.01),
    },
    mistakes=(
        Mistake(
            lambda W, A, b, lr: torch.linalg.solve(A.mean(0), b.mean(0)).expand_as(b),
            "this is the minimum of the mean loss. The method stops beside it, and each client elsewhere.",
        ),
        Mistake(
            lambda W, A, b, lr: _each(A, b), "these are the clients' own minima: nobody mixed."
        ),
        Mistake(lambda W, A, b, lr: W @ _each(A, b), "the clients' minima were mixed once."),
        Mistake(
            lambda W, A, b, lr: rest_point(W.T, A, b, lr), "rows and columns of W are exchanged."
        ),
    ),
    hints=(
        "Write X = W (X - lr (A X - b)) with X as one long vector: mixing and Hessians become matrices (N D, N D).",
        "torch.kron(W, torch.eye(D)) mixes the long vector, torch.block_diag(*A) holds the Hessians.",
        "Solve (I - M (I - lr H)) x = lr M b, and give x the shape (N, D) again. Mind the dtype of torch.eye.",
    ),
)


def peak_share(widths: tuple[int, ...]) -> float:
    """Return the peak of a block-wise Adam as a share of Adam's on all at once; widths are the blocks' parameters."""
    return (sum(widths) + 4 * max(widths)) / (5 * sum(widths))


PEAK_SHARE = Exercise(
    name="peak_share",
    kind="derive",
    about="peak of memory",
    solution=peak_share,
    cases={
        "the base model": ((33_152, 197_888, 197_888, 197_888, 197_888, 33_280),),
        "a huge embedding": ((900, 50, 50),),
    },
    mistakes=(
        Mistake(
            lambda w: (1 + 4 / len(w)) / 5,
            "you divided by the number of blocks. The widest block decides.",
        ),
        Mistake(lambda w: max(w) / sum(w), "the weights are missing: they stay, whoever trains."),
        Mistake(
            lambda w: (sum(w) + 3 * max(w)) / (4 * sum(w)),
            "four numbers stand beside each active weight: gradient, m, v and the neighbours' average.",
        ),
        Mistake(
            lambda w: (sum(w) + 4 * w[0]) / (5 * sum(w)),
            "this is the peak of the first block's visit; take the worst visit.",
        ),
    ),
    hints=(
        "Count in floats: all weights, and for the active block four more numbers a weight.",
        "The peak is where the active block is widest. Divide by five times all weights.",
    ),
)


def never_trained(steps: int, blocks: int, inner_steps: int) -> int:
    """Return how many blocks have not been trained at all after `steps` inner steps."""
    return max(blocks - math.ceil(steps / inner_steps), 0)


NEVER_TRAINED = Exercise(
    name="never_trained",
    kind="debug",
    about="count",
    solution=never_trained,
    cases={
        f"{s} steps, {k} blocks, {r} steps a visit": (s, k, r)
        for s, k, r in ((400, 32, 100), (9, 4, 4), (12, 3, 4), (31, 3, 4), (0, 5, 2))
    },
    mistakes=(
        Mistake(
            lambda s, k, r: k - s // r % k,
            "both bugs are still there: a visit that has begun counts, and after a whole round "
            "nothing is untrained again.",
        ),
        Mistake(
            lambda s, k, r: k - math.ceil(s / r) % k,
            "after a whole round it begins to count again: mind the %.",
        ),
        Mistake(
            lambda s, k, r: max(k - s // r, 0),
            "a visit that has only begun has trained its block: round up.",
        ),
        Mistake(
            lambda s, k, r: k - math.ceil(s / r),
            "no fewer than 0 blocks can be untrained.",
        ),
    ),
    hints=(
        "Try 9 steps of 4 blocks, 4 steps a visit, on paper: which blocks had a turn?",
        "Try a long run, too: what does % do after the first round?",
    ),
)  # fmt: skip


def settled_step(a1: float, a2: float, b1: float, b2: float) -> float:
    """Return the step, in learning rates, at which Adam with feedback of h = 0 settles while the gradient is always 1."""
    return (1 - a1) / (1 - a1 * b1) / math.sqrt((1 - a2) / (1 - a2 * b2))


SETTLED_STEP = Exercise(
    name="settled_step",
    kind="derive",
    about="settled step",
    solution=settled_step,
    cases={
        "usual decays": (0.9, 0.999, 0.99, 0.999),
        "strong ones": (0.8, 0.99, 0.5, 0.9),
    },
    mistakes=(
        Mistake(
            lambda a1, a2, b1, b2: b1 * settled_step(a1, a2, b1, b2) / b2**0.5,
            "you took the moments after the feedback. The step uses m and v before it is fed.",
        ),
        Mistake(
            lambda a1, a2, b1, b2: (1 - a1) / (1 - a1 * b1) / ((1 - a2) / (1 - a2 * b2)),
            "the root over v is missing.",
        ),
        Mistake(
            lambda a1, a2, b1, b2: 1 / (1 - a1 * b1) / math.sqrt(1 / (1 - a2 * b2)),
            "the gradient enters with the weights 1 - a1 and 1 - a2.",
        ),
        Mistake(
            lambda a1, a2, b1, b2: (1 - a1) / (1 - b1) / math.sqrt((1 - a2) / (1 - b2)),
            "from one step to the next m shrinks by a1 and by b1.",
        ),
        Mistake(lambda a1, a2, b1, b2: 1.0, "this is plain Adam, where b1 = b2 = 1."),
    ),
    hints=(
        "Settled means: m is the same before each step. Write m+ = a1 m + (1 - a1) and m = b1 m+, and solve for m+.",
        "m+ is (1 - a1) / (1 - a1 b1); v+ likewise. The bias corrections have gone to 1.",
    ),
)


def adam_directions(G: Tensor, a1: float, a2: float, eps: float) -> Tensor:
    """Return Adam's direction after each of the gradients G (T, D), as (T, D)."""
    state, path = mo.start(G[:1]), []
    for g in G:
        direction, state = mo.adam_(state, g[None], mo.Adam(a1, a2, eps))
        path.append(direction[0].clone())
    return torch.stack(path)


def _directions(
    G: Tensor,
    a1: float,
    a2: float,
    eps: float,
    late: int = 1,
    power: bool = False,
    kept: bool = True,
) -> Tensor:
    m, v, path = torch.zeros_like(G[0]), torch.zeros_like(G[0]), []
    for t, g in enumerate(G, start=late):
        m = a1 * m + (1 - a1) * g
        v = a2 * v + (1 - a2) * (g if not kept else g * g)
        first, second = ((1 - a1) ** t, (1 - a2) ** t) if power else (1 - a1**t, 1 - a2**t)
        path.append(m / first / ((v / second).sqrt() + eps))
    return torch.stack(path)


ADAM_DIRECTIONS = Exercise(
    name="adam_directions",
    kind="debug",
    about="Adam",
    solution=adam_directions,
    cases={
        "four gradients": (torch.tensor([[1.0, -2.0], [3.0, 0.5], [-1.0, 2.0], [0.2, 1.0]]).double(), 0.9, 0.999, 1e-8),
        "a large eps": (torch.tensor([[0.1, 4.0], [0.3, -1.0], [2.0, 0.5]]).double(), 0.8, 0.9, 0.1),
    },
    mistakes=(
        Mistake(
            lambda G, a1, a2, eps: _directions(G, a2, a1, eps, power=True),
            "all bugs are still there. Take one gradient, and do the first step on paper.",
        ),
        Mistake(
            lambda G, a1, a2, eps: _directions(G, a1, a2, eps, power=True),
            "(1 - a)**t is the power of a difference; the correction is 1 - a**t.",
        ),
        Mistake(
            lambda G, a1, a2, eps: _directions(G, a2, a1, eps),
            "a1 and a2 are exchanged: a1 belongs to m, a2 to v.",
        ),
        Mistake(
            lambda G, a1, a2, eps: _directions(G, a1, a2, eps, late=2),
            "the count is one too many: the first gradient has t = 1.",
        ),
        Mistake(
            lambda G, a1, a2, eps: _directions(G, a1, a2, eps, kept=False),
            "v holds the gradients themselves; it must hold their squares.",
        ),
        Mistake(
            lambda G, a1, a2, eps: adam_directions(G, a1, a2, eps)[-1].expand_as(G),
            "every row is the last direction; keep one for each gradient.",
        ),
    ),
    hints=(
        "After one gradient the direction is its sign, whatever a1 and a2 are. What does the code give?",
        "Look at the two corrections, then at who shrinks by a1 and who by a2.",
    ),
)  # fmt: skip


def split_h(W: Tensor, X: Tensor, D: Tensor, lr: float) -> Two:
    """Return h = W (X - lr D) - X in two parts (N, D): what the mixing of X moved, and what the steps along D moved."""
    return W @ X - X, -lr * W @ D


SPLIT_H = Exercise(
    name="split_h",
    kind="derive",
    about="split of h",
    solution=split_h,
    cases={"a W that is not symmetric": (FIVE, X, G, 0.3), "a path of five": (PATH, G, X, 0.1)},
    mistakes=(
        Mistake(
            lambda W, X, D, lr: (W @ X - X, -lr * D),
            "the steps were mixed as well: client i gets its neighbours' steps, too.",
        ),
        Mistake(lambda W, X, D, lr: (W @ X, -lr * W @ D), "X is to be taken off the first part."),
        Mistake(lambda W, X, D, lr: (X - W @ X, lr * W @ D), "both signs are turned."),
        Mistake(lambda W, X, D, lr: (W @ X - X, lr * W @ D), "a step goes against D."),
        Mistake(lambda W, X, D, lr: (-lr * W @ D, W @ X - X), "the two parts are exchanged."),
    ),
    hints=(
        "Mixing is linear: W (X - lr D) is W X - lr W D.",
        "Put the terms with X into the first part and the one with D into the second.",
    ),
)


def fair_gap(
    validation_a: Array, test_a: Array, validation_b: Array, test_b: Array
) -> float:  # fmt: skip
    """Return mean test loss of b minus that of a, each at its own best learning rate; the tables are (rates, seeds)."""
    best_a, best_b = validation_a.mean(1).argmin(), validation_b.mean(1).argmin()
    return float(test_b[best_b].mean() - test_a[best_a].mean())


VALIDATION = np.array([[[3.0, 3.2], [2.6, 2.5], [2.9, 2.3]], [[2.8, 2.7], [2.9, 3.0], [3.5, 3.6]]])
TEST = np.array([[[3.1, 3.1], [2.7, 2.75], [2.6, 2.65]], [[2.9, 2.8], [2.85, 2.83], [3.4, 3.7]]])
TABLES = (VALIDATION[0], TEST[0], VALIDATION[1], TEST[1])
FAIR_GAP = Exercise(
    name="fair_gap",
    kind="design",
    about="fair comparison",
    solution=fair_gap,
    cases={
        "three rates, two seeds": TABLES,
        "two rates": tuple(table[::2] + 0.1 * k for k, table in enumerate(TABLES)),
    },
    mistakes=(
        Mistake(
            lambda va, ta, vb, tb: float(tb.mean(1).min() - ta.mean(1).min()),
            "the rates were chosen by the test text. That is peeping: choose by validation, then test once.",
        ),
        Mistake(
            lambda va, ta, vb, tb: float(
                tb[va.mean(1).argmin()].mean() - ta[va.mean(1).argmin()].mean()
            ),
            "both arms got the first one's learning rate. Each needs its own.",
        ),
        Mistake(
            lambda va, ta, vb, tb: float(tb.mean() - ta.mean()),
            "you averaged over all learning rates, the bad ones too.",
        ),
        Mistake(lambda *t: -fair_gap(*t), "the sign is turned: b minus a."),
        Mistake(
            lambda va, ta, vb, tb: float(vb.mean(1).min() - va.mean(1).min()),
            "these are validation losses, on which the rate was chosen; report the test losses.",
        ),
        Mistake(
            lambda va, ta, vb, tb: float(
                tb[np.unravel_index(vb.argmin(), vb.shape)[0]].mean()
                - ta[np.unravel_index(va.argmin(), va.shape)[0]].mean()
            ),
            "the rates were chosen by the luckiest seed. Average over seeds first.",
        ),
    ),
    hints=(
        "Which table may choose, and which may only report?",
        "The best row of each validation table, by its mean over seeds. Then the means of those rows in the test tables.",
    ),
)


def two_rests(wishes: Array, strengths: Array) -> tuple[float, float]:
    """Return where the mean of s_i (x - w_i)^2 / 2 is least, and where equal votes sign(x - w_i) of an odd N cancel."""
    return float(np.average(wishes, weights=strengths)), float(np.median(wishes))


TWO_RESTS = Exercise(
    name="two_rests",
    kind="derive",
    about="two resting points",
    solution=two_rests,
    cases={
        "one who cares": (np.array([0.0, 0.5, 9.0]), np.array([1.0, 1.0, 4.0])),
        "five clients": (np.array([3.0, -1.0, 2.0, 8.0, -4.0]), np.array([1.0, 2.0, 0.5, 3.0, 1.0])),
    },
    mistakes=(
        Mistake(
            lambda w, s: (float(w.mean()), float(np.median(w))),
            "the strengths are missing: the mean gradient asks how much each client cares.",
        ),
        Mistake(
            lambda w, s: (float(np.average(w, weights=s)),) * 2,
            "the second is not the first: a vote does not say how strong a wish is, nor how far.",
        ),
        Mistake(
            lambda w, s: (float(np.average(w, weights=s)), float(w.mean())),
            "the votes' rest is no mean: moving one wish far away changes no vote.",
        ),
        Mistake(lambda w, s: two_rests(w, s)[::-1], "the two are exchanged."),
    ),
    hints=(
        "First: set the mean gradient, the mean of s_i (x - w_i), to zero.",
        "Second: the votes cancel where as many wishes lie to the left as to the right.",
    ),
)  # fmt: skip


def illness(W: Array) -> str:
    """Return what ails W (N, N), whose rows sum to one: "drift", "bouncing or islands", or "none"."""
    if not np.allclose(W.sum(0), 1):
        return "drift"
    return "none" if rho(W) < 1 - 1e-9 else "bouncing or islands"


SWAP, ISLANDS = np.array([[0.0, 1.0], [1.0, 0.0]]), np.kron(np.eye(2), np.full((2, 2), 0.5))
LEADER = np.array([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])


def _looked(W: Array, columns: bool = True, modulus: bool = True) -> str:
    """Return the verdict of a careless doctor, for symmetric W."""
    if columns and not np.allclose(W.sum(0), 1):
        return "drift"
    values = np.linalg.eigvals(W).real
    second = np.sort(np.abs(values) if modulus else values)[-2]
    return "none" if second < 1 - 1e-9 else "bouncing or islands"


ILLNESS = Exercise(
    name="illness",
    kind="debug",
    about="diagnosis",
    solution=illness,
    cases={
        "columns that do not sum to one": (LEADER,),
        "two who swap": (SWAP,),
        "two pairs": (ISLANDS,),
        "a path": (PATH.numpy(),),
    },
    mistakes=(
        Mistake(
            lambda W: _looked(W, columns=False, modulus=False),
            "both bugs are still there. Which sums keep the mean? And what does an eigenvalue of -1 do?",
        ),
        Mistake(
            lambda W: _looked(W, modulus=False),
            "an eigenvalue of -1 is overlooked: take the modulus before you sort.",
        ),
        Mistake(
            lambda W: _looked(W, columns=False),
            "rows that sum to one do not keep the network's mean; look at the columns.",
        ),
    ),
    hints=(
        "Which sums keep the network's mean where it is: those of rows, or those of columns?",
        "A pattern that turns its sign at each mixing has the eigenvalue -1. Sorted, where does it stand?",
    ),
)


def local_exponent(length: float, start: float, floor: float) -> float:
    """Return the slope of log y over log length at this length, for y = start / sqrt(length) + floor."""
    falling = start / math.sqrt(length)
    return -0.5 * falling / (falling + floor)


LOCAL_EXPONENT = Exercise(
    name="local_exponent",
    kind="derive",
    about="local exponent",
    solution=local_exponent,
    cases={"a low floor": (100.0, 3.0, 0.1), "a high one": (400.0, 2.0, 0.5)},
    mistakes=(
        Mistake(lambda n, s, f: -0.5, "this is the slope without a floor."),
        Mistake(
            lambda n, s, f: -0.5 * s / n**1.5,
            "this is dy / d length. In logarithms it is multiplied by length / y.",
        ),
        Mistake(lambda n, s, f: -local_exponent(n, s, f), "the curve falls: the slope is negative."),
        Mistake(
            lambda n, s, f: -0.5 * f / (s / n**0.5 + f),
            "this is the floor's share; the falling part makes the slope.",
        ),
    ),
    hints=(
        "d log y / d log n = (n / y) dy / dn.",
        "It is -1/2 times the share of y that still falls.",
    ),
)  # fmt: skip


def length_needed(start: float, floor: float, change: float) -> float:
    """Return the length from which the slope of start / sqrt(length) + floor lies `change` above -1/2, 0 < change < 1/2."""
    return (2 * change * start / (floor * (1 - 2 * change))) ** 2


LENGTH_NEEDED = Exercise(
    name="length_needed",
    kind="design",
    about="length of the experiment",
    solution=length_needed,
    cases={"a low floor": (3.0, 0.1, 0.05), "a high one": (2.0, 0.5, 0.2)},
    mistakes=(
        Mistake(
            lambda s, f, c: length_needed(s, f, c) ** 0.5,
            "this is the root of the length: the falling part is start / sqrt(length).",
        ),
        Mistake(
            lambda s, f, c: (s / f) ** 2,
            "here floor and falling part are equal, whatever the change that you want to see.",
        ),
        Mistake(
            lambda s, f, c: length_needed(s, f, c / 2),
            "the exponent is half the share of the falling part: mind the factor 2.",
        ),
        Mistake(
            lambda s, f, c: length_needed(s, f, 0.5 - c),
            "the slope lies `change` above -1/2; you let it lie `change` below 0.",
        ),
    ),
    hints=(
        "From the exercise before: the slope is -1/2 times the share that falls. Which share makes it -1/2 + change?",
        "The share is 1 - 2 change. Solve for sqrt(length), then square.",
    ),
)
EXERCISES = (
    MIXINGS_NEEDED, BEST_EDGE, REST_POINT, PEAK_SHARE, NEVER_TRAINED, SETTLED_STEP, ADAM_DIRECTIONS,
    SPLIT_H, FAIR_GAP, TWO_RESTS, ILLNESS, LOCAL_EXPONENT, LENGTH_NEEDED,
)  # fmt: skip
