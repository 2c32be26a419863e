"""Any sequence of commands on a run folder, and any knobs together; longer with --hostile-seconds N."""

import shutil
from dataclasses import fields

import pytest
from command import options
from harness import (
    CONFIG,
    TINY,
    Killed,
    bits,
    completed,
    copied,
    counted,
    outcome,
    run_words,
    searched,
    tried,
)
from hypothesis import strategies as st

from deca_lab import files, pictures
from deca_lab.cli.choices import choices
from deca_lab.lab import export, history, runs
from deca_lab.pictures import report
from deca_lab.runconfig import RunConfig

pytestmark = pytest.mark.slow

TABLES = [name for name in history.FILES if name != "config.json"]


def run(folder, n):
    runs.run(CONFIG, folder)


def killed(folder, n):
    """Go on with the run, or begin it, and die after n more inner steps."""
    lives = [0]

    def watch(done, total, known):
        lives[0] += 1
        if lives[0] > n % 4:
            raise Killed

    if (folder / "config.json").exists():
        runs.resume(folder, watch)
    else:
        runs.run(CONFIG, folder, watch)


def resume(folder, n):
    runs.resume(folder)


def damage(folder, n):
    """Cut a table; what is damaged is named by who reads it, and mended by a resumed run."""
    path = folder / TABLES[n % len(TABLES)]
    if path.exists():
        path.write_bytes(path.read_bytes()[: 7 * n])


def damage_checkpoint(folder, n):
    path = folder / "checkpoint.safetensors"
    if path.exists():
        whole = path.read_bytes()
        path.write_bytes(whole[: n * 37] + b"!" + whole[n * 37 + 1 :])


def forget(folder, n):
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)


def half(folder, n):
    """Leave what a killed writer leaves."""
    folder.mkdir(exist_ok=True)
    (folder / f".{TABLES[n % len(TABLES)]}{files.HALF}x{n}").write_bytes(b"half")


def reported(folder, n):
    report.write(history.load(folder), folder)


def exported(folder, n):
    export.export_model(folder, out=folder / f"export-{n % 2}")


COMMANDS = [run, killed, resume, damage, damage_checkpoint, forget, half, reported, exported]


def lived(folder, steps, whole):
    """Do these steps; each is right, or refused in one line, and whatever is read as finished has the run's own numbers."""
    for command, n in steps:
        try:
            _, refusal = tried(command, folder, n)
            counted(f"a step: {command.__name__}", "refused in one line" if refusal else "done")
        except Killed:
            assert command is killed
            counted("a step: killed", "killed")
        read, _ = tried(history.load, folder)
        for name in ("metrics", "clients", "train", "edges") if read else ():
            assert getattr(read, name).equals(getattr(whole, name)), (command.__name__, n)


def ended(folder, whole):
    """Whatever happened, the run goes on to the bits of an unbroken one, or says which file it needs."""
    _, refusal = tried(completed, folder)
    if refusal:
        assert "checkpoint" in refusal or "timings.csv" in refusal, refusal
    else:
        assert bits(folder) == bits(whole)
    end = "the file it needs is named" if refusal else "ended with the same bits"
    counted("a sequence of steps, then a resume", end)


def test_any_sequence_of_commands_keeps_a_run_whole_or_says_so(
    whole, swift, tmp_path, monkeypatch, request
):
    monkeypatch.setattr(pictures, "png", lambda figure: b"drawn")
    read, begun = history.load(whole), []

    def lives(steps):
        begun.append(1)
        folder = tmp_path / str(len(begun))
        lived(folder, steps, read)
        ended(folder, whole)
        shutil.rmtree(folder, ignore_errors=True)

    steps = st.lists(st.tuples(st.sampled_from(COMMANDS), st.integers(0, 40)), max_size=7)
    searched(lives, steps, request.config.getoption("--hostile-seconds"), 12)


WILD = {  # by the type of a knob's default
    int: [-1, 0, 1, 2, 3, 64, 10**30, 0.5, "nan", "", "²"],
    float: [-1, 0, 0.3, 1, 1e-300, 1e308, "nan", "-inf", "x", "1_0"],
    str: [
        "",
        " ",
        "x",
        "ring",
        "none",
        "0",
        "3@0.5",
        "x" * 3000,
        "a\nb",
        "ß",
        "..",
        "/dev/null",
        "*",
    ],
}
KNOBS = {
    f.name: [*choices(f.name), *WILD.get(type(f.default), [True])]
    for f in fields(RunConfig)
    if f.name not in ("hub_split", "hub_revision")
}


def some_knobs():
    """Two to five knobs, each with a value that it knows or one that nobody would give."""
    one = st.sampled_from(sorted(KNOBS)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(KNOBS[name]))
    )
    return st.lists(one, min_size=2, max_size=5, unique_by=lambda pair: pair[0])


def forecast(capsys, knobs):
    """Prepare a run with these knobs as `run --dry-run` does, and judge it."""
    flags = [f"--{n.replace('_', '-')}" for n, v in knobs.items() if v is True]
    given = options(**{n: v for n, v in knobs.items() if not isinstance(v, bool)})
    return outcome(capsys, "run", "--dry-run", *flags, *given)


def test_any_knobs_together_are_laid_out_or_refused_in_a_line(capsys, request):
    def one(pairs):
        counted("knobs of run --dry-run", forecast(capsys, {**TINY, **dict(pairs)}))

    searched(one, some_knobs(), request.config.getoption("--hostile-seconds"), 25)


def test_the_harness_itself_knows_a_fourth_outcome(whole, tmp_path):
    """A silent change of a finished run's numbers is caught by what the sequences look at."""
    folder = copied(whole, tmp_path / "run")
    (folder / files.SUMS).unlink()  # as of a version without checksums
    text = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join(text[:-1]) + "\n")
    with pytest.raises(AssertionError):
        lived(folder, [(half, 0)], history.load(whole))
    assert run_words(folder)[0] == "run"
