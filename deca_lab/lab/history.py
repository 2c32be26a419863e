"""What a run leaves: tables, ledger and summary, in memory and as a folder that can be read back."""

import csv
import json
import os
from collections import Counter
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from deca_lab.algorithm.loop import State
from deca_lab.errors import BadInput, check
from deca_lab.files import SUMS, differing, read_text, sums, write_whole
from deca_lab.lab import glance, ledger
from deca_lab.lab.objects import with_objects
from deca_lab.lab.prepare import Lab
from deca_lab.methods import resolve
from deca_lab.mixing.matrix import Matrix
from deca_lab.mixing.topology import matrices_of, matrix_text, stacked
from deca_lab.models.four_bit import stored_bytes
from deca_lab.network.faults import fault_summary
from deca_lab.registry import resolved
from deca_lab.runconfig import OBJECT, RunConfig, from_json
from deca_lab.text.tasks import entropy_floor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = {  # of each table, those that no run is without
    "metrics": {"step", "round", "block", "test_loss", "validation_loss", "consensus"},
    "clients": {"step", "client", "test_loss", "own_loss"},
    "train": {"step", "block", "lr", "loss"},
    "visits": {"round", "position", "block", "first", "last"},
    "blocks": {"block", "parameters", "visits", "names"},
    "shards": set(),
    "edges": {"receiver", "sender", "measured", "predicted"},
    "timings": {"step", "seconds"},
}
TABLES = tuple(COLUMNS)
FILES = ("config.json", *(f"{name}.csv" for name in TABLES), "topology.csv", "summary.json")
UNSEALED = (
    "the folder has no SHA256SUMS (an older version wrote it): damage to a table may show nowhere"
)
# Named as text and imported when it is called, as the registry's tables are: pictures stand on a later layer, for they
# know histories, and a run that is never drawn loads no library for pictures.
PLOT = "deca_lab.pictures.jupyter:plot"


@dataclass(frozen=True)
class History:
    """One run. All losses in nats per token, all sizes in bytes.

    `metrics`: a row a measurement: step, round, block, losses of the mean model and of the clients', consensus
    distances, gradient norm, bytes sent, peak bytes. `clients`: step, client, test_loss, own_loss. `train`: a row an
    inner step: step, block, lr, loss (mean of the clients' batch losses). `visits`: round, position, block, first and
    last inner step. `blocks`: names, parameters, visits; what is frozen has no visits. `shards`: training rows, client x
    label. `edges`: receiver, sender, bytes measured and predicted. `timings`: seconds and process memory, the one
    table that differs between two equal runs. `W`: the mixing matrices, an array (period, N, N), or, of many clients
    with few edges, a tuple of SciPy's csr_array (N, N).

    `lab`: in memory, what a run with objects in place of names was made of, for no config can make it again; None for
    all other runs and for a folder that was read. It keeps the clients' start, which is N models, a copy of the model
    and the tokens of the text, 8 bytes each; of a fit nothing but the problem's own memory, on its own device.
    `dataclasses.replace(history, lab=None)` lets it go.
    """

    config: RunConfig
    metrics: pd.DataFrame
    clients: pd.DataFrame
    train: pd.DataFrame
    visits: pd.DataFrame
    blocks: pd.DataFrame
    shards: pd.DataFrame
    edges: pd.DataFrame
    timings: pd.DataFrame
    W: np.ndarray | tuple[Matrix, ...]
    summary: dict[str, Any]
    folder: Path | None = None
    lab: Lab | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return glance.line(self.summary, self.folder)

    def _repr_html_(self) -> str:
        """Return the summary as Jupyter shows it: a table without colours of its own."""
        return glance.table(self.summary, self.folder)

    def plot(self, name: str) -> "Figure":
        """Return a picture of the run as a matplotlib Figure, which `savefig` writes to a file.

        `name` is losses, consensus, heterogeneity, topology, visits or ledger. In a notebook it is
        shown as the last value of a cell. Raises BadInput for another name, and for a picture of
        what this run does not have, such as labels of its rows.
        """
        figure: Figure = resolved(PLOT)(self, name)
        return figure


