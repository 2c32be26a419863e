"""A process that ends, or a disk that is full, at every write of a run, a report and an export."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import CONFIG, Killed, bits, completed, copied, outcome, run_words

from deca_lab import files, pictures
from deca_lab.errors import BadInput
from deca_lab.lab import export, history, runs
from deca_lab.pictures import report

pytestmark = pytest.mark.slow


@contextmanager
def failing(at, error):
    """Raise `error` in place of the `at`-th step that puts a written file in its place; yield how many there were."""
    count, plain = [0], os.replace

    def replace(source, target):
        count[0] += 1
        if count[0] == at:
            if error is Killed:  # a real end leaves its half
                half = Path(source)
                half.with_name(half.name + "-left").write_bytes(half.read_bytes()[:7])
            raise error if error is Killed else OSError(error, os.strerror(error))
        plain(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        yield count


def writes_of(action):
    with failing(0, Killed) as count:
        action()
    return count[0]


def test_killed_at_every_write_of_a_run_it_ends_with_the_same_bits(whole, swift, tmp_path):
    due = writes_of(lambda: runs.run(CONFIG, tmp_path / "all"))
    assert due >= 1 + 2 * 4 + len(history.FILES)  # config, checkpoints with timings, tables
    for n in range(1, due + 1):
        folder = tmp_path / f"killed-{n}"
        with failing(n, Killed), pytest.raises(Killed):
            runs.run(CONFIG, folder)
        with pytest.raises(BadInput):
            history.load(folder)  # never half a run for a whole one
        completed(folder)
        assert bits(folder) == bits(whole), n
        assert not list(folder.glob(f".*{files.HALF}*")), n
        history.load(folder)


def test_killed_at_every_write_of_a_resumed_run_too(whole, swift, tmp_path):
    """Two deaths: at an inner step, and at each write of the life after it; then a third life."""
    begun = tmp_path / "begun"

    def kill(done, total, known):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        runs.run(CONFIG, begun, kill)
    due = writes_of(lambda: runs.resume(copied(begun, tmp_path / "all")))
    for n in range(1, due + 1):
        folder = copied(begun, tmp_path / "run")
        with failing(n, Killed), pytest.raises(Killed):
            runs.resume(folder)
        runs.resume(folder)
        assert bits(folder) == bits(whole), n
        history.load(folder)


def test_killed_after_every_inner_step_it_ends_with_the_same_bits(whole, swift, tmp_path):
    for n in range(1, len(history.load(whole).train) + 1):

        def kill(done, total, known, n=n):
            if done == n:
                raise Killed

        folder = tmp_path / f"killed-{n}"
        with pytest.raises(Killed):
            runs.run(CONFIG, folder, kill)
        completed(folder)
        assert bits(folder) == bits(whole), n


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_at_a_write_is_one_line_and_the_run_goes_on(
    whole, swift, tmp_path, capsys, monkeypatch, error
):
    monkeypatch.setattr(pictures, "png", lambda figure: b"drawn")  # the drawing takes the time
    due = writes_of(lambda: outcome(capsys, *run_words(tmp_path / "all")))
    for n in range(1, due + 1, 1 if error == errno.ENOSPC else due - 1):
        folder = tmp_path / f"{error}-{n}"
        with failing(n, error):
            said = outcome(capsys, *run_words(folder), says=f"cannot write .*{os.strerror(error)}")
        assert said == "refused"
        completed(folder)
        assert bits(folder) == bits(whole), n


def test_a_report_that_is_broken_off_is_written_again_with_the_same_bytes(
    whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(pictures, "png", lambda figure: b"drawn")
    folder = copied(whole, tmp_path / "run")
    due = writes_of(lambda: report.write(history.load(folder), folder))
    page, before = (folder / "report.html").read_bytes(), bits(folder)
    for n in range(1, due + 1):
        with failing(n, Killed), pytest.raises(Killed):
            report.write(history.load(folder), folder)
        report.write(history.load(folder), folder)
        assert (folder / "report.html").read_bytes() == page
        assert bits(folder) == before


@pytest.mark.parametrize("place", ["while it is written", "before it is put in its place"])
def test_an_export_that_is_broken_off_leaves_nothing_that_loads_and_can_be_repeated(
    whole, tmp_path, monkeypatch, place
):
    folder = copied(whole, tmp_path / "run")

    def kill(*given, **more):
        raise Killed

    name = "_whole" if place == "while it is written" else "shutil"
    if name == "_whole":
        monkeypatch.setitem(export.FORMS, "model", kill)
    else:
        monkeypatch.setattr(export.shutil, "rmtree", kill)
    with pytest.raises(Killed):
        export.export_model(folder, out=folder / "out")
    monkeypatch.undo()
    assert not [path for path in (folder / "out").iterdir() if path.name != files.LOCK]
    export.export_model(folder, out=folder / "out")
    assert {"config.json", "model.safetensors"} <= {p.name for p in (folder / "out").iterdir()}
    assert (folder / "out").stat().st_mode & 0o777 == (folder.parent / "run").stat().st_mode & 0o777
    assert bits(folder) == bits(whole)


def test_a_full_disk_in_the_middle_of_a_checkpoint(whole, tmp_path):
    """The limit of a file's size, in a process of its own: the write itself fails, not the last step."""
    resource = pytest.importorskip("resource")
    child = os.fork()
    if child == 0:
        code = 3
        try:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            size = (whole / "checkpoint.safetensors").stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            runs.run(CONFIG, tmp_path / "run")
        except BadInput as error:
            code = 0 if "cannot write" in str(error) and "\n" not in str(error) else 4
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not list((tmp_path / "run").glob(f".*{files.HALF}*"))
    completed(tmp_path / "run")
    assert bits(tmp_path / "run") == bits(whole)
