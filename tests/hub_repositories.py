"""What repositories on the hubs hold: files that are needed, and others that must not be fetched.

Contents are small, and stand for the real ones; only the configurations say what the real ones do.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from twostage_asr.convert.llm import LLM_FILES
from twostage_asr.engine.hub.model_files import RepositoryFiles

LARGE = 400_000  # bytes of what is large in the real repositories: four times what a refusal may cost
_QWEN_TOKENIZER = ("merges.txt", "tokenizer_config.json", "vocab.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A repository. Files named in `configurations` hold that text, the others whatever."""

    configurations: Mapping[str, object]
    small: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    decoys: tuple[str, ...] = ()
    files: RepositoryFiles | None = None  # of `resolve_model`, where it is no speech model
    says: str = ""  # in the refusal

    @property
    def needed(self) -> set[str]:
        return {*self.configurations, *self.small, *self.weights}

    def write(self, directory: Path) -> Path:
        for name in (*self.configurations, *self.small, *self.weights, *self.decoys):
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in self.configurations:
                path.write_text(json.dumps(self.configurations[name]))  # JSON is YAML too
            else:
                path.write_bytes(name.encode().ljust(30 if name in self.small else LARGE, b"."))
        return directory


_ORIGINAL = {"model_type": "qwen3_asr", "architectures": ["Qwen3ASRForConditionalGeneration"]}
_ALIGNER = {**_ORIGINAL, "thinker_config": {"model_type": "qwen3_forced_aligner"}}
_README = "README.md"
_CLUTTER_OF_NANO = (
    *(".gitattributes", ".git/objects/pack/pack-1.pack", "README_zh.md", "images/architecture.png"),
    *("onnx/model.onnx", "model-q8_0.gguf", "optimizer.pt", "checkpoint-10/optimizer.pt", "example/zh.mp3"),
)
_CLUTTER = (_README, *_CLUTTER_OF_NANO)
_SHARDS = tuple(f"model-{n:05}-of-00002.safetensors" for n in (1, 2))

