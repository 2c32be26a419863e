"""Shared settings: no network, caches of the libraries in a folder that goes when the tests end, a core for each worker."""

import os
import tempfile

from browser import browser as browser

SCRATCH = tempfile.TemporaryDirectory(prefix="deca-lab-tests-")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = SCRATCH.name
os.environ["MPLCONFIGDIR"] = SCRATCH.name
os.environ["MPLBACKEND"] = "Agg"

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser):
    parser.addoption(
        "--hostile-seconds",
        type=float,
        default=0.0,
        help="of random inputs for each half of tests/hostile/test_sequences.py; a few when 0",
    )
