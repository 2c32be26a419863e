"""Quiz of lesson 9: bounds beside runs, rates, verdicts."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "A theorem's bound on the consensus distance holds in every run, and the measured value is 0.005 of it. What do you "
        "conclude?",
        (
            (
                "The theorem is wrong by a factor of 200",
                "it says at most, and at most it was. A bound is wrong when it is exceeded, once, with its hypotheses met.",
            ),
            (
                "It is true and loose: its size tells little, its shape perhaps more",
                "whether the value falls with the learning rate or with 1 - rho as the bound does can be tested apart from its "
                "height.",
            ),
            (
                "These runs were lucky, others will come closer",
                "perhaps none can. A bound is tight only if some input attains it; look for that witness before you "
                "call it luck.",
            ),
        ),
        answer=1,
    ),
    Question(
        "A paper proves O(1 / sqrt(T)). You run once, with T = 400, and find 0.03, below 1 / sqrt(400) = 0.05. What has been "
        "shown?",
        (
            (
                "The rate: the value lies below",
                "O hides a constant that nobody told you. With another one 0.03 would be above.",
            ),
            (
                "Better than the rate: 0.03 is clearly less than 0.05",
                "the same hidden constant. The two numbers cannot be compared.",
            ),
            (
                "Nothing of the rate",
                "what can be tested is the exponent: several T over a decade or more, the learning rate as the theorem wants it, "
                "several seeds, and the slope on logarithmic axes with its interval.",
            ),
        ),
        answer=2,
    ),
    Question(
        "Adam's step is often said to be at most (1 - a1) / sqrt(1 - a2) = 3.16 learning rates. In a million random runs no step "
        "is longer. Is it so?",
        (
            (
                "No: there is a sequence of gradients with longer steps",
                "let each gradient be 1.11 times the one before: the step grows towards 7.27 learning rates. Random gradients "
                "hardly ever look like that.",
            ),
            (
                "Yes: a million runs without an exception is proof enough",
                "they show that exceptions are rare among random gradients. The claim is about all of them.",
            ),
            (
                "Yes for bounded gradients",
                "the step does not change if all gradients are scaled, so the sequence that breaks the bound can be made as "
                "small as you like.",
            ),
        ),
        answer=0,
    ),
    Question(
        "The gain of method A over B is +0.010 nats, 95 % interval -0.004 to +0.024. The margin of 'as good as' was fixed at "
        "0.02 before. Which verdicts follow for 'A is better' and for 'A is as good as B'?",
        (
            (
                "Agree and agree: the gain is positive",
                "for 'better' the whole interval would have to lie above zero, and a part of it does not.",
            ),
            (
                "Undecided and agree",
                "the interval holds zero, so 'better' is undecided. All of it lies above -0.02, so A is not worse by more than "
                "the margin.",
            ),
            (
                "Disagree and agree: zero lies in the interval",
                "an interval that holds zero does not refute 'better'. It would have to lie below zero altogether.",
            ),
            (
                "Undecided and undecided: the interval is wider than the margin",
                "what counts is where it lies: above minus the margin with all of it.",
            ),
        ),
        answer=1,
    ),
    Question(
        "Decentralised SGD with noise and different clients, learning rate fixed, a very long run. You halve the rate. What "
        "happens to the floor that the lesson's bound leaves?",
        (
            (
                "It stays: it comes from the clients' difference, which is the same",
                "it comes from how far the clients drift apart, and shorter steps drift less. For Adam with second moments of "
                "each client's own the floor need not vanish; here it does.",
            ),
            (
                "All of it is halved",
                "the noise of the mean model enters with the learning rate, the disagreement with its square.",
            ),
            (
                "Noise of the mean: halved; disagreement: a quarter",
                "the terms are L gamma sigma^2 / n and one with gamma squared. The price: the start is forgotten half as fast, "
                "by 1 / (gamma K).",
            ),
        ),
        answer=2,
    ),
)
