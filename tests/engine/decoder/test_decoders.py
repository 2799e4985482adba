"""Both decoders: the same tokens from the same prompts, whatever else is decoded beside them; no prompt kills."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.pipeline import GREEDY, Clip, decode, prompt_embeds, token_ids
from twostage_asr.engine import AudioError, AutoModelVLLM, DecodeError, PromptTooLongError
from twostage_asr.engine.decoder.base import DecodeParams, Decoder, Hypothesis, is_finite
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.transcriber import Transcriber


@pytest.fixture(scope="module")
def reference(torch_models: dict[str, AutoModelVLLM]) -> Transcriber:
    return torch_models["low_frame_rate"].transcriber


@pytest.fixture(scope="module")
def prompts(reference: Transcriber, clips: list[Clip]) -> list[Tensor]:
    return prompt_embeds(reference, clips)


@pytest.fixture(params=["vllm", "torch"])
def decoder(request: pytest.FixtureRequest, vllm_model: AutoModelVLLM, reference: Transcriber) -> Decoder:
    return reference.decoder if request.param == "torch" else vllm_model.transcriber.decoder


def test_vllm_writes_what_transformers_writes(
    vllm_model: AutoModelVLLM, reference: Transcriber, prompts: list[Tensor]
) -> None:
    ours, theirs = decode(vllm_model.transcriber.decoder, prompts), decode(reference.decoder, prompts)
    assert token_ids(ours) == token_ids(theirs)
    assert sum(map(len, token_ids(ours))) > 3 * len(prompts)
    for a, b in zip(ours, theirs, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-3)
        assert a.finish_reason == b.finish_reason == "stop"


def test_batch_equals_single(decoder: Decoder, prompts: list[Tensor]) -> None:
    together = decode(decoder, prompts)
    alone = [decode(decoder, [prompt])[0] for prompt in prompts]
    assert token_ids(together) == token_ids(alone)


def test_order_does_not_matter(decoder: Decoder, prompts: list[Tensor]) -> None:
    assert token_ids(decode(decoder, prompts[::-1]))[::-1] == token_ids(decode(decoder, prompts))


def test_prompts_may_join_while_others_are_decoded(decoder: Decoder, prompts: list[Tensor]) -> None:
    expected = token_ids(decode(decoder, prompts))
    ids: list[int] = []
    done: dict[int, Hypothesis] = {}
    waiting = iter(prompts)
    for _ in itertools.count():
        ids += [decoder.submit(prompt, GREEDY) for prompt in itertools.islice(waiting, 2)]
        done.update(decoder.poll())
        if not decoder.num_pending and len(ids) == len(prompts):
            break
    assert [done[i].token_ids for i in ids] == expected


def test_embedding_prompt_equals_token_id_prompt(vllm_model: AutoModelVLLM) -> None:
    """The rows that we embed ourselves are those that vLLM would embed."""
    transcriber = vllm_model.transcriber
    prompt = transcriber.embedder.embed(transcriber.family.prompt_text(Request(hotwords=("Smyth", "章三"))))
    decoder: Any = transcriber.decoder
    params = DecodeParams(max_new_tokens=20, ignore_eos=True)
    (embedded,) = decode(decoder, [torch.cat([prompt.prefix, prompt.suffix])], params)
    ids = [*prompt.prefix_ids, *prompt.suffix_ids]
    decoder._engine.add_request("ids", {"prompt_token_ids": ids}, decoder._sampling_params(params))
    outputs: list[Any] = []
    while not outputs:
        outputs = [output for output in decoder._engine.step() if output.finished]
    assert tuple(outputs[0].outputs[0].token_ids) == embedded.token_ids
    assert len(embedded.token_ids) == 20


@pytest.mark.parametrize("bad", ["width", "nan", "infinity", "three dimensions"])
def test_a_bad_prompt_is_refused_and_the_engine_lives(decoder: Decoder, prompts: list[Tensor], bad: str) -> None:
    prompt = prompts[0].clone()
    if bad == "width":
        prompt = prompt[:, :-1]
    elif bad == "three dimensions":
        prompt = prompt[None]
    else:
        prompt[3, 5] = float(bad.replace("infinity", "inf"))
    expected = token_ids(decode(decoder, prompts[:1]))
    with pytest.raises(AudioError if bad in ("nan", "infinity") else DecodeError):
        decoder.submit(prompt, GREEDY)
    assert token_ids(decode(decoder, prompts[:1])) == expected


def test_a_prompt_without_room_for_its_answer_is_refused(decoder: Decoder, prompts: list[Tensor]) -> None:
    room = decoder.limits.max_model_len - prompts[0].shape[0]
    with pytest.raises(PromptTooLongError, match=f"max_new_tokens={room + 1} more"):
        decoder.submit(prompts[0], DecodeParams(max_new_tokens=room + 1))
    decoder.submit(prompts[0], DecodeParams(max_new_tokens=room))
    decoder.cancel()


def test_max_new_tokens_bounds_the_answer_and_says_so(decoder: Decoder, prompts: list[Tensor]) -> None:
    (hypothesis,) = decode(decoder, prompts[:1], DecodeParams(max_new_tokens=2))
    assert (len(hypothesis.token_ids), hypothesis.finish_reason) == (2, "length")


def test_ignore_eos_writes_to_the_end(decoder: Decoder, prompts: list[Tensor]) -> None:
    (hypothesis,) = decode(decoder, prompts[:1], DecodeParams(max_new_tokens=40, ignore_eos=True))
    assert (len(hypothesis.token_ids), hypothesis.finish_reason) == (40, "length")


def test_cancel_drops_what_is_pending(decoder: Decoder, prompts: list[Tensor]) -> None:
    expected = token_ids(decode(decoder, prompts[:2]))
    for prompt in prompts:
        decoder.submit(prompt, GREEDY)
    decoder.cancel()
    assert (decoder.num_pending, decoder.poll()) == (0, [])
    assert token_ids(decode(decoder, prompts[:2])) == expected


def test_a_repetition_penalty_sees_no_other_request(decoder: Decoder, prompts: list[Tensor]) -> None:
    """vLLM would read the prompt ids of whoever had the slot before."""
    params = DecodeParams(max_new_tokens=30, repetition_penalty=5.0)
    first = token_ids(decode(decoder, prompts[:4], params))
    decode(decoder, prompts)
    assert token_ids(decode(decoder, prompts[:4], params)) == first


def test_sampling_repeats_with_its_seed(decoder: Decoder, prompts: list[Tensor]) -> None:
    params = DecodeParams(max_new_tokens=30, temperature=2.0, top_p=0.95, seed=7, ignore_eos=True)
    other = DecodeParams(max_new_tokens=30, temperature=2.0, top_p=0.95, seed=8, ignore_eos=True)
    assert token_ids(decode(decoder, prompts[:1], params)) == token_ids(decode(decoder, prompts[:1], params))
    assert token_ids(decode(decoder, prompts[:1], params)) != token_ids(decode(decoder, prompts[:1], other))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4))
def test_rows_of_any_bits_are_finite_where_torch_says_so(dtype: torch.dtype, bits: list[int]) -> None:
    rows = torch.tensor(bits, dtype=torch.int32).view(dtype)
    assert is_finite(rows) == bool(rows.isfinite().all())
    assert is_finite(torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min, -0.0], dtype=dtype))
    for bad in ("nan", "inf"):
        assert not is_finite(torch.tensor([0.0, float(bad)], dtype=dtype))
        assert not is_finite(torch.tensor([0.0, -float(bad)], dtype=dtype))
