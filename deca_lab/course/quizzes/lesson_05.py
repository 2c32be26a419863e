"""Quiz of lesson 5: Adam's moments, what a restart does to them, and the feedback."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "First step of a visit, moments zero. One coordinate has the gradient 0.001, another 10. How far does Adam move them?",
        (
            (
                "The second 10,000 times as far as the first",
                "this is SGD. Adam divides by the root of v_hat, which at the first step is the size of the gradient itself.",
            ),
            (
                "Both by one learning rate",
                "m_hat = g and v_hat = g*g, so the direction is g / |g|: the sign. All that a first step knows of a gradient is "
                "which way it points.",
            ),
            (
                "The second 100 times as far: a root is taken",
                "the root is that of a square: of v_hat = g*g.",
            ),
        ),
        answer=1,
    ),
    Question(
        "Someone forgets the bias correction (a1 = 0.9, a2 = 0.999). How long is the first step of a visit?",
        (
            (
                "A tenth of a learning rate, for m is 0.1 g",
                "v starts small as well, and the step is divided by its root. v lags behind further than m does.",
            ),
            (
                "One learning rate: both corrections cancel",
                "they would cancel if (1 - a1) squared were 1 - a2. Here m is a tenth of g, and the root of v about a thirtieth "
                "of |g|.",
            ),
            (
                "About 3.2 learning rates",
                "m = 0.1 g and v = 0.001 g*g, so the step is 0.1 / 0.0316. With a restart at every visit this jolt would come "
                "again and again.",
            ),
        ),
        answer=2,
    ),
    Question(
        "Three clients hold the same model and have the gradients -1, -1 and +4 in one coordinate. It is the first step of a "
        "visit, and W is doubly stochastic. Which way does the mean model go?",
        (
            (
                "Up, against the mean gradient",
                "the clients' first steps are signs: +1, +1 and -1 learning rates, a third of one upward on average. The mean "
                "gradient is +2/3 and asks for downward. Averaging signs is not the sign of the average.",
            ),
            (
                "Down, for the mean gradient is positive",
                "so would the mean of SGD steps. Adam's clients each divide by a number of their own, and the large gradient "
                "loses its weight.",
            ),
            (
                "Nowhere: mixing keeps the mean",
                "mixing does. The local steps before it move the mean by the mean of their directions.",
            ),
        ),
        answer=0,
    ),
    Question(
        "All clients hold the same model and see the same gradient. The printed signal h = x_new - x enters m, and m is "
        "subtracted in the next step. What does h do there?",
        (
            (
                "Nothing: where clients agree, mixing displaces nothing and h is zero",
                "mixing displaces nothing, but h is measured from before the local step. It holds the step itself.",
            ),
            (
                "It lengthens the next step, like momentum",
                "that would take the opposite sign. m points uphill, as a gradient does, and is subtracted; x - x_new points "
                "that way, x_new - x does not.",
            ),
            (
                "It shortens the next step a little",
                "h is minus the learning rate times the direction. In m it stands against the gradients, and only a little, "
                "since it is as short as a step.",
            ),
        ),
        answer=2,
    ),
    Question(
        "Learning rate 0.001, h raw, b1 = 0.9. Four runs: h printed, h downhill (opposite sign), h = 0, and no feedback at all. "
        "Which loss curves can you tell apart?",
        (
            (
                "Printed and downhill lie on either side of the other two",
                "the sign would show if h were of the size of a gradient. Raw, it is of the size of a step, here about a "
                "thousandth.",
            ),
            (
                "Printed, downhill and zero lie together; no feedback is apart",
                "a raw h hardly enters. What acts is b1, which shrinks m after every step, and it does so with h = 0 too. "
                "Without feedback nothing shrinks.",
            ),
            (
                "Zero and no feedback lie together, the other two apart",
                "h = 0 is not the absence of feedback: m is still multiplied by b1 after each step.",
            ),
            (
                "None: all four lie together",
                "three of them do. With b1 = 0.9 m forgets faster and is smaller than its bias correction assumes, so these "
                "three take other steps than plain Adam.",
            ),
        ),
        answer=1,
    ),
)
