"""Quiz of lesson 7: low-rank factors, what mixing does to their products, and the 4-bit base."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "Two clients with factors that are single numbers: A = 1, B = 1 at one, A = -1, B = -1 at the other. Both have the "
        "product B A = 1. They average A and B apart. Which product do they hold then?",
        (
            (
                "1: where both agree, an average changes nothing",
                "they agree on the product, but it is the factors that are averaged, and these are opposite.",
            ),
            (
                "0",
                "both means are 0. The same product has many factors, and averaging knows nothing of that: this is consensus "
                "interference, here as large as the product itself.",
            ),
            ("1/2", "a half would come of one factor shrinking to a half. Here both means vanish."),
        ),
        answer=1,
    ),
    Question(
        "All clients keep A at the common start and train B only. How large is the interference after many steps on very "
        "different data?",
        (
            (
                "Zero, however different the data",
                "with a common A the product is linear in B, so the mean of products is the product of means. The identity has "
                "the factor A_j - Abar, and it is zero.",
            ),
            (
                "About half of what it is when both train",
                "interference is a product of both spreads, not a sum. If one of them is zero, so is it.",
            ),
            (
                "As large as before: all the difference now sits in B",
                "B may differ as much as it likes; without a difference in A it meets nothing to multiply with.",
            ),
        ),
        answer=0,
    ),
    Question(
        "LoRA's common start has B = 0. Every client takes one step without weight decay, on its own data, with SGD. How large "
        "is the interference now?",
        (
            (
                "Large: the first step is the one in which the clients part",
                "they part in B only. Two spreads are needed.",
            ),
            (
                "Of the order of the learning rate squared: both factors have moved by one step",
                "a small step in both would give that. But look at the gradient with respect to A: B' times something.",
            ),
            (
                "Zero",
                "the gradient with respect to A has the factor B = 0, so A has not moved and is still common to all. "
                "Interference can start with the second step.",
            ),
        ),
        answer=2,
    ),
    Question(
        "DeCAF averages the products over the neighbourhood and cuts the result back to the rank by truncated SVD. Is the "
        "network's mean product kept, as plain gossip keeps the mean of a matrix?",
        (
            (
                "Yes: products are averaged with a doubly stochastic W",
                "the averaging keeps the mean, the cut does not. Three clients of rank 8 give a mean of rank up to 24, and 16 "
                "singular values go.",
            ),
            (
                "Not quite: it moves by at most the clients' mean error of cutting",
                "each client's error is the root of the sum of its squared singular values past the rank. Where neighbours' "
                "products share one space of that rank, nothing is lost.",
            ),
            (
                "No, and nothing can be said of the error",
                "the error of the best cut is known exactly (Eckart and Young), and the mean of these errors bounds how far the "
                "mean product moves.",
            ),
        ),
        answer=1,
    ),
    Question(
        "You store the base in 4 bits (NF4) instead of 16. Which of these falls to about a quarter?",
        (
            (
                "The bytes sent",
                "the base is never sent: it is frozen and common to all. What travels are the factors, in full precision.",
            ),
            (
                "The memory of factors and moments",
                "they train, so they stay in full precision. A step smaller than the spacing of 16 levels would be lost.",
            ),
            (
                "The memory of the frozen base",
                "4 bits a weight and a scale for every 64 of them: 4.5 bits here. The rest is as before, and each product first "
                "unpacks its weight, which takes time.",
            ),
            (
                "The time of a step: fewer bits to compute with",
                "weights are unpacked and multiplied in full precision. There is more to do, not less.",
            ),
        ),
        answer=2,
    ),
)