@dataclass
class Record:
    """What a run has noted so far; it travels in the checkpoint, so that a resumed run ends with the same bits."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    clients: list[dict[str, Any]] = field(default_factory=list)
    train: list[dict[str, Any]] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)
    peak_bytes: int = 0  # of all tensors but activations
    whole_bytes: int = 0  # with activations
    fingerprint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    metric_names: list[str] = field(default_factory=list)  # the user's own
    stopped: bool = False  # early, by a callback
    writing: float = 0.0  # seconds that the last checkpoint took
    written_at: float = 0.0  # when, on this process's clock
    measuring: float = 0.0  # seconds of all measurements
    all_writing: float = 0.0  # and of all checkpoints
    labels: list[str] = field(default_factory=list)  # of the corpus, in order: a head's outputs

    def lasting(self) -> dict[str, Any]:
        """Return what equal runs share to the bit, for the checkpoint: all but what was read from a clock."""
        clocks = ("timings", "writing", "written_at", "measuring", "all_writing")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in clocks}

    @property
    def seconds(self) -> float:
        """Seconds of running up to the last measurement, over all parts of an interrupted run."""
        return float(self.timings[-1]["seconds"]) if self.timings else 0.0


def save(history: History, folder: Path) -> None:
    """Write every table into the run folder, with checksums; summary.json comes last, and says that all is there."""
    texts = {
        f"{name}.csv": getattr(history, name).to_csv(index=name == "shards", lineterminator="\n")
        for name in TABLES
    }
    texts["topology.csv"] = matrix_text(history.W)
    summary = json.dumps(history.summary, indent=1) + "\n"
    config = read_text(folder / "config.json", "the run folder's")
    texts[SUMS] = sums({"config.json": config, **texts, "summary.json": summary})
    for name, text in {**texts, "summary.json": summary}.items():
        write_whole(folder / name, text)


def save_timings(folder: Path, record: Record) -> None:
    """Write the timings noted so far."""
    text = pd.DataFrame(record.timings).to_csv(index=False, lineterminator="\n")
    write_whole(folder / "timings.csv", text)


def read_timings(folder: Path, measured: list[int]) -> list[dict[str, Any]]:
    """Return the timings noted at these inner steps; none where there is no such file.

    Raises BadInput where the file is damaged: no checksum is there before a run ends.
    """
    path = folder / "timings.csv"
    text = read_text(path, "the run folder's") if path.exists() else "\n"
    if text == "\n":  # an earlier part of the run went on without the file
        return []
    try:
        table = _table(text).astype({"step": int, "seconds": float})
        rows = table[table["step"] <= measured[-1]].to_dict("records")
        steps = [row["step"] for row in rows]
        if not text.endswith("\n") or steps != measured[len(measured) - len(steps) :]:
            raise ValueError("rows are missing")
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise BadInput(
            f"{str(path)!r} is damaged: {error}; without it the run goes on, and its clock starts again"
        ) from None
    return [{str(k): v for k, v in row.items()} for row in rows]


def load(folder: Path | str) -> History:
    """Return the history of a finished run's folder; raise BadInput where a file is missing or damaged."""
    check(isinstance(folder, str | os.PathLike), "folder", folder, "that of a finished run")
    folder = Path(folder)
    file = folder / "config.json"
    stored = from_json(read_text(file, "the run folder's"), str(file))
    own = stored.method.startswith(OBJECT)  # no file holds what an own method fixes
    config = stored if own else resolve(stored)
    try:
        texts = {name: read_text(folder / name, "the run folder's") for name in FILES}
        sealed = (folder / SUMS).exists()
        _require_sealed(folder, texts if sealed else {})
        tables = {name: _table(texts[f"{name}.csv"], name == "shards") for name in TABLES}
        W = stacked(matrices_of(texts["topology.csv"], "topology.csv", config.clients))
        summary = json.loads(texts["summary.json"])
        lacking = [f"{k}.csv" for k, table in tables.items() if not set(table) >= COLUMNS[k]]
        if lacking or not isinstance(summary, dict):
            raise ValueError(f"{' and '.join(lacking) or 'summary.json'} is damaged")
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        line = " ".join(str(error).split())  # pandas' words can have several lines
        raise BadInput(f"{str(folder)!r} does not hold a finished run: {line}") from None
    if not sealed:
        summary["notes"] = [*summary.get("notes", []), UNSEALED]
    return History(config=config, W=W, summary=summary, folder=folder, lab=None, **tables)


