"""Decode saved prompts with vLLM, one family after the other, in a process of its own.

    python -m tests.engine.families.decode_prompts FILE...    # each holds directory, prompts, num_tokens and dtype

Writes FILE.json beside each: the token ids of every prompt. The test session's own engine would not survive that
another one is closed in its process.
"""

import json
import sys
from pathlib import Path

import torch

from tests.pipeline import decode
from twostage_asr.engine.decoder.base import DecodeParams, LLMSource
from twostage_asr.engine.decoder.vllm_decoder import VLLMDecoder, VLLMOptions
from twostage_asr.engine.manifest import LLM_DIR_NAME, EngineManifest

if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        saved = torch.load(path, weights_only=True)
        engine_dir = Path(saved["directory"])
        info = EngineManifest.read(engine_dir).llm
        source = LLMSource(engine_dir / LLM_DIR_NAME, info, saved["dtype"], 1024)
        decoder = VLLMDecoder(source, VLLMOptions(device=torch.device("cpu")))
        params = DecodeParams(max_new_tokens=saved["num_tokens"], ignore_eos=True)
        tokens = [list(hypothesis.token_ids) for hypothesis in decode(decoder, saved["prompts"], params)]
        path.with_suffix(".json").write_text(json.dumps(tokens))
        decoder.close()
