"""Quiz of lesson 0: what a run does, what its pictures say, one mixing by hand."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "Clients 0, 1, 2 and 3 stand on a ring in this order and hold the numbers 0, 3, 6 and 9. Each one takes a third of its "
        "own number and a third of either neighbour's. What does client 0 hold after one mixing?",
        (
            (
                "4.5",
                "this is the mean of all four. Client 0 has no edge to client 2, whose 6 reaches it one mixing later.",
            ),
            (
                "6",
                "this is the mean of the two neighbours, 3 and 9. A client counts itself as well, here with a third.",
            ),
            (
                "12",
                "this is the sum of all that client 0 hears. Shares of a third make it an average.",
            ),
            (
                "4",
                "0/3 + 3/3 + 9/3 = 4. On a ring client 3 is the neighbour of client 0; client 2 is not heard.",
            ),
        ),
        answer=3,
    ),
    Question(
        "The first block has had its visit, and another block trains now. How does the curve of the first block's consensus "
        "distance go on?",
        (
            (
                "It falls towards zero, because the clients go on mixing",
                "they mix the active block only. What is not sent is not averaged, so nothing pulls the first block together any "
                "more.",
            ),
            (
                "It stays level, to the last digit",
                "the block is neither trained nor mixed, so no client's copy of it changes. What the clients disagreed on at the "
                "end of the visit stays until the next one.",
            ),
            (
                "It rises, because the clients' texts differ",
                "different text drives models apart through gradient steps, and a block that is not active takes none.",
            ),
        ),
        answer=1,
    ),
    Question(
        "A listener on one edge of the ring records everything that DECA sends in one inner step. What is on the tape?",
        (
            (
                "The active block's parameters, after the sender's own step",
                "adapt, then combine: the neighbours average these rows. No text, gradient or moment travels. That is not yet a "
                "promise of privacy: parameters can tell of the text they saw.",
            ),
            (
                "The gradient of the active block",
                "gradients stay at home: every client takes its own step first, and what is averaged is the result. Averaging "
                "gradients is what data-parallel training with one common model does.",
            ),
            (
                "The active block with Adam's moments m and v",
                "the moments are each client's own. Sending them too would triple the traffic.",
            ),
            (
                "The whole model",
                "this is what full-parameter methods send. DECA sends one block of B, and so about 1/B of it.",
            ),
        ),
        answer=0,
    ),
    Question(
        "Eight clients start from the same model and train on different text, once with mixing and once without. Which curves of "
        "the consensus distance do you expect?",
        (
            (
                "Both end near zero, for every client trains to convergence",
                "each client alone converges to what suits its own text. Converged is not agreed.",
            ),
            (
                "With mixing it is higher, because foreign models disturb each client",
                "mixing replaces every model by an average. With a doubly stochastic W the distance can shrink or stay, but "
                "never grow.",
            ),
            (
                "Without mixing it climbs on; with mixing it stays small",
                "every step pulls the clients apart, and only a mixing takes some of it back. With mixing the two come into "
                "balance at a small distance.",
            ),
        ),
        answer=2,
    ),
    Question(
        "The test loss falls by 0.1 nats per byte. What happens to the perplexity?",
        (
            (
                "It falls by 0.1 as well",
                "perplexity is the exponential of the loss, so a difference of losses becomes a ratio of perplexities, not a "
                "difference.",
            ),
            (
                "It is divided by about 1.105, whatever it was",
                "exp(loss - 0.1) = exp(loss) / exp(0.1), and exp(0.1) is about 1.105. The level before does not matter.",
            ),
            (
                "That depends: from a loss of 1.0 it falls by a tenth, from 2.0 by a twentieth",
                "so the loss falls. Perplexity is its exponential and falls by the same factor in both cases.",
            ),
        ),
        answer=1,
    ),
)
