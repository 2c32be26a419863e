"""Quiz of lesson 3: all clients on one tensor axis, equal to the loop."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "The losses of N stacked clients are summed, and the sum is differentiated once with respect to X (N, D). What is row i "
        "of the result?",
        (
            (
                "The gradient of client i's own loss",
                "no client's loss depends on another client's row, so all other terms of the sum have zero gradient there. One "
                "call returns N gradients that know nothing of each other.",
            ),
            (
                "The gradient of the mean loss, the same in every row",
                "this would be so if all clients used the same row. Here each has a row of its own.",
            ),
            (
                "Client i's gradient plus what the others' losses say about row i",
                "they say nothing about it: the derivative of another client's loss with respect to row i is zero.",
            ),
        ),
        answer=0,
    ),
    Question(
        "Someone writes losses.mean() where losses.sum() belongs, with 8 clients. Which training curves change?",
        (
            (
                "Both: SGD's and Adam's steps become 8 times shorter",
                "all gradients are 8 times smaller, but Adam divides m by the root of v, and the factor cancels.",
            ),
            (
                "Neither: a constant factor does not change the direction",
                "it does not, but SGD's step is the gradient times the learning rate: 8 times shorter.",
            ),
            (
                "SGD's, as if its learning rate were 8 times smaller; Adam's hardly",
                "in Adam the factor cancels but for eps. This is why such a mistake can hide for long: test gradients, not only "
                "loss curves.",
            ),
            (
                "Adam's, because v falls 64-fold; SGD's hardly",
                "v falls 64-fold and its root 8-fold, exactly as m does.",
            ),
        ),
        answer=2,
    ),
    Question(
        "In float32, stacked and looped gradients of a GPT-2 differ by 1e-8. How do you find out whether that is a bug?",
        (
            (
                "Compare the losses: if they agree to 1e-8, all is well",
                "a wrong gradient can come with a right loss, for instance where a tied weight was untied.",
            ),
            (
                "Do both again in float64 and see whether the gap falls by many orders",
                "rounding falls with the digits; a wrong formula stays wrong by as much. Sums taken in another order differ in "
                "the last digits, and nothing more.",
            ),
            (
                "Train both for a while and compare the test losses",
                "small real errors vanish in the noise of training, and harmless rounding grows in it. It is the slowest test "
                "and tells least.",
            ),
        ),
        answer=1,
    ),
    Question(
        "Where does the stacked engine gain most over the loop, on a CPU?",
        (
            (
                "Eight large models",
                "there each operation is a large product that keeps the cores busy by itself. For width 256 and 8 layers the two "
                "were measured within a tenth of each other.",
            ),
            (
                "Equally everywhere: it is one call instead of eight",
                "one call saves the cost of calling, which is much of the time of small operations and next to nothing of large "
                "ones.",
            ),
            (
                "Many tiny models",
                "their operations are so short that starting them takes most of the time. For 8 clients of width 64 with one "
                "window each, the loop took more than twice as long.",
            ),
        ),
        answer=2,
    ),
    Question(
        "You go from the loop to the stacked engine, same clients and batches, full-parameter training. Which memory grows?",
        (
            (
                "The weights: N copies instead of one",
                "the clients have N different models in either engine, and all are held.",
            ),
            (
                "The activations: those of all N clients live at once",
                "the loop keeps one client's activations, differentiates and drops them before the next. The stacked pass holds "
                "all until its backward pass.",
            ),
            (
                "Adam's moments: N rows instead of one",
                "each client has moments of its own in either engine, in the same matrices (N, D).",
            ),
        ),
        answer=1,
    ),
)