def _require_sealed(folder: Path, texts: dict[str, str]) -> None:
    """Raise ValueError unless these texts of a folder's files are as they were written."""
    changed = differing(texts, read_text(folder / SUMS, "the run folder's")) if texts else []
    if changed:
        raise ValueError(
            f"{', '.join(changed)} differs from its checksum in {SUMS}; where the checkpoint is "
            "there, deca-lab run --resume writes all tables again"
        )


def read_table(text: str, index: int | None = None) -> pd.DataFrame:
    """Return a table as it was written, to the last bit, which pandas before 3.1 does not do by itself."""
    old = [int(part) for part in pd.__version__.split(".")[:2]] < [3, 1]
    exactly: dict[str, Any] = {"float_precision": "round_trip"} if old else {}
    table: pd.DataFrame = pd.read_csv(StringIO(text), index_col=index, **exactly)
    return table


def _table(text: str, indexed: bool = False) -> pd.DataFrame:
    """Return a table; the first column of an `indexed` one names its rows."""
    index = 0 if indexed else None
    table = read_table(text, index)
    if index is None:
        return table
    names = next(csv.reader(StringIO(text)))[1:]  # pandas renames a label that is called "client"
    return table.set_axis(names, axis=1)


def gather(lab: Lab, state: State, record: Record, folder: Path | None) -> History:
    """Return the tables of a finished run."""
    names = [block.name for block in lab.plan.blocks]
    visits = [{**v._asdict(), "block": names[v.block]} for v in lab.plan.visits]
    labels = pd.DataFrame(lab.shards.label_counts, columns=list(lab.shards.label_names))
    tables = ("metrics", "clients", "train", "timings")
    return History(
        config=lab.config,
        **{name: pd.DataFrame(getattr(record, name)) for name in tables},
        visits=pd.DataFrame(visits),
        blocks=_block_table(lab),
        shards=labels.rename_axis("client"),
        edges=_edge_table(lab, state),
        W=stacked(lab.topology.matrices),
        summary=_summary(lab, state, record),
        folder=folder,
        lab=lab if lab.world.size == 1 and with_objects(lab.config) else None,
    )


def _block_table(lab: Lab) -> pd.DataFrame:
    visits = Counter(visit.block for visit in lab.plan.visits)
    parts = enumerate(zip(lab.plan.blocks, lab.plan.layouts, strict=True))
    rows = [(b.name, where.width, visits[k], " ".join(b.names)) for k, (b, where) in parts]
    sizes = {name: p.numel() for name, p in lab.model.named_parameters()}
    if lab.frozen:
        size = sum(sizes[name] for name in lab.frozen)
        rows.append(("frozen", size, 0, " ".join(lab.frozen)))
    return pd.DataFrame(rows, columns=["block", "parameters", "visits", "names"])


def _edge_table(lab: Lab, state: State) -> pd.DataFrame:
    predicted = ledger.traffic(lab.plan, state.step)
    receiver, sender = lab.plan.channel.links.T
    edges = {"receiver": receiver, "sender": sender, "measured": state.sent, "predicted": predicted}
    return pd.DataFrame(edges)[(predicted > 0) | (state.sent > 0)].reset_index(drop=True)


def _summary(lab: Lab, state: State, record: Record) -> dict[str, Any]:
    """Return the run in a few numbers, all of JSON's types."""
    last, losses = record.metrics[-1], ("test_loss", "test_perplexity")
    scores = {k: last[k] for k in last if k.startswith("test_") and k not in losses}
    learnt = _learnt(lab, state, record, scores)
    return {**learnt, **_spent(lab, state, record), **_set_up(lab, scores)}


