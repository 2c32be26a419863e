"""Models from outside: a folder of safetensors, a GGUF file, or the hub; every failure is one line."""

import copy
import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from deca_lab.errors import BadInput, check, first_line, require
from deca_lab.models.hub import hub_or_offline

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


MOST_LAYERS = 10_000  # a configuration of more would be built for hours


class Purpose(NamedTuple):
    """What a model is loaded for: one of transformers' classes, and what is special about it."""

    words: str  # in errors
    auto: str  # the name of the class in transformers
    configured: "Callable[[PretrainedConfig], PretrainedConfig]"
    may_lack: Callable[[str], bool]  # whether a checkpoint may be without this weight
    examine: Callable[[nn.Module], None]  # raises BadInput for a model that does not serve


def read(
    source: str, dtype: torch.dtype, attention: str, revision: str, purpose: Purpose
) -> "PreTrainedModel":
    """Return the model of a folder, a GGUF file or a hub name, in eval mode.

    Weights come from safetensors or GGUF only, and no remote code runs. Every weight must be there, but for those that
    the purpose may lack: they are drawn from torch's global generator. Raises BadInput.
    """
    if not os.path.exists(source):
        with hub_or_offline("model", source):
            return _loaded(source, dtype, attention, revision, purpose)
    holds = (Path(source) / "config.json").is_file() and any(Path(source).glob("*.safetensors"))
    allowed = "one that holds config.json and *.safetensors weights, or one GGUF file"
    check(holds or gguf_file(source) is not None, "model directory", source, allowed)
    return _loaded(source, dtype, attention, revision, purpose)


def outline(
    source: str, dtype: torch.dtype, attention: str, revision: str, purpose: Purpose
) -> "PreTrainedModel":
    """Return the same model as `read` on device "meta": nothing but its configuration is read."""
    from transformers import AutoConfig

    given = arguments(source, revision)
    try:
        with nullcontext() if os.path.exists(source) else hub_or_offline("model", source):
            config = AutoConfig.from_pretrained(**given)
        with quiet(), torch.device("meta"):
            return built(config, dtype, attention, purpose)
    except Exception as error:
        how = f"does not load as {purpose.words}"
        raise refusal(f"model {source!r}", source, error, how) from error


def config_of(source: str) -> "PretrainedConfig | None":
    """Return the configuration of a folder, a GGUF file or a hub name, or None where it cannot be read."""
    from transformers import AutoConfig

    try:
        with nullcontext() if os.path.exists(source) else hub_or_offline("model", source):
            return AutoConfig.from_pretrained(**arguments(source))
    except Exception:  # transformers raises a dozen kinds
        return None


def arguments(source: str, revision: str = "") -> dict[str, Any]:
    """Return what `from_pretrained` of a config, model or tokenizer takes for a source: never remote code.

    Raises BadInput for a GGUF file without the package that reads it, and a `revision` of a local source.
    """
    given: dict[str, Any] = {"pretrained_model_name_or_path": source, "trust_remote_code": False}
    given |= {"revision": revision} if revision else {}
    local = os.path.exists(source)
    check(not (revision and local), "model_revision", revision, f"left empty: {source!r} is local")
    file = gguf_file(source)
    if file is None:
        return given
    require(repr(str(file)), "gguf", "gguf")
    return {**given, "pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}


def gguf_file(source: str) -> Path | None:
    """Return the GGUF file that a path means: itself, or the only one of a folder without safetensors."""
    path = Path(source)
    if source.endswith(".gguf") and os.path.isfile(path):
        return path
    whole = not os.path.isdir(path) or any(path.glob("*.safetensors"))
    files = [] if whole else list(path.glob("*.gguf"))
    names = [file.name for file in files]
    check(len(files) < 2, "model directory", source, f"one of its files {', '.join(sorted(names))}")
    return files[0] if files else None


def require_no_path(name: str, what: str) -> None:
    """Raise BadInput for a name that is no hub name but a path: it was looked for, and nothing is there."""
    path = name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith(".gguf")
    if path:
        raise BadInput(f"{what} {name!r}: there is no such directory or GGUF file")


def built(
    config: "PretrainedConfig", dtype: torch.dtype, attention: str, purpose: Purpose
) -> "PreTrainedModel":
    """Return a model of random weights in eval mode, drawn in float32 from torch's global generator, then cast."""
    import transformers

    _require_few_layers(config)
    auto, config = getattr(transformers, purpose.auto), purpose.configured(copy.deepcopy(config))
    given = {"attn_implementation": attention, "trust_remote_code": False}
    model: PreTrainedModel = auto.from_config(config, **given)
    for p in model.parameters():  # not model.to(dtype): rotary angles, a buffer, stay in float32
        p.data = p.data.to(dtype)
    return model.eval()


def _loaded(
    source: str, dtype: torch.dtype, attention: str, revision: str, purpose: Purpose
) -> "PreTrainedModel":
    import transformers

    given = arguments(source, revision)
    weights = {} if "gguf_file" in given else {"use_safetensors": True}
    try:
        config = transformers.AutoConfig.from_pretrained(**given)
        _require_few_layers(config)
        with quiet():
            model, info = getattr(transformers, purpose.auto).from_pretrained(
                **given,
                **weights,
                config=purpose.configured(copy.deepcopy(config)),
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # judged below, as missing weights are
            )
    except Exception as error:  # transformers, safetensors, gguf: a dozen kinds for a foreign model
        how = f"does not load as {purpose.words}"
        raise refusal(f"model {source!r}", source, error, how) from error
    _require_whole(source, info, purpose)
    if "gguf_file" in given:
        model = _unquantised(model, config, dtype, attention, purpose)
    return model.eval()


def _require_few_layers(config: "PretrainedConfig") -> None:
    layers = getattr(config, "num_hidden_layers", None)
    few = not isinstance(layers, int) or layers <= MOST_LAYERS
    check(few, "num_hidden_layers of the model's configuration", layers, f"at most {MOST_LAYERS:,}")


def _require_whole(source: str, info: Mapping[str, Any], purpose: Purpose) -> None:
    """Raise BadInput where weights are missing, or of another shape, that the purpose may not lack."""
    others = {name for name, *_ in info["mismatched_keys"]}
    lacking = sorted(n for n in {*info["missing_keys"], *others} if not purpose.may_lack(n))
    missing = ", ".join(lacking[:3])
    check(not missing, f"model {source!r}", f"without weights for {missing}", "complete")


def _unquantised(
    model: "PreTrainedModel",
    config: "PretrainedConfig",
    dtype: torch.dtype,
    attention: str,
    purpose: Purpose,
) -> "PreTrainedModel":
    """A plain model with the weights of one from GGUF, which transformers would not save."""
    with torch.random.fork_rng(devices=[]):
        plain = built(config, dtype, attention, purpose)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def refusal(what: str, source: str, error: Exception, otherwise: str) -> BadInput:
    """Return the one line about something that transformers could not read; a gated one says what to do."""
    if "gated repo" in str(error).lower():
        terms = f"accept its terms at https://huggingface.co/{source}"
        return BadInput(f"{what} is gated: {terms}, then set HF_TOKEN or run `hf auth login`")
    return BadInput(f"{what} {otherwise}: {first_line(error)}")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' bars and its advice; put all back as they were.

    The bar of GGUF obeys no setting: what is written to sys.stderr is lost.
    """
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
