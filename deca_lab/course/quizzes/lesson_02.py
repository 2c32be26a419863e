"""Quiz of lesson 2: graphs, mixing matrices, and rho."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "A ring with shares of a third grows from 8 clients to 16. How many mixings does it take now to shrink any disagreement "
        "1000-fold?",
        (
            (
                "As many as before: everybody still hears two neighbours",
                "one mixing costs a client as much as before, but news has to go twice as far. rho rises from 0.805 to 0.949.",
            ),
            (
                "About twice as many: the way round is twice as long",
                "a message that is handed on would need twice as long. Averages spread like heat: twice the distance takes four "
                "times as long.",
            ),
            (
                "About four times as many",
                "rho = (1 + 2 cos(2 pi / N)) / 3, so 1 - rho falls like 1 / N squared: 32 mixings become 133.",
            ),
        ),
        answer=2,
    ),
    Question(
        "Eight clients, Metropolis weights. Which graph shrinks disagreement faster: the star, where any two clients are at most "
        "two edges apart, or the ring?",
        (
            (
                "The ring",
                "rho is 0.805 on the ring and 0.875 on the star. The hub hears seven others, so each of its edges has a share of "
                "1/8 only, and a leaf keeps 7/8 of its own model.",
            ),
            (
                "The star, for its ways are shorter",
                "short ways help where shares are large. Metropolis shares are 1 / (1 + the larger degree): on the star 1/8, on "
                "the ring 1/3.",
            ),
            (
                "Neither: both have few edges, 7 and 8",
                "the number of edges fixes the bytes. How fast they mix depends on where they are: rho is 0.875 against 0.805.",
            ),
        ),
        answer=0,
    ),
    Question(
        "On a star of 8 clients everyone averages equally over all that it hears, itself included: rows sum to one, columns do "
        "not. Nobody trains. What becomes of the models?",
        (
            (
                "They come to agree on the plain mean, for each row sums to one",
                "rows that sum to one keep an agreement once it is there. It takes columns that sum to one to keep the mean.",
            ),
            (
                "They come to agree on a mean in which the hub counts four times as much as a leaf",
                "the graph is connected and everyone counts itself, so they agree. A client's weight in the result is "
                "proportional to how many it averages over: 8 for the hub, 2 for a leaf.",
            ),
            (
                "They never agree, for W is not doubly stochastic",
                "agreement needs less: rows that sum to one, news from everyone to everyone, no bouncing. What is lost is the "
                "plain mean.",
            ),
        ),
        answer=1,
    ),
    Question(
        "A doubly stochastic W that is not symmetric has the second singular value 0.640 and the second eigenvalue 0.500 (in "
        "modulus). What is sure of one mixing?",
        (
            (
                "It leaves at most 0.500 of the disagreement",
                "for a W that is not symmetric the eigenvalue tells what happens after many mixings only. A single one can leave "
                "more.",
            ),
            (
                "It leaves 0.640 of the disagreement, neither more nor less",
                "this is the worst case, met in one direction. Other disagreements shrink more.",
            ),
            (
                "It leaves at most 0.640 of the disagreement",
                "rho is the largest singular value of W - J, so the largest stretch of whatever is not common to all. The "
                "eigenvalue agrees with it where W is symmetric.",
            ),
        ),
        answer=2,
    ),
    Question(
        "Clients on a ring start from random models and only mix. You draw the measured disagreement beside the prediction rho^k "
        "times the start, on a logarithmic axis. What do you see?",
        (
            (
                "The measured curve lies below, and in the end runs parallel",
                "rough disagreement, between neighbours, goes first and fast. The slowest pattern is left, and this one shrinks "
                "by exactly rho at each mixing.",
            ),
            (
                "The two curves lie on one another",
                "only where the start is the slowest pattern itself. A random start has parts of all patterns, and the others "
                "shrink faster.",
            ),
            (
                "The measured curve lies above at first, until the mixing has got going",
                "rho^k times the start bounds it at every k, the first one included.",
            ),
        ),
        answer=0,
    ),
)
