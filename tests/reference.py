"""The oracle: DECA on quadratics as plain Python loops over clients and coordinates, written from the equations alone."""

import math

# What two float64 computations of the same numbers, of size 1 to 10, may differ by. A sum of n products depends on its order
# and on the processor by up to n eps of its largest, and eps is 2.2e-16: this is room for some hundred operations.
ROUNDING = 1e-13
# The same where an iteration, a decomposition or a solution of equations stands between, each with its condition number.
LONG_ROUNDING = 1e-12
# The same for float32, eps = 1.2e-7: logits, losses and gradients of a small model.
SINGLE = 1e-5
# The engines that need no compiler; the compiled one is slow to start and has a file of its own.
EAGER = ("stacked", "loop")


def deca_on_quadratics(
    A,
    b,
    x0,
    W_at,
    blocks,
    rounds,
    inner_steps,
    lr,
    a1,
    a2,
    eps,
    feedback="none",
    scale="raw",
    b1=1.0,
    b2=1.0,
    mix_every=1,
    keep=False,
):
    """Return all clients' final coordinates [i][c]; f_i = x'A_i x/2 - b_i'x, blocks a list of lists of coordinates."""
    n, d = len(b), len(b[0])
    x = [[float(v) for v in row] for row in x0]
    kept = {}
    step = 0
    for _ in range(rounds):
        for k, block in enumerate(blocks):
            fresh = ([[0.0] * d for _ in range(n)], [[0.0] * d for _ in range(n)], [0])
            m, v, count = kept.setdefault(k, fresh) if keep else fresh
            for _ in range(inner_steps):
                count[0] += 1
                grad = [
                    [sum(A[i][c][e] * x[i][e] for e in range(d)) - b[i][c] for c in range(d)]
                    for i in range(n)
                ]
                plus = [list(row) for row in x]
                for i in range(n):
                    for c in block:
                        m[i][c] = a1 * m[i][c] + (1 - a1) * grad[i][c]
                        v[i][c] = a2 * v[i][c] + (1 - a2) * grad[i][c] ** 2
                        m_hat = m[i][c] / (1 - a1 ** count[0])
                        v_hat = v[i][c] / (1 - a2 ** count[0])
                        plus[i][c] = x[i][c] - lr * m_hat / (math.sqrt(v_hat) + eps)
                step += 1
                if step % mix_every:
                    x = plus
                    continue
                W = W_at(step // mix_every - 1)
                new = [list(row) for row in plus]
                for i in range(n):
                    for c in block:
                        new[i][c] = sum(W[i][j] * plus[j][c] for j in range(n))
                if feedback != "none":
                    for i in range(n):
                        sign = {"printed": 1.0, "downhill": -1.0, "zero": 0.0}[feedback]
                        h = {c: sign * (new[i][c] - x[i][c]) for c in block}
                        length = math.sqrt(sum(value**2 for value in h.values())) + 1e-8
                        divide = {"raw": 1.0, "lr": lr, "unit": length}[scale]
                        for c in block:
                            m[i][c] = b1 * m[i][c] + (1 - b1) * h[c] / divide
                            v[i][c] = b2 * v[i][c] + (1 - b2) * (h[c] / divide) ** 2
                x = new
    return x
