"""Pictures with controls: sliders in a live notebook, the same picture as it stands elsewhere."""

from deca_lab.course.widgets.dashboard import training_dashboard
from deca_lab.course.widgets.dealing import shard_picture
from deca_lab.course.widgets.editor import topology_editor
from deca_lab.course.widgets.majority import majority_rule
from deca_lab.course.widgets.microscope import moment_microscope
from deca_lab.course.widgets.paths import quadratic_paths
from deca_lab.course.widgets.scheduler import block_scheduler

__all__ = [
    "block_scheduler",
    "majority_rule",
    "moment_microscope",
    "quadratic_paths",
    "shard_picture",
    "topology_editor",
    "training_dashboard",
]
