"""The LLM inside a checkpoint -> an ordinary Hugging Face directory: config.json, tokenizer, weights."""

from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.decoder.llm_config import LLMConfig
from ..engine.errors import CheckpointError
from ..engine.hub.model_files import RepositoryFiles
from ..engine.manifest import LLMInfo
from .config_file import CONFIG_NAME, read_json
from .layout import LLMPlan, Part, Plan
from .llm_tokenizer import COPIED_NAMES, list_tokenizer_files, made_files, stated_eos
from .weights import Weight

GENERATION_CONFIG_NAME = "generation_config.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LLM_FILES = RepositoryFiles(  # of a repository with an LLM; older ones hold files of torch.save
    always=(
        *(CONFIG_NAME, GENERATION_CONFIG_NAME, "model.safetensors.index.json", "pytorch_model.bin.index.json"),
        *COPIED_NAMES,
    ),
    weights=(
        *("model-?????-of-?????.safetensors", "model.safetensors"),
        *("pytorch_model-?????-of-?????.bin", "pytorch_model.bin"),
    ),
)
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_SIZES = (
    *("hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "max_position_embeddings"),
)
_NESTED_KEYS = (
    *_SIZES,
    *("model_type", "head_dim", "hidden_act", "rms_norm_eps", "attention_bias", "mlp_bias", "attention_dropout"),
    *("initializer_range", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype"),
)
_DTYPE_KEYS = ("torch_dtype", "dtype")  # the older and the newer name; vLLM and transformers read either


def list_llm_files(directory: Path) -> tuple[Path, ...]:
    """The files of the LLM's directory that a conversion reads. Raises CheckpointError if there is no tokenizer."""
    generation = [path for path in [directory / GENERATION_CONFIG_NAME] if path.is_file()]
    return (directory / CONFIG_NAME, *generation, *list_tokenizer_files(directory))


def read_llm_config(directory: Path) -> dict[str, Any]:
    """The config.json in an LLM's directory, checked by `checked_llm_config`."""
    return checked_llm_config(read_json(directory / CONFIG_NAME), directory / CONFIG_NAME)


def checked_llm_config(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration, completed where the first LLaMA models relied on defaults in code.

    Raises CheckpointError, which names `path`, if no implemented LLM has this configuration.
    """
    if config.get("model_type") not in ARCHITECTURES:
        known = ", ".join(map(repr, ARCHITECTURES))
        raise CheckpointError(f"{path}: model_type is {config.get('model_type')!r}; only {known} are implemented")
    if config["model_type"] == "llama" and config.get("num_key_value_heads") is None:
        config = {**config, "num_key_value_heads": config.get("num_attention_heads")}
    for key in _SIZES:
        if type(config.get(key)) is not int or config[key] < 1:
            raise CheckpointError(f"{path}: {key} is {config.get(key)!r}; a positive whole number is needed")
    return config


def nested_llm_config(config: Mapping[str, Any], path: Path, *, tied: bool) -> dict[str, Any]:
    """The LLM's part of a speech model's config.json -> config.json of that LLM alone, which all versions can read.

    Multi-dimensional positions (mrope) are dropped. In a prompt of speech and text all dimensions advance together,
    which is plain RoPE, and vLLM refuses mrope for a text model.

    Raises:
        CheckpointError: an unknown model type, a missing size, or scaled RoPE.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) not in ("default", "mrope"):
        raise CheckpointError(f"{path}: its LLM scales RoPE ({rope}); only plain RoPE is implemented")
    theta = config.get("rope_theta", rope.get("rope_theta"))
    kept = {key: value for key, value in config.items() if key in _NESTED_KEYS}
    written = {**kept, "rope_theta": theta, "tie_word_embeddings": tied, "use_sliding_window": False}
    return checked_llm_config(written, path)


def needed_shapes(
    make_acoustic: Callable[[], nn.Module],
    llm_config: Mapping[str, Any],
    *,
    prefix: str,
    found: Container[str],
    rename: Callable[[str], str] = str,
) -> dict[str, tuple[int, ...]]:
    """Every tensor that a whole checkpoint has, by the checkpoint's own names.

    Args:
        make_acoustic: builds stage 1.
        prefix: of the LLM's tensors.
        found: the names that there are. An output layer that repeats the embedding may be missing.
        rename: what the checkpoint calls a tensor of stage 1.
    """
    with torch.device("meta"):
        acoustic = make_acoustic()
    needed = {rename(name): tuple(tensor.shape) for name, tensor in acoustic.state_dict().items()}
    needed |= {prefix + name: shape for name, shape in llm_shapes(llm_config).items()}
    if llm_config.get("tie_word_embeddings") and prefix + HEAD not in found:
        del needed[prefix + HEAD]
    return needed


def llm_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of an LLM of ARCHITECTURES with this config.json, including HEAD."""
    sizes = LLMConfig.of(config)
    width, inner, vocab = sizes.hidden_size, config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = sizes.num_heads * sizes.head_dim, sizes.num_kv_heads * sizes.head_dim
    linears = {
        "self_attn.q_proj": (heads, width, sizes.has_qkv_bias),
        "self_attn.k_proj": (kv_heads, width, sizes.has_qkv_bias),
        "self_attn.v_proj": (kv_heads, width, sizes.has_qkv_bias),
        "self_attn.o_proj": (width, heads, sizes.has_output_bias),
        "mlp.gate_proj": (inner, width, sizes.has_mlp_bias),
        "mlp.up_proj": (inner, width, sizes.has_mlp_bias),
        "mlp.down_proj": (width, inner, sizes.has_mlp_bias),
    }
    norms = {"input_layernorm": width, "post_attention_layernorm": width}
    if sizes.has_qk_norm:
        norms |= {"self_attn.q_norm": sizes.head_dim, "self_attn.k_norm": sizes.head_dim}
    layer: dict[str, tuple[int, ...]] = {f"{name}.weight": (size,) for name, size in norms.items()}
    for name, (num_out, num_in, has_bias) in linears.items():
        layer |= {f"{name}.weight": (num_out, num_in), **({f"{name}.bias": (num_out,)} if has_bias else {})}
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (vocab, width),
        "model.norm.weight": (width,),
        HEAD: (vocab, width),
    }
    for number in range(sizes.num_layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return shapes


def transformers_model(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """A config.json -> transformers' configuration and model class."""
    import transformers  # here, because it takes seconds that a conversion does not need

    values = {key: value for key, value in config.items() if key != "model_type"}
    llm_config = transformers.AutoConfig.for_model(config["model_type"], **values)
    return llm_config, getattr(transformers, ARCHITECTURES[config["model_type"]])


def plan_llm(directory: Path, config: Mapping[str, Any], weights: Mapping[str, Weight]) -> tuple[LLMPlan, list[str]]:
    """The contents of llm/, and notes on what differs from config.json.

    An output layer that equals the embedding bit for bit is dropped. One that differs is kept, and marked as not tied.
    """
    head, embedding = weights.get(HEAD), weights[EMBEDDING]
    tied = head is None or _bit_equal(head, embedding)
    notes = [] if bool(config.get("tie_word_embeddings")) is tied else [_tie_note(tied)]
    plan = LLMPlan(
        config=_written_config(config, dtype=embedding.dtype, tied=tied),
        weights={name: weight for name, weight in weights.items() if not (tied and name == HEAD)},
        files=tuple(file for file in list_llm_files(directory) if file.name != CONFIG_NAME),
        made_files=made_files(directory),
        info=LLMInfo(
            hidden_size=config["hidden_size"],
            vocab_size=config["vocab_size"],
            max_position_embeddings=config["max_position_embeddings"],
            eos_token_ids=_eos_token_ids(directory, config),
            tied=tied,
        ),
    )
    return plan, notes


def plan_without_ctc(
    llm_directory: Path,
    llm_config: Mapping[str, Any],
    parts: Mapping[Part, Mapping[str, Weight]],
    *,
    acoustic_config: Mapping[str, Any],
    no_times_reason: str,
) -> Plan:
    """The conversion of a model that has an encoder and an LLM but no CTC head, so that it cannot time words."""
    llm_plan, notes = plan_llm(llm_directory, llm_config, parts["llm"])
    return Plan(
        acoustic=parts["acoustic"],
        acoustic_config=acoustic_config,
        frame_clock=None,
        ctc_vocabulary=None,
        llm=llm_plan,
        missing={"ctc": no_times_reason},
        notes=tuple(notes),
    )


def _tie_note(tied: bool) -> str:
    if tied:
        return "config.json unties lm_head, but it equals embed_tokens bit for bit: tie_word_embeddings is now true."
    return "lm_head differs from embed_tokens although config.json ties them: both kept, tie_word_embeddings false."


def _written_config(config: Mapping[str, Any], *, dtype: torch.dtype, tied: bool) -> dict[str, Any]:
    dtype_keys = [key for key in _DTYPE_KEYS if key in config] or _DTYPE_KEYS[:1]
    stated = dict.fromkeys(dtype_keys, str(dtype).removeprefix("torch."))
    return {**config, **stated, "architectures": [ARCHITECTURES[config["model_type"]]], "tie_word_embeddings": tied}


def _eos_token_ids(directory: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens that end an answer: those of config.json and generation_config.json or, without any, the tokenizer's."""
    path = directory / GENERATION_CONFIG_NAME
    generation = read_json(path) if path.is_file() else {}
    named = [ids for c in (config, generation) if (ids := c.get("eos_token_id")) is not None]
    tokens = [token for ids in named for token in (ids if isinstance(ids, list) else [ids])]
    tokens = tokens or [stated_eos(directory)]
    wrong = [token for token in tokens if type(token) is not int or not 0 <= token < config["vocab_size"]]
    if wrong:
        raise CheckpointError(f"{directory}: eos_token_id is {wrong}; ids below {config['vocab_size']} are needed")
    return tuple(dict.fromkeys(tokens))


def bits(tensor: Tensor) -> Tensor:
    """The same bytes as integers, so that -0.0 differs from 0.0 and NaN equals itself."""
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32}[tensor.dtype.itemsize])


def _bit_equal(a: Weight, b: Weight) -> bool:
    return a.source.dtype == b.source.dtype and a.shape == b.shape and torch.equal(bits(a.merged()), bits(b.merged()))
