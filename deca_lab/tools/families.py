"""Which families of causal LMs train: a tiny random model of each, two steps of DECA by either engine.

`python -m deca_lab.tools.families` prints a table in Markdown; names after it choose families.
"""

import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from deca_lab.algorithm.gradients import engine_kind
from deca_lab.algorithm.loop import begin, params_of, train
from deca_lab.errors import BadInput, check, first_line
from deca_lab.lab.objects import Objects
from deca_lab.lab.prepare import prepare
from deca_lab.models import causal_lm
from deca_lab.models.pretrained import quiet
from deca_lab.runconfig import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CLOSE = 1e-5  # largest difference of a parameter between engines that is rounding
SHAPE = {
    "vocab_size": causal_lm.BYTES,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
WIDE = {"intermediate_size": 64}
GROUPED = {**WIDE, "num_key_value_heads": 2, "head_dim": 8}
DECODER = {**WIDE, "is_decoder": True}
ROTARY = {"rotary_dim": 4}
FAMILIES: dict[str, dict[str, Any]] = {  # transformers' model_type -> what its shape has besides
    "apertus": GROUPED,
    "arcee": GROUPED,
    "bert": DECODER,
    "biogpt": WIDE,
    "bitnet": GROUPED,
    "bloom": WIDE,
    "codegen": ROTARY,
    "cohere": GROUPED,
    "cohere2": GROUPED,
    "ctrl": {"n_embd": 32, "dff": 64},
    "electra": DECODER,
    "ernie4_5": GROUPED,
    "exaone4": GROUPED,
    "falcon": WIDE,
    "gemma": GROUPED,
    "gemma2": GROUPED,
    "gemma3_text": GROUPED,
    "glm": GROUPED,
    "glm4": GROUPED,
    "gpt2": WIDE,
    "gpt_bigcode": WIDE,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8, **WIDE},
    "gpt_neox": WIDE,
    "gptj": ROTARY,
    "granite": GROUPED,
    "helium": GROUPED,
    "hunyuan_v1_dense": GROUPED,
    "llama": GROUPED,
    "mamba": WIDE,
    "ministral": GROUPED,
    "mistral": GROUPED,
    "mixtral": GROUPED,
    "mpt": WIDE,
    "nemotron": GROUPED,
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "olmo3": GROUPED,
    "openai-gpt": WIDE,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "persimmon": WIDE,
    "phi": WIDE,
    "phi3": GROUPED,
    "phimoe": {**GROUPED, "num_local_experts": 2},
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "roberta": DECODER,
    "rwkv": {**WIDE, "attention_hidden_size": 32},
    "seed_oss": GROUPED,
    "smollm3": GROUPED,
    "stablelm": GROUPED,
    "starcoder2": GROUPED,
    "xglm": {"ffn_dim": 64},
}
CONFIG = RunConfig(
    clients=3,
    context=16,
    batch=1,
    rounds=1,
    inner_steps=1,
    blocks="equal",
    block_count=2,
    lr=1e-3,
    eps=1e-4,  # with Adam's own, a gradient of rounding errors would move as far as any
    eval_windows=1,
    device="cpu",
)


class Row(NamedTuple):
    """What one family did."""

    family: str
    difference: float  # of any parameter between the engines, infinite where one of them refuses
    refusal: str = ""

    @property
    def works(self) -> bool:
        """Say whether both engines train it, and to the same numbers."""
        return self.difference <= CLOSE


def drawn(family: str) -> "PreTrainedModel":
    """Return a tiny random model of a family, as its configuration's class makes it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **SHAPE, **FAMILIES[family])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return model


def rows() -> list[tuple[str, str]]:
    """Return a text of two labels, enough for the clients' shards."""
    return [(f"{n} and {n + 1} make {2 * n + 1}. " * 12, ["even", "odd"][n % 2]) for n in range(40)]


def trained(source: str, engine: str) -> Tensor:
    """Return all clients' parameters (N, D) after both steps of a model in a folder; raise BadInput."""
    lab = prepare(replace(CONFIG, model=source, engine=engine), objects=Objects(dataset=rows()))
    *_, (state, _) = train(lab.plan, engine=engine_kind(engine).gradients)
    lab.measure(params_of(lab.plan, state), state.blocks, torch.arange(CONFIG.clients))
    moved = [
        not torch.equal(x, y) for x, y in zip(state.blocks, begin(lab.plan).blocks, strict=True)
    ]
    check(all(moved), "blocks that moved", moved, "all of them")
    return torch.cat(state.blocks, 1)


def tried(family: str) -> Row:
    """Train a family by both engines."""
    model = drawn(family)
    with tempfile.TemporaryDirectory() as folder, quiet():
        model.save_pretrained(folder)
        try:
            results = [trained(folder, engine) for engine in ("stacked", "loop")]
        except BadInput as error:
            return Row(family, float("inf"), first_line(error).replace(folder, family))
    return Row(family, float((results[0] - results[1]).abs().max()))


def table(tries: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| family | trains | engines differ by |"
    yield "|---|---|---|"
    for row in tries:
        yield f"| {row.family} | {'yes' if row.works else 'no'} | {row.refusal or f'{row.difference:.0e}'} |"


if __name__ == "__main__":
    for line in table(map(tried, sys.argv[1:] or FAMILIES)):
        print(line, flush=True)