def _learnt(lab: Lab, state: State, record: Record, scores: dict[str, Any]) -> dict[str, Any]:
    """Return what a run came to."""
    first, last = record.metrics[0], record.metrics[-1]
    return {
        "method": lab.config.method,
        "clients": lab.config.clients,
        "inner_steps": state.step,
        "test_loss_start": first["test_loss"],
        "test_loss_end": last["test_loss"],
        **_perplexities(start=first, end=last),
        "stopped_early": record.stopped,
        "own_metrics": {name: last[name] for name in record.metric_names},
        "task": lab.config.task if lab.objects.problem is None else "fit",
        "scores": scores,
        "majority": lab.majority,
        "client_test_loss_end": last["client_test_loss"],
        "consensus_end": last["consensus"],
    }


def _spent(lab: Lab, state: State, record: Record) -> dict[str, Any]:
    """Return the ledger's two columns, and what went wrong."""
    memory = {
        **ledger.memory(lab.plan)._asdict(),
        "measured_peak": record.peak_bytes,
        "with_activations": record.whole_bytes,
        "shared": _shared(lab),
    }
    return {
        "bytes_sent": int(state.sent.sum()),
        "bytes_predicted": int(ledger.traffic(lab.plan, state.step).sum()),
        "memory": memory,
        "faults": _faults(lab, state),
    }


def _set_up(lab: Lab, scores: dict[str, Any]) -> dict[str, Any]:
    """Return what the run was made of, and its notes."""
    unlike, on_text = lab.heterogeneity, lab.objects.problem is None
    return {
        "rho": lab.diagnosis.rho,
        "topology": lab.topology.name,
        "topology_note": lab.topology.note,
        "doctor": lab.diagnosis.verdict,
        "heterogeneity": unlike._asdict(),
        "heterogeneity_words": unlike.words() if on_text else unlike.gradient_words(),
        "entropy_floor": entropy_floor(lab.corpus),
        "corpus": lab.config.corpus,
        "fingerprint": lab.corpus.fingerprint,
        "notes": [*lab.notes, *_at_chance(scores.get("test_accuracy"), lab.majority)],
        "parameters": sum(w.width for w in lab.plan.layouts),
        "device": str(lab.device),
        "torch": torch.__version__,
        "deca_lab": version("deca-lab"),
    }


def _perplexities(**rows: dict[str, Any]) -> dict[str, float]:
    kept = {when: row for when, row in rows.items() if "test_perplexity" in row}
    return {f"test_perplexity_{when}": row["test_perplexity"] for when, row in kept.items()}


def _at_chance(accuracy: float | None, majority: float | None) -> list[str]:
    """Return the note about a run that learned no more than which label is the commonest."""
    if accuracy is None or majority is None or accuracy > majority:
        return []
    usual = f"{majority:.3f}, that of always naming the commonest label of the test set"
    return [f"at chance: the mean model's test accuracy {accuracy:.3f} is not above {usual}"]


def _faults(lab: Lab, state: State) -> dict[str, float | None]:
    """Return what went wrong; nothing where nothing was asked to."""
    if not lab.failing.any:
        return {}
    counts = fault_summary(lab.failing, lab.topology, lab.plan.steps, lab.plan.recipe.inner_steps)
    tallies = {"refused": 0, "mean_moved": 0.0, **state.wire.tallies}
    return {
        **counts,
        "refused": int(tallies["refused"]),
        "mean_moved": tallies["mean_moved"],
    }


def _shared(lab: Lab) -> int:
    """Return the bytes of the frozen base, which all clients share: 4 bits a weight where it is quantised."""
    stored = stored_bytes(lab.model)
    sizes = {name: p.numel() * p.element_size() for name, p in lab.model.named_parameters()}
    trained = sum(size for name, size in sizes.items() if name in lab.plan.problem.start)
    return int(stored.total - trained)
