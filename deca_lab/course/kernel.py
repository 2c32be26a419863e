"""The kernel of the Python that runs us, even if the user has others, and the environment that it gets."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from deca_lab.course.place import PACKAGE

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

COURSE = (
    "jupyterlab",
    "ipywidgets",
    "anywidget",
    "papermill",
)  # the extra `course`: whoever only runs does without
# Errors only: ipykernel warns of local connections at every start.
QUIET = ["--IPKernelApp.log_level=40"]


def kernel() -> "AsyncKernelManager":
    """Return a manager of an ipykernel in sys.executable; kernel specs of the user's are not looked at."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    return AsyncKernelManager(
        kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
    )


def environment(threads: int = 0, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a kernel that runs without a reader: static figures, this deca_lab, `threads` if not 0."""
    env = checkout_first(os.environ if given is None else given)
    # Inherited from a notebook that runs us, it would promise a front end.
    env.pop("JPY_SESSION_NAME", None)
    env["DECA_LAB_WIDGETS"] = "off"
    return env | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def checkout_first(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` with this checkout on the Python path, so that a kernel elsewhere imports this deca_lab."""
    house = PACKAGE.parent
    if house.name in ("site-packages", "dist-packages"):
        return dict(env)
    return {
        **env,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(house), env.get("PYTHONPATH", "")])),
    }
