"""Quiz of lesson 6: DECA whole, line by line."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "On the complete graph (every share 1/N) you run DECA once with adapt then combine and once with combine then adapt. "
        "What is the active block's consensus distance after an inner step?",
        (
            (
                "Zero in both: everyone hears everyone",
                "everyone does, but with combine then adapt the clients take their own steps after the mixing, and these are "
                "what you measure.",
            ),
            (
                "Zero with adapt then combine; as far as the steps differ with combine then adapt",
                "W = J makes all rows equal at once. Whatever comes last decides: a mixing leaves agreement, a local step leaves "
                "disagreement.",
            ),
            (
                "Equal in both and above zero: the order of two linear steps does not matter",
                "W (X - lr D) and W X - lr D are not equal. In the second the directions D are not mixed.",
            ),
        ),
        answer=1,
    ),
    Question(
        "Which setting gives, to the last bit, DECA without feedback?",
        (
            (
                "feedback = zero",
                "nothing is fed in, but m and v are still multiplied by b1 and b2 after every step, and forget faster.",
            ),
            (
                "b1 = b2 = 0",
                "then m = h and v = h*h: the moments hold the discrepancy alone, and every gradient is forgotten after one step.",
            ),
            (
                "A feedback scale of 1 / lr",
                "this makes h as large as a gradient, and its effect larger, not smaller.",
            ),
            (
                "b1 = b2 = 1",
                "m = 1 m+ + 0 h, whatever h is: the decays of the feedback switch it off. The ablation with feedback = none is "
                "the same run.",
            ),
        ),
        answer=3,
    ),
    Question(
        "You keep each block's moments for its next visit instead of restarting them (--moments keep). What happens to memory?",
        (
            (
                "It grows: m and v of every visited block stay",
                "gradient and neighbours' average still exist for the active block only. But the two moments then take as much "
                "as in full-parameter Adam.",
            ),
            (
                "It stays: only one block trains at a time",
                "only one trains, but the moments of the others have to lie somewhere until their turn comes.",
            ),
            (
                "It falls: nothing has to be allocated at a visit's start",
                "what was allocated before and never freed is not saved, it is held.",
            ),
        ),
        answer=0,
    ),
    Question(
        "In one inner step you mix twice with the same doubly stochastic W instead of once. What does the second mixing do to "
        "the mean model in that step?",
        (
            (
                "It moves it further along the step",
                "the step is taken before the mixing, and its length does not depend on how often one mixes.",
            ),
            (
                "It pulls it back towards the old mean",
                "mixing knows of no old mean. It averages what the clients hold now.",
            ),
            (
                "Nothing",
                "columns that sum to one keep the mean through any number of mixings. Only local steps move it; the second "
                "mixing acts on it later, through gradients (and a feedback h) at clients that lie closer together.",
            ),
        ),
        answer=2,
    ),
    Question(
        "T = 4 and R = 48 become T = 8 and R = 24. Same blocks and graph. Which of these changes?",
        (
            (
                "The bytes sent: twice as many rounds",
                "each round is half as long. T B R inner steps, one message each on every edge: the product is what it was.",
            ),
            (
                "How often moments restart, and how long a block waits for its next visit",
                "twice the restarts, half the wait; steps and bytes are equal. Short visits spend more of their steps near the "
                "restart, where Adam's direction is close to a sign.",
            ),
            (
                "The peak memory: shorter visits hold less",
                "m and v have the block's size at every inner step, the first and the forty-eighth.",
            ),
        ),
        answer=1,
    ),
)
