"""Quiz of lesson 11: what it would cost, and where the formulas are optimistic."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "A model has weights of M = 16 GB in half precision, and DECA's peak is M + 10 M / B. You go from B = 16 equal blocks to "
        "32. What becomes of the peak?",
        (
            (
                "26 GB become 13 GB",
                "only the state of the active block is halved. All weights stay in memory, and no number of blocks goes below M.",
            ),
            (
                "26 GB become 21 GB",
                "16 + 10 becomes 16 + 5. Each doubling saves half as much as the one before; full-parameter Adam is said to take "
                "about 9 M, 144 GB.",
            ),
            (
                "It stays at 26 GB: over a round every block trains",
                "one after another. The state of a block is freed when its visit ends.",
            ),
        ),
        answer=1,
    ),
    Question(
        "In Llama-3.1-8B the embedding has 128,256 x 4,096 weights, and two transformer layers together have 436 million. Blocks "
        "are two layers each, with the embedding as a block of its own. Which block sets the peak?",
        (
            (
                "Any two layers: they hold the attention and the large matrices",
                "436 million in all. Multiply out the embedding before you believe it.",
            ),
            (
                "None: M + 10 M / B counts all blocks alike",
                "the formula does, because it assumes equal blocks. Memory does not.",
            ),
            (
                "The embedding",
                "128,256 x 4,096 is 525 million. So the formula for equal blocks is too low here, unless the embedding is frozen "
                "or cut.",
            ),
        ),
        answer=2,
    ),
    Question(
        "DECA with 6 blocks on a model of 858,000 parameters, or Dec-LoRA with 16,384 parameters in its factors: same graph and "
        "inner steps, mixing at each. Who sends more?",
        (
            (
                "DECA, about nine times as much",
                "143,000 numbers in an average message against 16,384. A block is a small part of the model, and still large "
                "beside low-rank factors.",
            ),
            (
                "Dec-LoRA: it sends all it trains, DECA only a sixth",
                "a sixth of 858,000 is still far more than the whole of 16,384.",
            ),
            (
                "Equal: both send only what has been trained in the step",
                "so they do, but not equally much is trained in a step.",
            ),
        ),
        answer=0,
    ),
    Question(
        "An inner step computes for 1 s. Then 1.75 GB go to each of two neighbours over a client's one link of 1 Gbit/s. What "
        "makes the average step shortest?",
        (
            (
                "A GPU twice as fast",
                "it saves 0.5 s of 29. First work out how long the messages take: 3.5 GB are 28 Gbit.",
            ),
            (
                "Mixing at every fourth step",
                "the link is busy for 28 s at each mixing, so 7 s a step instead, and 8 s in all. The price is more disagreement "
                "between mixings, which no clock shows.",
            ),
            (
                "Messages in 16 bits instead of 32",
                "this halves 28 s to 14 s, so 15 s in all: good, but a quarter of the messages saves more. Whether 16 bits are "
                "enough for mixing is another question.",
            ),
        ),
        answer=1,
    ),
    Question(
        "Same model, blocks and batch; the context goes from 512 to 8,192 tokens. What do M + 10 M / B and a measured peak do?",
        (
            (
                "Both grow 16-fold",
                "weights, gradients and moments know nothing of the context's length. The formula does not contain it.",
            ),
            (
                "Both stay: memory is set by the number of parameters",
                "so is the formula. A real step also keeps activations for the backward pass.",
            ),
            (
                "The formula stays, the measured peak grows",
                "activations grow with the tokens, and attention's with more than that where its table is kept. The formula "
                "leaves them out: this is where it is most optimistic.",
            ),
        ),
        answer=2,
    ),
)
