"""Every knob of a run, with its unit and its group: the one source of the command line's options and of config.json.

Nothing heavy is imported here, so that `deca-lab run --help` answers at once.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from inspect import cleandoc
from typing import Any

from deca_lab.errors import BadInput, check, pick

OBJECT = "object:"  # begins a knob in whose place an object was given

Allowed = tuple[Callable[[Any], bool], str]  # a test of the value, and the same in words

POSITIVE: Allowed = (lambda v: 0 < v <= 3e38, "greater than 0, at most 3e38")
LARGEST = 10**6  # of what is counted: larger numbers are slips, which would fill the memory unseen
COUNT: Allowed = (lambda v: 1 <= v <= LARGEST, f"1 or more, at most {LARGEST:,}")
STEPS: Allowed = (lambda v: 0 <= v < 10**12, "0 or more, below 10**12")
RATE: Allowed = (lambda v: 0 <= v <= 3e38, "0 or more, at most 3e38, as large as float32 goes")
BETA: Allowed = (lambda v: 0 <= v < 1, "at least 0 and below 1")
SEED: Allowed = (lambda v: 0 <= v < 2**63, "at least 0 and below 2**63")
SHARE: Allowed = (lambda v: 0 <= v <= 1, "between 0 and 1")
SOME: Allowed = (lambda v: 0 < v <= 1, "greater than 0 and at most 1")
FEW: Allowed = (lambda v: 1 <= v <= 64, "from 1 to 64")
BITS: Allowed = (lambda v: 2 <= v <= 16, "from 2 to 16")
HELD_OUT: Allowed = (lambda v: 0 < v < 1, "between 0 and 1, both excluded")


def knob(default: Any, group: str, text: str, allowed: Allowed | None = None) -> Any:  # noqa: ANN401 - any field
    """Return a dataclass field that carries its group, its help and its allowed range.

    Typed as Any, so that type checkers take each knob's own annotation; `dataclasses.field` is typed the same way.
    """
    return field(default=default, metadata={"group": group, "help": text, "allowed": allowed})


@dataclass(frozen=True)
class RunConfig:
    """Every setting of one run. A setting is called a knob; all have defaults.

    Ranges are checked as soon as the config is made, names when they are looked up. Both raise BadInput.
    """

    method: str = knob("deca", "Method", "algorithm; `deca-lab list methods` shows them all")

    task: str = knob("lm", "Data", "lm, classify (name the label) or generate (write the answer)")
    corpus: str = knob(
        "stdlib",
        "Data",
        "embedded (`deca-lab list corpora`), a file, a save_to_disk folder, or hub dataset",
    )
    hub_split: str = knob("train", "Data", "split of a hub dataset, or of a saved DatasetDict")
    hub_revision: str = knob("", "Data", "branch, tag or commit of a hub dataset; newest if empty")
    text_column: str = knob(
        "",
        "Data",
        "column with the text, or 'title,body' to join; when empty, guessed and reported",
    )
    label_column: str = knob("", "Data", "column with the label; when empty, guessed and reported")
    answer_column: str = knob(
        "", "Data", "with --task generate: column with the answer; when empty, guessed and reported"
    )
    verbaliser: str = knob(
        "",
        "Data",
        "with --task classify: a word per label, 'good=yes, bad=no'; letters when empty",
    )
    labels: str = knob("", "Data", "keep only these labels, separated by commas; all when empty")
    max_rows: int = knob(0, "Data", "rows kept at most, drawn at random; 0 = all", STEPS)
    split: str = knob("dirichlet", "Data", "how rows reach the clients (`deca-lab list splits`)")
    alpha: float = knob(
        0.25, "Data", "Dirichlet concentration: small = each client sees few labels", POSITIVE
    )
    shares: str = knob(
        "",
        "Data",
        "with --split shares: each client's label shares, such as '0.15,0.85; 0.85,0.15; 0.5,0.5'",
    )
    test_share: float = knob(0.1, "Data", "share of the rows in the common test set", HELD_OUT)
    validation_share: float = knob(
        0.1, "Data", "share of a client's own rows held out for validation", HELD_OUT
    )
    tokenizer: str = knob(
        "auto",
        "Data",
        "auto (the model's own; bytes where it has none), bytes, or that of a path or hub name",
    )

    clients: int = knob(8, "Clients", "number of clients N", COUNT)
    topology: str = knob(
        "ring", "Clients", "graph (`deca-lab list topologies`), or a W as .csv or .npy"
    )
    weights: str = knob("metropolis", "Clients", "rule from graph to W (`deca-lab list weights`)")
    edge_probability: float = knob(
        0.5, "Clients", "edge probability of the Erdos-Renyi graph (the paper gives none)", SHARE
    )
    degree: int = knob(3, "Clients", "degree of the random regular graph", COUNT)
    allow_unsound: bool = knob(False, "Clients", "run even if the doctor refuses W (for lessons)")

    model: str = knob(
        "base",
        "Model",
        "preset (`deca-lab list models`), local directory or GGUF file, or hub name",
    )
    model_revision: str = knob(
        "", "Model", "branch, tag or commit of a hub model; its newest when empty"
    )
    head: str = knob(
        "auto",
        "Model",
        "with --task classify: words (a causal LM names the label), trained (a head for labels, "
        "which trains too), or auto (trained for an encoder)",
    )
    dtype: str = knob(
        "float32",
        "Model",
        "float32, bfloat16 (float32 master of the active block, rounded without bias) or float64",
    )
    context: int = knob(128, "Model", "tokens of context T", COUNT)
    batch: int = knob(
        4, "Model", "windows of `context` tokens for each client and inner step", COUNT
    )

    micro_batch: int = knob(
        0,
        "Model",
        "windows that a client reads at once: less memory, same result; 0 = all",
        STEPS,
    )

    gradient_checkpointing: bool = knob(
        False, "Model", "compute activations twice to hold few of them; needs the engine loop"
    )
    attention: str = knob(
        "auto",
        "Model",
        "eager; sdpa: torch's fused kernels, less memory; auto: sdpa from a context of 256",
    )

    adapter: str = knob(
        "none",
        "Adapters",
        "none (all parameters), lora, or bottleneck; the base is then frozen and shared",
    )
    rank: int = knob(8, "Adapters", "rank of LoRA's factors, or width of the bottleneck", COUNT)
    lora_alpha: float = knob(16.0, "Adapters", "LoRA's scale is lora_alpha / rank", POSITIVE)
    targets: str = knob(
        "query-value", "Adapters", "query-value, attention, mlp, all-linear, or module names"
    )
    frozen_factor: str = knob(
        "none", "Adapters", "A keeps every A at the common start, as DLoRA-FA does"
    )
    base_weights: str = knob(
        "full", "Adapters", "the frozen base: full precision, or nf4 (4 bits a weight)"
    )
    mixing: str = knob(
        "gossip",
        "Adapters",
        "gossip mixes A and B separately; decaf mixes their products, cut back to the rank",
    )

    blocks: str = knob("layers", "Blocks", "how the model is cut: layers, equal, patterns or whole")
    granularity: int = knob(
        1, "Blocks", "transformer layers in a block (with --blocks layers)", COUNT
    )
    ends: str = knob("own", "Blocks", "embeddings and head: own blocks, joined in one, or frozen")
    block_count: int = knob(4, "Blocks", "number of blocks (with --blocks equal)", COUNT)
    patterns: str = knob(
        "",
        "Blocks",
        "regular expressions separated by spaces, one for each block (with --blocks patterns)",
    )
    freeze: str = knob(
        "", "Blocks", "names that never train: a regular expression, or the word embeddings or head"
    )
    order: str = knob("sequence", "Blocks", "order of a round: sequence, reversed or reshuffled")

    rounds: int = knob(2, "Algorithm", "rounds T; each visits every block once", COUNT)
    inner_steps: int = knob(16, "Algorithm", "inner steps R of one visit", COUNT)
    optimiser: str = knob(
        "adam", "Algorithm", "what turns gradients into directions (`deca-lab list optimisers`)"
    )
    momentum: float = knob(0.0, "Algorithm", "momentum of sgd and qg-sgd", BETA)
    lr: float = knob(3e-3, "Algorithm", "peak learning rate", RATE)
    a1: float = knob(0.9, "Algorithm", "Adam's decay of the first moment", BETA)
    a2: float = knob(0.999, "Algorithm", "Adam's decay of the second moment", BETA)
    eps: float = knob(1e-8, "Algorithm", "Adam's guard against division by zero", POSITIVE)
    feedback: str = knob(
        "printed", "Algorithm", "h: none, printed (x_new - x), downhill (x - x_new), zero"
    )
    feedback_scale: str = knob(
        "raw",
        "Algorithm",
        "h as it is (raw), divided by the learning rate (lr), of unit norm (unit)",
    )
    # The paper's b1 and b2 are not known. Ours come from a sweep on the embedded task, each pair at the best of three
    # learning rates; validation loss of the mean model, mean of seeds 0 to 2, and the paired difference to the best:
    #
    #     b1    b2     lr     validation   test     difference (sd over seeds)
    #     0.99  0.999  0.003  1.0776       1.0552    0
    #     0.99  0.99   0.003  1.0788       1.0558   +0.0012 (0.0010)
    #     0.9   0.999  0.01   1.0808       1.0540   +0.0032 (0.0031)
    #     0.99  0.9    0.003  1.0818       1.0583   +0.0042 (0.0020)
    #     0.9   0.99   0.01   1.0818       1.0561   +0.0042 (0.0028)
    #     0.9   0.9    0.01   1.0855       1.0604   +0.0079 (0.0028)
    #     0.5   0.9    0.01   1.0963       1.0713   +0.0187 (0.0022)
    #     0.5   0.99   0.01   1.0972       1.0713   +0.0196 (0.0032)
    #     0.5   0.999  0.003  1.1022       1.0754   +0.0246 (0.0040)
    #
    # deca-lab sweep --vary b1=0.5,0.9,0.99 --vary b2=0.9,0.99,0.999 --vary lr=0.001,0.003,0.01 --seeds 3 --out b
    #     --batch 2 --rounds 1 --eval-every 100000 --eval-windows 24
    # Read it as: weak feedback (b1 near 1) does best here, and b2 hardly matters. 96 inner steps, three seeds, one task.
    b1: float = knob(0.99, "Algorithm", "decay of m under the feedback; 1 = no feedback", SHARE)
    b2: float = knob(0.999, "Algorithm", "decay of v under the feedback; 1 = no feedback", SHARE)
    moments: str = knob(
        "reset", "Algorithm", "at a visit's start: reset, or keep those of the block's last visit"
    )
    mix_every: int = knob(1, "Algorithm", "inner steps between mixings", COUNT)
    combine: str = knob(
        "after", "Algorithm", "mix after the local step (adapt then combine), or before it"
    )
    mixed: str = knob("active", "Algorithm", "what is mixed: the active block, or all blocks")
    lr_scheduler_type: str = knob(
        "constant", "Algorithm", "constant, linear or cosine, over all inner steps"
    )
    warmup_steps: int = knob(0, "Algorithm", "inner steps of linear warm-up", STEPS)
    weight_decay: float = knob(
        0.0, "Algorithm", "decoupled weight decay, on tensors with two axes or more", RATE
    )
    max_grad_norm: float = knob(
        0.0, "Algorithm", "clip a client's gradient of the active block; 0 = off", RATE
    )

    drop: float = knob(
        0.0,
        "Faults",
        "share of exchanges that fail; both sides then keep what they would have sent",
        BETA,
    )
    burst: float = knob(
        1.0,
        "Faults",
        "mean length of an edge's outage in mixings; 1 = failures are independent",
        COUNT,
    )
    away: str = knob(
        "",
        "Faults",
        "clients that neither train nor talk: CLIENT@FROM-UNTIL, shares of the run: '3@0.5, 5@0-0.4'",
    )
    stragglers: str = knob(
        "",
        "Faults",
        "slow clients, not waited for: CLIENT@TIMES is in time for one mixing of TIMES: '3@4'",
    )
    garbage: str = knob(
        "", "Faults", "clients that send garbage, which is refused and counted; written as in away"
    )
    stale: float = knob(
        0.0,
        "Faults",
        "share of messages that come late; receivers take their newest of the visit",
        SHARE,
    )
    delay: int = knob(1, "Faults", "how many mixings late a late message comes", FEW)
    noise: float = knob(
        0.0,
        "Faults",
        "Gaussian error of messages, as a share of their root mean square",
        RATE,
    )

    compress: str = knob(
        "none",
        "Messages",
        "none, top-k, random-k or quantised; what is left out is fed back (CHOCO)",
    )
    keep_share: float = knob(
        0.1, "Messages", "share of a message's entries that top-k and random-k send", SOME
    )
    bits: int = knob(8, "Messages", "bits of each entry of a quantised message", BITS)
    gamma: float = knob(
        1.0, "Messages", "with compressed messages: step towards the neighbours' replicas", SOME
    )

    eval_every: int = knob(
        0, "Measuring", "inner steps between measurements; 0 = at the end of each visit", STEPS
    )
    eval_share: float = knob(
        1.0,
        "Measuring",
        "with --eval-every 0: about the share of the work that measuring may take, by leaving visits out",
        SOME,
    )
    eval_windows: int = knob(
        32, "Measuring", "how many windows or examples of the common test set to read", COUNT
    )
    checkpoint_every: int = knob(
        0,
        "Measuring",
        "inner steps between checkpoints; 0 = at ends of visits, as often as is worth its time",
        STEPS,
    )

    seed: int = knob(0, "Machine", "seed of everything random: shards, graph, batches, order", SEED)
    device: str = knob("auto", "Machine", "auto (cuda where torch sees it), cpu or cuda")
    engine: str = knob(
        "stacked",
        "Machine",
        "stacked (all clients in one call), compiled (that as fused graphs: slow to start), cuda-graph "
        "(its kernels launched at once, on a GPU), auto (whichever is expected to end first) or loop (one after another)",
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _checked(f, getattr(self, f.name)))

    def to_json(self) -> str:
        """Return the config as JSON text, all knobs in order."""
        return json.dumps(asdict(self), indent=1)


def _documented() -> str:
    """Return RunConfig's docstring with every knob in it, group by group: what `RunConfig?` and help(RunConfig) show."""
    groups: dict[str, list[str]] = {}
    for f in fields(RunConfig):
        groups.setdefault(f.metadata["group"], []).append(_line_of(f))
    parts = [f"{group}\n{'-' * len(group)}\n" + "\n".join(lines) for group, lines in groups.items()]
    return "\n\n".join([cleandoc(RunConfig.__doc__ or ""), *parts, ""])


