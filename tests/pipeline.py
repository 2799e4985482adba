"""The engine's steps one by one, for tests that look between them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from twostage_asr.engine.audio.decode import AudioLimits
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.decoder.base import DecodeParams, Decoder, Hypothesis
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.prompt import EmbeddedPrompt
from twostage_asr.engine.transcriber import Transcriber

Clip = dict[str, Any]  # a manifest line; source is an absolute path
GREEDY = DecodeParams(max_new_tokens=200)


def read_manifest(path: Path) -> list[Clip]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line | {"source": str(path.parent / line["source"])} for line in lines]


def embedded_prompt(transcriber: Transcriber, clip: Clip) -> EmbeddedPrompt:
    request = Request(language=clip["language"], hotwords=tuple(clip["hotwords"]), itn=clip["itn"])
    return transcriber.embedder.embed(transcriber.family.prompt_text(request))


def prompt_embeds(transcriber: Transcriber, clips: Sequence[Clip]) -> list[Tensor]:
    """What stage 2 gets for each clip, encoded one by one."""
    waveforms = [load(item, limits=AudioLimits()) for item in expand_inputs([clip["source"] for clip in clips])]
    encoded = [transcriber.acoustic.encode([waveform], with_ctc=False).utterances()[0] for waveform in waveforms]
    return [
        embedded_prompt(transcriber, clip).around(utterance.audio_embeds)
        for clip, utterance in zip(clips, encoded, strict=True)
    ]


def decode(decoder: Decoder, prompts: Sequence[Tensor], params: DecodeParams = GREEDY) -> list[Hypothesis]:
    ids = [decoder.submit(prompt, params) for prompt in prompts]
    done: dict[int, Hypothesis] = {}
    while decoder.num_pending:
        done.update(decoder.poll())
    return [done[i] for i in ids]


def token_ids(hypotheses: Sequence[Hypothesis]) -> list[tuple[int, ...]]:
    return [hypothesis.token_ids for hypothesis in hypotheses]