SUPPORTED = {
    "FunAudioLLM/Fun-ASR-Nano-2512": Published(
        configurations={"config.yaml": {"model": "FunASRNano"}, "Qwen3-0.6B/config.json": {"model_type": "qwen3"}},
        small=(
            *(_README, "configuration.json", "multilingual.tiktoken", "Qwen3-0.6B/generation_config.json"),
            *(f"Qwen3-0.6B/{name}" for name in ("tokenizer.json", *_QWEN_TOKENIZER)),
        ),
        weights=("model.pt",),
        decoys=(*_CLUTTER_OF_NANO, "Qwen3-0.6B/model.safetensors", "model.safetensors", "model.pt.ep1", "demo.py"),
    ),
    "FunAudioLLM/Fun-ASR-MLT-Nano-2512-hf": Published(
        configurations={"config.json": {"model_type": "fun_asr_nano"}},
        small=(_README, "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"),
        weights=("model.safetensors",),
        decoys=(*_CLUTTER_OF_NANO, "pytorch_model.bin", "modeling_funasr.py"),
    ),
    "FunAudioLLM/Fun-ASR-Nano-2512-vllm": Published(
        configurations={"config.json": {"architectures": ["FunASRForConditionalGeneration"]}},
        small=(_README, "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
        weights=("model.safetensors",),
        decoys=_CLUTTER_OF_NANO,
    ),
    "Qwen/Qwen3-ASR-0.6B": Published(
        configurations={"config.json": _ORIGINAL},
        small=("generation_config.json", "preprocessor_config.json", *_QWEN_TOKENIZER),
        weights=("model.safetensors",),
        decoys=(*_CLUTTER, "pytorch_model.bin", "model.pt", "openvino/model.safetensors"),
    ),
    "Qwen/Qwen3-ASR-1.7B": Published(
        configurations={"config.json": _ORIGINAL},
        small=("model.safetensors.index.json", "preprocessor_config.json", *_QWEN_TOKENIZER),
        weights=_SHARDS,
        decoys=(*_CLUTTER, "model.safetensors", "consolidated.safetensors"),
    ),
    "Qwen/Qwen3-ForcedAligner-0.6B": Published(
        configurations={"config.json": _ALIGNER},
        small=("generation_config.json", "preprocessor_config.json", *_QWEN_TOKENIZER),
        weights=("model.safetensors",),
        decoys=_CLUTTER,
    ),
    "zai-org/GLM-ASR-Nano-2512": Published(
        configurations={"config.json": {"model_type": "glmasr"}},
        small=("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        weights=("model.safetensors",),
        decoys=(*_CLUTTER, "modeling_glmasr.py", "modeling_audio.py", "inference.py", "pytorch_model.bin"),
    ),
    "someone/whisper_vicuna_linear": Published(
        configurations={"config.yaml": {"model": "LLMASR"}},
        weights=("model.pt",),
        decoys=(*_CLUTTER, "model.pt.ep9", "train.log"),
    ),
    "lmsys/vicuna-7b-v1.5": Published(
        configurations={"config.json": {"model_type": "llama"}},
        small=(
            *("generation_config.json", "pytorch_model.bin.index.json", "special_tokens_map.json"),
            *("tokenizer.model", "tokenizer_config.json"),
        ),
        weights=tuple(f"pytorch_model-{n:05}-of-00002.bin" for n in (1, 2)),
        decoys=(*_CLUTTER, "tf_model.h5", "flax_model.msgpack"),
        files=LLM_FILES,
    ),
    "Qwen/Qwen1.5-7B-Chat": Published(
        configurations={"config.json": {"model_type": "qwen2"}},
        small=("model.safetensors.index.json", "tokenizer.json", *_QWEN_TOKENIZER),
        weights=_SHARDS,
        decoys=(*_CLUTTER, "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"),
        files=LLM_FILES,
    ),
    "someone/converted": Published(
        configurations={"engine.json": {}},
        small=("ctc.tiktoken", "llm/config.json", "llm/tokenizer.json"),
        weights=("acoustic.safetensors", "llm/model.safetensors"),
        decoys=_CLUTTER,
    ),
}
UNSUPPORTED = {
    "iic/paraformer-large": Published(
        configurations={"config.yaml": {"model": "Paraformer"}},
        decoys=(*_CLUTTER, "configuration.json", "model.pt", "tokens.json", "am.mvn"),
        says="is a Paraformer, a non-autoregressive recogniser without an LLM, which is what this engine runs; "
        "use funasr.AutoModel for it",
    ),
    "iic/SenseVoiceSmall": Published(
        configurations={"config.yaml": {"model": "SenseVoiceSmall"}},
        decoys=(*_CLUTTER, "configuration.json", "model.pt", "chn_jpn_yue_eng_ko_spectok.bpe.model"),
        says="is a SenseVoiceSmall, a CTC recogniser without an LLM, which is what this engine runs; "
        "use funasr.AutoModel for it",
    ),
    "openai/whisper-large-v3": Published(
        configurations={"config.json": {"model_type": "whisper"}},
        decoys=(*_CLUTTER, "model.safetensors", "pytorch_model.bin", "tokenizer.json", "vocab.json"),
        says="is of no known model family: model_type in config.json says 'whisper'; it holds .git",
    ),
    "someone/nothing-yet": Published(
        configurations={},
        decoys=("README.md",),
        says="is of no known model family: no configuration names a model; it holds README.md. "
        "Known: FunAudioLLM/Fun-ASR-Nano-2512",
    ),
    "FunAudioLLM/Fun-ASR-Nano-GGUF": Published(
        configurations={},
        decoys=("README.md", "funasr-encoder-f16.gguf", "qwen3-0.6b-q8_0.gguf"),
        says="it holds README.md, funasr-encoder-f16.gguf, qwen3-0.6b-q8_0.gguf",
    ),
    "someone/Fun-ASR-Nano-onnx": Published(
        configurations={"config.yaml": {"model": "FunASRNano"}},
        decoys=("encoder.onnx", "llm.onnx", "Qwen3-0.6B/tokenizer.json"),
        says="holds no weights that can be read, which would be model.pt or model-",
    ),
}
