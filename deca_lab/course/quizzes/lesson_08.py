"""Quiz of lesson 8: when decentralised training fails."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "On a directed ring every client hands its whole model on and keeps nothing of its own. W is doubly stochastic. Nobody "
        "trains. How large is the disagreement after 100 mixings?",
        (
            (
                "As large as at the start",
                "the models change hands, nothing is averaged: rho = 1. If everyone keeps a half, the models do come together.",
            ),
            (
                "Nearly zero: after N mixings everybody has met every model",
                "met and passed on. To meet is not to average.",
            ),
            (
                "It has grown",
                "W is a permutation. It moves rows about and changes no distance to their mean.",
            ),
        ),
        answer=0,
    ),
    Question(
        "A CSV holds the ring's shares as 0.34 instead of 1/3. All clients start with one and the same model. Nobody trains. "
        "What do they hold after 100 mixings?",
        (
            (
                "The same model: averaging models that agree changes nothing",
                "averages do not, but these shares sum to 1.02, which is no average.",
            ),
            ("A model 2 % too large", "that is one mixing. The next one starts from there."),
            (
                "A model about seven times too large",
                "1.02 to the power of 100 is 7.2. The clients agree perfectly all the time, so a plot of the consensus distance "
                "alone looks healthy.",
            ),
        ),
        answer=2,
    ),
    Question(
        "A client of a ring with shares of a third dies. Which repair keeps the mean of those who are left?",
        (
            (
                "Its two neighbours divide their rows by the sum that is left, 2/3",
                "then they give 1/2 to themselves and 1/2 to the other neighbour, who gives 1/3 back: the columns no longer sum "
                "to one, and the mean drifts.",
            ),
            (
                "Its two neighbours add its share to their own",
                "W stays symmetric with rows that sum to one, so its columns do too. The ring is a path now, and mixes more "
                "slowly.",
            ),
            (
                "Its two neighbours go on with the last model they had of it",
                "a model that never changes is an anchor: without training all would end at the dead client's model.",
            ),
        ),
        answer=1,
    ),
    Question(
        "Clients with strongly skewed text mix after every 48th inner step instead of every one. The number of inner steps "
        "stays. What is sure?",
        (
            (
                "The test loss ends higher",
                "it may, but it is not sure. A mean of models that have gone apart for a while can be good; how far one can go "
                "must be measured.",
            ),
            (
                "Nothing changes in the end: mixing keeps the mean",
                "it keeps the mean at the moment of mixing. Gradients in between are taken at other points, so the mean goes "
                "another way.",
            ),
            (
                "The bytes sent fall to a 48th",
                "this alone follows from the plan. Expect much more disagreement just before each mixing, and less control over "
                "where the mean goes; whether the loss suffers depends on skew and learning rate.",
            ),
        ),
        answer=2,
    ),
    Question(
        "In the counter-example two clients run AMSGrad, each with a second moment of its own, and mix parameters. Their mean "
        "model goes to 0.5; the solution is 1/3. You divide the learning rate by 100 and run 100 times as long. Where does it "
        "go?",
        (
            (
                "To 0.5 again",
                "the clients' steps cancel at 0.5 because each divides by its own number, and that does not depend on the "
                "learning rate. Tracking a common second moment mends it: then the end comes near 1/3 as the rate falls.",
            ),
            (
                "To 1/3: a small enough step always finds a stationary point",
                "the point where the steps cancel is not where the gradients do. Shorter steps find the wrong point more "
                "precisely.",
            ),
            (
                "It diverges",
                "the steps are short and bounded, and they cancel at 0.5. It settles, in the wrong place, without any sign of "
                "trouble.",
            ),
        ),
        answer=0,
    ),
)
