"""What the qwen-asr package's own models make of a few clips, tokens and word times, as a file that our tests read.

The environment is that of qwen_asr_golden.py:

    /tmp/qwen/bin/python -m tests.peers.qwen_asr_tokens tests/engine/families/qwen_asr_tokens.json

The checkpoints are tiny, built and saved by the package's classes; their weights are a function of their names, so that
the tests make the same ones from the names and shapes in the file. Clips are run one by one: in a batch the package's
features of a clip depend on the others.

The package hands the windows of the audio tower to FlashAttention 2 alone, which needs a GPU; with other attention it
forgets them. Here each layer is given the mask that the package makes for that case and leaves unused.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from qwen_asr import Qwen3ASRModel, Qwen3ForcedAligner
from qwen_asr.core.transformers_backend import Qwen3ASRConfig, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor
from qwen_asr.inference.qwen3_forced_aligner import Qwen3ForceAlignProcessor
from safetensors import safe_open
from transformers import Qwen2TokenizerFast, WhisperFeatureExtractor

from tests.tiny_qwen_asr import ALIGNED, AUDIO, CASES, NUM_CLASSES, NUM_TOKENS, TEXT, token_id, tokenizer, weight
from tests.tones import SAMPLE_RATE, clip

TEMPLATE = (  # renders as the published one does
    "{% for m in messages %}{% if m.role == 'system' %}{{ '<|im_start|>system\n' + m.content + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n' }}{% endif %}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)


def save_model(directory: Path, *, is_aligner: bool = False) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Returns config.json and the shapes of what was saved."""
    kind = {"model_type": "qwen3_forced_aligner", "classify_num": NUM_CLASSES} if is_aligner else {}
    stamps = {"timestamp_token_id": token_id("<timestamp>"), "timestamp_segment_time": 80} if is_aligner else {}
    thinker = {
        "audio_config": AUDIO,
        "text_config": TEXT | {"tie_word_embeddings": not is_aligner},
        "audio_token_id": token_id("<|audio_pad|>"),
        "audio_start_token_id": token_id("<|audio_start|>"),
        "audio_end_token_id": token_id("<|audio_end|>"),
    }
    model = Qwen3ASRForConditionalGeneration(Qwen3ASRConfig(thinker_config=thinker | kind, **stamps))
    own = {name: weight(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
    if not is_aligner:
        own["thinker.lm_head.weight"] = own["thinker.model.embed_tokens.weight"]
    model.load_state_dict(own)
    model.save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["thinker_config"] |= kind  # saving forgets the kind, which the published file has
    path.write_text(json.dumps(config), encoding="utf-8")
    with safe_open(directory / "model.safetensors", "pt") as file:
        return config, {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def processor() -> Any:
    own = {
        "audio_token": "<|audio_pad|>",
        "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
    }
    fast = Qwen2TokenizerFast(tokenizer_object=tokenizer(), pad_token="<|endoftext|>", extra_special_tokens=own)
    return Qwen3ASRProcessor(WhisperFeatureExtractor(feature_size=128), fast, chat_template=TEMPLATE)


def with_windows(model: Any) -> Any:
    tower = model.thinker.audio_tower

    def add_mask(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs | {"attention_mask": tower._prepare_attention_mask(*args)}

    for layer in tower.layers:
        layer.register_forward_pre_hook(add_mask, with_kwargs=True)
    return model


def answer(asr: Any, seconds: float, seed: int, language: str | None, context: str) -> dict[str, Any]:
    """The steps of `transcribe`, with the token ids that it throws away."""
    text = asr._build_text_prompt(context=context, force_language=language)
    inputs = asr.processor(text=[text], audio=[clip(seconds, seed)], return_tensors="pt", padding=True)
    ids = inputs["input_ids"][0].tolist()
    pad = token_id("<|audio_pad|>")
    begin, num_audio = ids.index(pad), ids.count(pad)
    sequences = asr.model.generate(**inputs, max_new_tokens=NUM_TOKENS).sequences
    return {
        "prefix_ids": ids[:begin],
        "num_audio": num_audio,
        "suffix_ids": ids[begin + num_audio :],
        "tokens": sequences[0, len(ids) :].tolist(),
    }


def loaded(directory: Path) -> Any:
    return with_windows(Qwen3ASRForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval())


def recognition(directory: Path) -> dict[str, Any]:
    config, shapes = save_model(directory)
    asr = Qwen3ASRModel("transformers", loaded(directory), processor(), max_new_tokens=NUM_TOKENS)
    answers = [answer(asr, seconds, seed, *more) for seed, (seconds, *more) in enumerate(CASES)]
    return {"config": config, "shapes": shapes, "answers": answers}


def alignment(directory: Path) -> dict[str, Any]:
    config, shapes = save_model(directory, is_aligner=True)
    aligner = Qwen3ForcedAligner(loaded(directory), processor(), Qwen3ForceAlignProcessor())
    results = [
        aligner.align((clip(seconds, seed), SAMPLE_RATE), text, language)[0]
        for seed, (seconds, text, language) in enumerate(ALIGNED)
    ]
    items = [[[item.text, item.start_time, item.end_time] for item in result] for result in results]
    return {"config": config, "shapes": shapes, "items": items}


def main() -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        golden = {"recognition": recognition(Path(one)), "alignment": alignment(Path(other))}
    Path(sys.argv[1]).write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
