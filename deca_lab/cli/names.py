"""Every table of names that the options take, gathered for `deca-lab list`."""

from collections.abc import Mapping
from typing import Any

from deca_lab.registry import KINDS, about, load_plugins, resolved

WORDS = {  # of a part that may be left out, or whose docstring speaks to those who read the code
    "feedbacks": {"none": "The moments keep the local statistics alone."},
    "compressors": {"none": "Messages are whole."},
}
SERVED = "No graph: a server averages all clients, the reference that the papers do without."


def tables() -> dict[str, dict[str, str]]:
    """Return {table: {name: a few words}}; registered parts and plug-ins' are among them."""
    from deca_lab.mixing import topology
    from deca_lab.recipes import recipe
    from deca_lab.studies import papers

    load_plugins()
    listed: dict[str, dict[str, str]] = {}
    for kind in KINDS.values():
        own = WORDS.get(kind.title, {})
        words = listed.setdefault(kind.title, dict(own))
        words.update({**_described(resolved(kind.table)), **own})
    listed["topologies"][topology.SERVER] = SERVED
    listed["findings"] = {name: finding.says for name, finding in papers.FINDINGS.items()}
    listed["recipes"] = recipe.names()
    return listed


def _described(table: Mapping[str, Any]) -> dict[str, str]:
    return {name: about(part) for name, part in table.items() if part is not None}
