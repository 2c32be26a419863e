"""Quiz of lesson 12: a text and a model of your own, and what a score must beat."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "You sort the test rows by their largest overlap with a training row. The curve rises slowly to 0.3, and the last tenth "
        "of the rows stand at 0.9 and above. The test loss is lower than you had hoped. What comes first?",
        (
            (
                "The loss may be reported: all methods meet the same rows",
                "that makes a comparison fair, and the loss itself still too low: a tenth of the test was in the training text.",
            ),
            (
                "Train longer, until the loss no longer falls",
                "the copies are then known by heart, and the loss flatters even more.",
            ),
            (
                "Read these pairs, take the copies out, and measure again",
                "the gap says where to look, and your eyes say what is a copy. The loss on the rest is the one to report.",
            ),
        ),
        answer=2,
    ),
    Question(
        "There are four labels, and 60 % of the rows have the first. A model calls every row by it. What are its accuracy and "
        "its macro-F1?",
        (
            (
                "0.60 and about 0.19",
                "the label that is always said has 2 x 0.6 / 1.6 = 0.75, the three others have 0, and their mean is 0.1875.",
            ),
            (
                "0.60 and 0.75",
                "0.75 is F1 of the one label that is said. The three that never are have 0, and count alike.",
            ),
            (
                "0.25 and 0.25, as if it had guessed",
                "a guess among four would be right for a quarter of the rows. This answer is right for all of the first label.",
            ),
        ),
        answer=0,
    ),
    Question(
        "In training, the loss of the right label falls from 2.5 to 0.5 nats, and the accuracy rises from 0.09 to 0.29. When "
        "has the model learnt to tell the rows apart?",
        (
            (
                "Now: both have moved by far more than the noise of the rows",
                "they have moved because the model knows the labels' bytes and which of them is common. No row had to be read "
                "for that.",
            ),
            (
                "Once it beats whoever says the commonest label always, on several seeds",
                "that is the line which needs no reading. One seed may cross it by chance.",
            ),
            (
                "Once the loss is below the logarithm of the number of labels",
                "that is the loss of one who guesses evenly. Who knows how common each label is gets below it without reading.",
            ),
        ),
        answer=1,
    ),
    Question(
        "You go from 6 clients on a ring to 12, with the same model, blocks and inner steps for each. Which figure of the "
        "forecast does not double?",
        (
            (
                "The bytes that are sent in the whole run",
                "each client still has two neighbours and sends as much as before, and there are twice as many.",
            ),
            (
                "What the clients hold",
                "each has its own copy of what is trained, and its own moments of the active block.",
            ),
            (
                "The model as it is loaded",
                "it is read once for all of them. For one client it is half of what is held, for a crowd next to nothing.",
            ),
        ),
        answer=2,
    ),
    Question(
        "Six clients of one firm have plenty of text each, of the same kind. Trained alone for equal steps, they end at 1.32 to "
        "1.34 nats on the common test text, and together at 1.31. What do you tell the firm?",
        (
            (
                "Connect them: together is better for every client",
                "by a hundredth of a nat, which other batches may take away. Ask what it costs, and repeat with other seeds.",
            ),
            (
                "Alone is nearly as good: shards that are alike have little to gain",
                "what one lacks, the others lack as well. A link pays where text is little, or unlike what will be asked for.",
            ),
            (
                "Decentralised training does not work on their text",
                "it does work: it lost nothing. There was just little to win.",
            ),
        ),
        answer=1,
    ),
)
