"""Every table of names that the options take, gathered for `deca-lab list`."""

from collections.abc import Mapping
from typing import Any


def tables() -> dict[str, dict[str, str]]:
    """Return {table: {name: a few words}}."""
    from deca_lab import (
        blocks,
        claims,
        clients,
        corpora,
        graphs,
        messages,
        methods,
        models,
        moments,
        optimisers,
        schedules,
        shards,
        tasks,
        topology,
        weights,
    )

    return {
        "methods": {name: row.about for name, row in methods.METHODS.items()},
        "models": {name: row.about for name, row in models.PRESETS.items()},
        "tasks": {name: row.about for name, row in tasks.TASKS.items()},
        "corpora": _first_lines(corpora.CORPORA),
        "splits": _first_lines(shards.SPLITS),
        "topologies": {**_first_lines({**graphs.GRAPHS, **graphs.SEQUENCES}),
                       topology.SERVER: "No graph: a server averages all clients, the reference that the papers do without."},
        "weights": _first_lines(weights.WEIGHTS),
        "orders": _first_lines(blocks.ORDERS),
        "optimisers": _first_lines(optimisers.OPTIMISERS),
        "feedbacks": {"none": "The moments keep the local statistics alone.",
                      **_first_lines({name: signal for name, signal in moments.SIGNALS.items() if signal})},
        "feedback-scales": _first_lines(moments.SCALES),
        "compressors": {"none": "Messages are whole.", **_first_lines(messages.COMPRESSORS)},
        "schedules": _first_lines(schedules.SCHEDULES),
        "claims": {name: claim.says for name, claim in claims.CLAIMS.items()},
        "engines": _first_lines(clients.ENGINES),
    }


def _first_lines(table: Mapping[str, Any]) -> dict[str, str]:
    return {name: (getattr(entry, "__doc__", None) or "").strip().split("\n")[0] for name, entry in table.items()}
