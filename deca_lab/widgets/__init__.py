"""Pictures with controls: sliders in a live notebook, the same picture as it stands elsewhere."""

from deca_lab.widgets.editor import topology_editor

__all__ = ["topology_editor"]
