"""Quiz of lesson 1: labels, shards, and how non-IID is non-IID."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "The Dirichlet split deals the rows of each label to the clients in proportions from Dir(alpha). You lower alpha from "
        "100 to 0.1. What happens to the sizes of the shards?",
        (
            (
                "They stay equal: alpha changes which labels a client sees, not how much",
                "nothing in the recipe fixes a client's total. It is the sum of what it got of each label, and these parts vary "
                "more as alpha falls.",
            ),
            (
                "They become uneven as well",
                "each label is dealt in proportions of its own. With a small alpha a label goes nearly whole to one or two "
                "clients, so who wins several labels is rich and who wins none is poor.",
            ),
            (
                "All shrink: rows that fit no client are thrown away",
                "every row is dealt. What one client does not get, another does.",
            ),
        ),
        answer=1,
    ),
    Question(
        "Alpha grows without bound. In the corpus one label has nine times the rows of the other. Which labels does a client see "
        "in the end?",
        (
            (
                "Nine to one, as in the corpus",
                "the proportions in which a label is dealt go to 1/N each, so every client gets an N-th of each label. Every "
                "shard is then a small copy of the corpus, its imbalance included.",
            ),
            (
                "Half and half",
                "even proportions are those of the clients in one label, not those of the labels in one client. Everyone gets "
                "the same share of a large label and of a small one.",
            ),
            (
                "One label each",
                "this is the other end, alpha near zero, where a label goes nearly whole to one client.",
            ),
        ),
        answer=0,
    ),
    Question(
        "Two clients have equally many rows; one holds label A only, the other label B only. The meter gives the mean total "
        "variation between a client's labels and the mean mix. What does it read?",
        (
            (
                "1, for they have nothing in common",
                "1 is the distance between the two clients. The meter compares each with the mean mix, to which it belongs "
                "itself; with N clients it never exceeds 1 - 1/N.",
            ),
            (
                "0.25",
                "here the half was taken twice. The differences are 1/2 and 1/2, their sum is 1, and total variation is half of "
                "that sum.",
            ),
            (
                "0.5",
                "the mean mix is half and half. Either client would have to change the label of half of its rows to show it.",
            ),
        ),
        answer=2,
    ),
    Question(
        "With the split 'quantity' the sizes of the shards are drawn from Dir(0.25), and the labels are dealt at random. Some "
        "shards are ten times as large as others. What does the meter of label divergence say?",
        (
            (
                "Strongly non-IID, for the shards could hardly be less alike",
                "they differ in size. The meter compares frequencies, and these are the same for all but for chance.",
            ),
            (
                "IID in effect, unless a shard is tiny",
                "sizes differ, mixes do not. Only the chance of small numbers is left: a shard of a few rows cannot show every "
                "label's frequency.",
            ),
            (
                "Something between: large shards pull the mean mix towards themselves",
                "in this meter every client counts the same, and where all mixes are alike it would not matter how they are "
                "weighted.",
            ),
        ),
        answer=1,
    ),
    Question(
        "The labels of your shards show 60 % of the largest possible divergence, their bytes only 3 %. Are the shards hard for "
        "decentralised training?",
        (
            (
                "Hard: labels decide",
                "a label is a name that somebody gave. Two packages of Python code have different labels and nearly the same "
                "bytes; the model reads the bytes.",
            ),
            (
                "Easy: the model reads bytes, and these are nearly the same everywhere",
                "single bytes may be equally frequent while their order, which is what a language model learns, is not.",
            ),
            (
                "Neither figure decides; look at how far the clients' gradients differ, zeta squared",
                "an optimiser sees gradients. Their spread around the mean gradient is what the bounds of lesson 9 ask for, and "
                "it belongs to a model and a moment.",
            ),
        ),
        answer=2,
    ),
)
