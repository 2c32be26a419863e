"""What is freed in a run is kept by glibc, and given back when the run is over."""

import ctypes
import gc
import platform
import threading

import numpy as np
import psutil
import pytest

from deca_lab.lab import allocator, runs
from deca_lab.lab.allocator import keeping
from deca_lab.runconfig import RunConfig

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
BLOCK = 2**27


@pytest.fixture(autouse=True)
def alone():
    """Wait for a training that another test left behind."""
    for thread in threading.enumerate():
        if thread.name == "training":
            thread.join()


class Counts(ctypes.Structure):
    """What glibc calls mallinfo2: the fourth number counts mapped blocks."""

    _fields_ = [(f"number{k}", ctypes.c_size_t) for k in range(10)]


def is_mapped():
    """Say whether a large block that is asked for now is mapped for itself, by glibc's own count."""

    glibc = ctypes.CDLL(None)
    glibc.mallinfo2.restype, glibc.malloc.restype = Counts, ctypes.c_void_p
    before = glibc.mallinfo2().number3
    block = ctypes.c_void_p(glibc.malloc(ctypes.c_size_t(BLOCK)))
    after = glibc.mallinfo2().number3
    glibc.free(block)
    return after > before


def test_within_large_blocks_are_not_mapped_anew_and_afterwards_they_are():
    assert is_mapped()
    with keeping(0):
        assert not is_mapped()
    assert is_mapped()


def test_the_last_of_two_runs_gives_back():
    first, second = keeping(0), keeping(0)
    for begins in (first, second):
        begins.__enter__()
    first.__exit__(None, None, None)
    assert not is_mapped()
    second.__exit__(None, None, None)
    assert is_mapped()


def test_what_was_kept_goes_back_to_the_system():
    gc.collect()
    with keeping(0):
        np.ones(BLOCK // 8).sum()
        held = psutil.Process().memory_info().rss
    assert psutil.Process().memory_info().rss < held - BLOCK // 2


def test_nothing_is_done_where_memory_is_short_or_the_user_has_set_it_up(monkeypatch):
    monkeypatch.setattr(allocator, "free_memory", lambda: 2**30)
    with keeping(2**29):
        assert is_mapped()
    with keeping(2**28):
        assert not is_mapped()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    with keeping(0):
        assert is_mapped()


def test_a_run_keeps_memory_and_a_failed_one_gives_it_back(tmp_path):
    seen = []

    def look(done, steps, known):
        seen.append(is_mapped())
        raise KeyboardInterrupt

    config = RunConfig(model="tiny", corpus="markov", clients=2, context=16, batch=1, rounds=1)
    for out in (None, tmp_path / "r"):
        with pytest.raises(KeyboardInterrupt):
            runs.run(config, out, look)
    with pytest.raises(KeyboardInterrupt):
        runs.resume(tmp_path / "r", look)
    assert seen == [False] * 3
    assert is_mapped()