def _line_of(f: Field[Any]) -> str:
    """Return one knob in two lines: name, type, default and range; then its help."""
    allowed = f.metadata["allowed"]
    within = f" ({allowed[1]})" if allowed else ""
    return f"{f.name} : {_type_name(f)}, default {f.default!r}{within}\n    {f.metadata['help']}"


def _type_name(f: Field[Any]) -> str:
    return getattr(f.type, "__name__", str(f.type))


RunConfig.__doc__ = _documented()


def _checked(f: Field[Any], value: Any) -> Any:  # noqa: ANN401 - any value, to be checked
    """Return the value in the knob's type; raise BadInput unless it has it, is finite, and lies in its range."""
    kind, allowed = f.type, f.metadata["allowed"]
    # A NumPy number is taken as Python's.
    scalar = getattr(value, "ndim", None) == 0 and not hasattr(value, "mask")  # a gap is no number
    value = value.item() if scalar and hasattr(value, "item") else value
    ok = type(value) is kind or (kind is float and type(value) is int)
    check(ok, f.name, value, f"of type {_type_name(f)}")
    if kind is float:
        check(abs(value) < 1e308, f.name, value, "a finite number")  # NaN is not
        value = float(value)
    if allowed is not None:
        check(allowed[0](value), f.name, value, allowed[1])
    return value


