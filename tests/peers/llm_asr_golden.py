"""A tiny LLMASR with random weights, and what FunASR's own class answers to a few clips, as a file that our tests read.

FunASR's class needs openai-whisper, which our environment does not have:

    uv venv -p 3.11 /tmp/llmasr && uv pip install -p /tmp/llmasr/bin/python torch==2.13.0 torchaudio==2.11.0 \
        transformers==4.57.6 funasr==1.4.16 openai-whisper soundfile
    /tmp/llmasr/bin/python -m tests.peers.llm_asr_golden tests/engine/families/llm_asr_golden.json

The weights are a function of their names and shapes, so that the tests make the same checkpoint without FunASR.
"""

import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch

from tests.tiny_llm_asr import ADAPTORS, NUM_TOKENS, PROMPT, SECONDS, WHISPER, weight, write_llm
from tests.tones import clip


def build(directory: Path, adaptor: str) -> tuple[Any, Any, Any]:
    """FunASR's model, front end and tokenizer over the weights of our checkpoint."""
    import whisper
    from funasr.frontends.whisper_frontend import WhisperFrontend
    from funasr.models.llm_asr import model as llm_asr
    from transformers import AutoTokenizer

    encoder = whisper.model.Whisper(whisper.model.ModelDimensions(**WHISPER)).encoder
    tables = types.SimpleNamespace(
        encoder_classes={"Whisper": lambda **_: encoder},
        adaptor_classes=llm_asr.tables.adaptor_classes,
        specaug_classes={},
        normalize_classes={},
    )
    encoder.output_size = lambda: WHISPER["n_audio_state"]
    llm_asr.tables = tables
    model = llm_asr.LLMASR(
        audio_encoder="Whisper",
        audio_encoder_conf={"freeze": False},
        audio_adaptor=adaptor,
        audio_adaptor_conf=dict(ADAPTORS[adaptor]),
        llm_conf={"hub": "hf", "init_param_path": str(directory / "llm"), "freeze": True},
    )
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("llm.")}
    model.load_state_dict({name: weight(name, tuple(tensor.shape)) for name, tensor in own.items()}, strict=False)
    frontend = WhisperFrontend(n_mels=WHISPER["n_mels"], do_pad_trim=True, permute=True)
    return model.eval(), frontend, AutoTokenizer.from_pretrained(directory / "llm")


@torch.inference_mode()
def answer(model: Any, frontend: Any, tokenizer: Any, seconds: float, seed: int) -> dict[str, Any]:
    """The steps of LLMASR.inference, with the token ids that it throws away."""
    waveform = torch.from_numpy(clip(seconds, seed))[None]
    features, lens = frontend(waveform, torch.tensor([waveform.shape[1]]))
    encoded, _ = model.encode(features, lens)
    audio = model.audio_adaptor(encoded)
    ids = tokenizer.encode(f"USER: \nINSTRUCTION: {PROMPT}\nINPUT: ")
    embeds = torch.cat([model.llm.model.embed_tokens(torch.tensor(ids))[None], audio], 1)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    tokens = model.llm.generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        max_new_tokens=NUM_TOKENS,
        min_new_tokens=NUM_TOKENS,
        num_beams=1,
        do_sample=False,
    )
    return {"prefix_ids": ids, "num_audio": audio.shape[1], "suffix_ids": [], "tokens": tokens[0].tolist()}


def main() -> None:
    golden: dict[str, Any] = {}
    for adaptor in ("Linear", "QFormer"):  # FunASR's LLMASR cannot run its Transformer adaptor: it gives no lengths
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            write_llm(directory / "llm")
            parts = build(directory, adaptor)
            golden[adaptor] = [answer(*parts, seconds, seed) for seed, seconds in enumerate(SECONDS)]
    Path(sys.argv[1]).write_text(json.dumps(golden) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
