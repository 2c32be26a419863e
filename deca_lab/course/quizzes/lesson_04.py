"""Quiz of lesson 4: which block trains when, and what that saves."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "A model of 10 equal blocks trains on the same graph, with the same number of inner steps, once block by block and once "
        "whole. How do the bytes sent compare?",
        (
            (
                "Equal: in a round every block is sent, and so the whole model",
                "in a round of 10 R inner steps each block is sent R times. Trained whole, the model is sent 10 R times in as "
                "many steps.",
            ),
            (
                "Block by block sends a tenth",
                "one of 10 blocks travels at each inner step. At an equal number of rounds, with R steps a visit, the comparison "
                "would be another one: say what you hold equal.",
            ),
            (
                "Block by block sends a thirtieth: neither m nor v travels",
                "they do not travel in whole-model decentralised Adam either. A tenth is all that the blocks save.",
            ),
        ),
        answer=1,
    ),
    Question(
        "Blocks differ in size. Which of them sets the peak of gradients and moments?",
        (
            (
                "The largest one",
                "state exists for the active block only and is dropped when the visit ends, so the worst visit is that of the "
                "widest block. One large embedding can undo the savings of many small layers.",
            ),
            (
                "All together, for every block gets its turn",
                "in turn, not at once: the state of a visit is freed before the next one.",
            ),
            (
                "A block of average size, for peaks and troughs even out",
                "a peak is a maximum. The memory must be there when the largest block is active, whatever the others need.",
            ),
        ),
        answer=0,
    ),
    Question(
        "Which inner step takes longer: one whose active block is the lowest layer, or one whose active block is the highest?",
        (
            (
                "The highest: it is next to the loss and gets the largest gradients",
                "a product takes as long for large numbers as for small ones.",
            ),
            (
                "Equal: the forward pass is whole in both, and the blocks are of one size",
                "the forward pass is, and so is the block's own gradient. Between them lies the way down from the loss, and it "
                "is longer for the lowest.",
            ),
            (
                "The lowest: the gradient has to come down through all layers above",
                "for a block at the top the backward pass stops at once. In an 8-layer model of 10 blocks, 0.78 of a full step "
                "was measured at the bottom and 0.33 at the top.",
            ),
        ),
        answer=2,
    ),
    Question(
        "You cut a deep model into ever more blocks. Towards what does the arithmetic of an average inner step fall, as a share "
        "of full-parameter training?",
        (
            (
                "Towards zero, like 1/B",
                "only the gradients of the active block's own weights fall like 1/B. The forward pass is needed whole, and the "
                "way down to the block on average by half.",
            ),
            (
                "Towards a third",
                "this is the forward pass alone, about a third of a full step. An average block lies halfway down, and the "
                "gradient must reach it.",
            ),
            (
                "Towards a half",
                "a full step is forward 1, way down 1, own gradients 1. With blocks it is 1 + 1/2 + 1/B of 3, so 0.53 with 10 "
                "blocks and never below a half.",
            ),
        ),
        answer=2,
    ),
    Question(
        "Blocks of two layers become blocks of one; the rounds T and the inner steps R of a visit stay. The loss ends lower. "
        "What else has changed?",
        (
            (
                "The bytes sent are halved",
                "each message is half as long, but there are twice as many visits and so twice as many messages.",
            ),
            (
                "There are twice as many inner steps, for the same bytes",
                "T B R doubles with B. So the better loss may come from more steps on more batches rather than from finer "
                "blocks; compare at equal inner steps as well.",
            ),
            (
                "Nothing: T and R are all that counts steps",
                "R counts the steps of one visit, and there are B visits in a round.",
            ),
        ),
        answer=1,
    ),
)