def from_mapping(values: Mapping[str, Any]) -> RunConfig:
    """Return the RunConfig of a mapping such as config.json holds; raise BadInput at an unknown knob."""
    known = {f.name: f for f in fields(RunConfig)}
    for name in values:
        pick(known, name, "knob")
    return RunConfig(**values)


def from_json(text: str, source: str) -> RunConfig:
    """Return the RunConfig of JSON text; `source` names it in errors."""
    try:
        values = json.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # no JSON, a number of thousands of digits, or too deep
        raise BadInput(f"{source} is not JSON: {error}") from None
    check(isinstance(values, dict), source, type(values).__name__, "a JSON object of knobs")
    return from_mapping(values)


# What `deca-lab run` has in place of a default: who waits at a screen would rather train than measure.
RUN_COMMAND = {"eval_share": 0.15}


def defaults() -> dict[str, Any]:
    """Return every knob's default."""
    return {f.name: f.default for f in fields(RunConfig) if f.default is not MISSING}


def changed_knobs(
    config: RunConfig, stored: Mapping[str, Any], but: Collection[str] = ()
) -> list[str]:
    """Return "lr = 0.1, not 0.2" of each knob, `but` some, that was stored otherwise; what was not was at its default."""
    before = {**defaults(), **stored}
    pairs = ((f.name, before[f.name], getattr(config, f.name)) for f in fields(config))
    return [f"{k} = {old!r}, not {new!r}" for k, old, new in pairs if old != new and k not in but]
