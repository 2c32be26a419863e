"""Shared settings: no network, and caches of the libraries in a folder that goes when the tests end."""

import os
import tempfile

SCRATCH = tempfile.TemporaryDirectory(prefix="deca-lab-tests-")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = SCRATCH.name
os.environ["MPLCONFIGDIR"] = SCRATCH.name
os.environ["MPLBACKEND"] = "Agg"
