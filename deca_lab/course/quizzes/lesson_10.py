"""Quiz of lesson 10: the papers' tables at small scale, and what the papers do not say."""

from deca_lab.course.quizzes.quiz import Question

QUESTIONS = (
    Question(
        "A table, as you have it, gives 79.32 for one method and 75.52 for another: one number each, no spread, no number of "
        "seeds. What does it tell about another seed?",
        (
            (
                "The first will win again: 3.8 points are a lot",
                "a lot compared with what? Without the spread over seeds nobody can say whether 3.8 is ten times chance or a "
                "half of it.",
            ),
            (
                "Little: the size of chance is not given",
                "a difference has to be judged by how it varies. Ask for seeds, and for the interval of the difference on the "
                "same seeds.",
            ),
            (
                "Nothing at all: the figures are worthless",
                "they are what was measured once, and a good reason to look. They bound nothing, but they say what to try to "
                "repeat.",
            ),
        ),
        answer=1,
    ),
    Question(
        "DECA against Dec-LoRA on three seeds: the paired difference of the test loss is -0.025, 95 % interval -0.059 to +0.010. "
        "What may you write?",
        (
            (
                "DECA is better: its mean loss is lower",
                "the mean of three seeds is lower. The interval says that no difference, or a small one the other way, would "
                "give such data too.",
            ),
            (
                "There is no difference: the interval holds zero",
                "it holds -0.05 as well. Not to have seen a difference is not to have seen that there is none.",
            ),
            (
                "Undecided with three seeds",
                "the data go with anything from a clear gain to a slight loss. More seeds make the interval narrower; choosing "
                "seeds until it leaves zero does not.",
            ),
        ),
        answer=2,
    ),
    Question(
        "Over seeds, each method's loss has a standard deviation of about 0.06, mostly because every seed draws its own test "
        "text. Which interval of the difference is narrower?",
        (
            (
                "The one of paired differences, seed by seed",
                "a hard test text is hard for both methods and cancels in the difference. With three seeds the paired half-width "
                "was about 0.035; unpaired it would have been about 0.13.",
            ),
            (
                "The unpaired one: it uses six numbers, the paired one only three",
                "it has more degrees of freedom, but it takes the test texts' spread for uncertainty about the methods.",
            ),
            (
                "Both are equal: the difference of means is the mean of differences",
                "the centre is the same, the width is not.",
            ),
        ),
        answer=0,
    ),
    Question(
        "At a learning rate of 0.001 the run with feedback (b1 = 0.9) ends lower than the one without. Does the feedback help?",
        (
            (
                "Yes: all else was equal",
                "the learning rate was equal, the steps were not: b1 and b2 change how long they are. Equal knobs are not equal "
                "conditions.",
            ),
            (
                "No: so small a learning rate proves nothing",
                "it proves nothing either way. A verdict takes each arm at its own best rate.",
            ),
            (
                "Not known: each arm needs a search of its own, and several horizons",
                "otherwise an effect of the step's length is read as one of the feedback. And where the best rate lies at the "
                "edge of the grid, the search is not finished.",
            ),
        ),
        answer=2,
    ),
    Question(
        "With the opposite sign of h, your small runs end lower than with the printed one. Does that refute the paper?",
        (
            (
                "No: sign and scale are known to us from one transcription, and the runs are small",
                "it is a finding about one reading under your conditions. Say which reading, which model, how many steps and "
                "seeds.",
            ),
            (
                "Yes: the printed form is worse than another one",
                "worse here, in a small model and a short run. The paper speaks of other models and tasks, and perhaps means "
                "another form.",
            ),
            (
                "Yes: the sign is plainly a misprint",
                "perhaps it is one, of the paper or of those who copied it. Your runs cannot tell which; only the authors' text "
                "or code can.",
            ),
        ),
        answer=0,
    ),
)
