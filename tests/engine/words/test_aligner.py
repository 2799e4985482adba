"""Word times from a CTC head whose probabilities the test chooses: its hidden states are its logits."""

import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.processes import processes
from twostage_asr.encoders.adaptor import AdaptorConfig
from twostage_asr.encoders.ctc import CTCConfig, CTCHead
from twostage_asr.engine.errors import CheckpointError
from twostage_asr.engine.manifest import FrameClock
from twostage_asr.engine.words import aligner as aligner_module
from twostage_asr.engine.words import processes as word_processes
from twostage_asr.engine.words import viterbi_blocks
from twostage_asr.engine.words.aligner import HALF_WINDOW_S, Alignment, WordAligner
from twostage_asr.engine.words.confidence import WrittenTokens
from twostage_asr.engine.words.split import split_words
from twostage_asr.engine.words.timer import MIN_TOKEN_S, CTCFrames, Emissions, Targets, Texts, WordTimer, _settle
from twostage_asr.engine.words.tokenizer import CTCTokenizer
from twostage_asr.engine.words.viterbi import BLANK, best_paths, path_log_probs
from twostage_asr.engine.words.viterbi_blocks import Path

MERGES = ["th", "the", " the", "se", "set", "你", "好", "你好", "世"]  # 界 and 𠮷 stay in bytes
BLANK_ID = 300
VOCAB_SIZE = BLANK_ID + 4  # a multiple of the decoder's heads
FRAME_S = 0.06


def byte_tokenizer() -> CTCTokenizer:
    """256 bytes, MERGES, and what it takes to merge them two by two."""
    pieces = [bytes([byte]) for byte in range(256)]
    for merge in MERGES:
        data = merge.encode()
        pieces += [data[:n] for n in range(2, len(data) + 1) if data[:n] not in pieces]
    return CTCTokenizer(pieces)


@pytest.fixture(scope="module")
def tokenizer() -> CTCTokenizer:
    return byte_tokenizer()


def transparent_head() -> CTCHead:
    """Its hidden states are its logits."""
    decoder = AdaptorConfig(encoder_dim=8, llm_dim=VOCAB_SIZE, ffn_dim=8, n_layer=0)
    head = CTCHead(CTCConfig(decoder=decoder, vocab_size=VOCAB_SIZE, blank_id=BLANK_ID))
    torch.nn.init.eye_(head.ctc.ctc_lo.weight)
    torch.nn.init.zeros_(head.ctc.ctc_lo.bias)
    return head


@pytest.fixture(scope="module")
def aligner(tokenizer: CTCTokenizer) -> WordAligner:
    return WordAligner(tokenizer, transparent_head(), FrameClock())


def emitting(tokens: dict[int, int], num_frames: int, sureness: float = 12.0) -> Tensor:
    """Logits (T, vocab) of a head that hears `tokens` (frame -> token id) and blank in all other frames."""
    logits = torch.zeros(num_frames, VOCAB_SIZE)
    logits[:, BLANK_ID] = sureness
    for frame, token_id in tokens.items():
        logits[frame, BLANK_ID] = 0.0
        logits[frame, token_id] = sureness
    return logits


def spoken_evenly(tokenizer: CTCTokenizer, text: str, first: int = 4, step: int = 4) -> Tensor:
    """Every token of the text's spoken form, `step` frames apart."""
    token_ids = Targets.from_texts([text], tokenizer).token_ids.tolist()
    return emitting({first + step * i: t for i, t in enumerate(token_ids)}, first + step * len(token_ids) + 6)


def align_one(aligner: WordAligner, hidden: Tensor, text: str) -> Alignment:
    """What the head hears besides is left out, unless a test is about it."""
    return replace(aligner.align([hidden], [text], [len(hidden) * FRAME_S])[0], ctc_text=None)


@pytest.mark.parametrize("at_once", [512, 5])
def test_hotwords_are_picked_by_what_the_head_hears(
    aligner: WordAligner, tokenizer: CTCTokenizer, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(aligner_module, "_MAX_FRAMES_AT_ONCE", at_once)
    hidden = spoken_evenly(tokenizer, "set the 你好")
    others = tuple(chr(0x4E00 + i) + "世" for i in range(3000))
    assert aligner.heard_hotwords(hidden, (*others, "你好", "The")) == ("你好", "The")
    assert aligner.heard_hotwords(emitting({}, 30), ("你好", "The")) == ()
    assert aligner.heard_hotwords(spoken_evenly(tokenizer, "世世"), ("世世世", "世世")) == ("世世",)


def test_words_come_in_order_around_their_emissions(aligner: WordAligner, tokenizer: CTCTokenizer) -> None:
    result = align_one(aligner, spoken_evenly(tokenizer, "Set the 你好, the set!"), "Set the 你好, the set!")
    assert result.reason is None
    assert result.words is not None
    assert [word.text for word in result.words] == ["Set", "the", "你", "好", "the", "set"]
    for word, frame in zip(result.words, [4, 8, 12, 12, 16, 20], strict=True):
        assert word.start < frame * FRAME_S + 0.1
        assert word.end > frame * FRAME_S - 0.1
        assert word.confidence == pytest.approx(1.0, abs=0.01)


def test_a_frame_s_time_is_the_centre_of_its_windows(aligner: WordAligner, tokenizer: CTCTokenizer) -> None:
    """One token: it lies around the centre of its frame, half of its typical length to the left."""
    (word,) = align_one(aligner, emitting({20: tokenizer.encode("set")[0]}, 40), "set").words or ()
    assert HALF_WINDOW_S == 0.0125
    assert word.start == pytest.approx(20 * FRAME_S + 0.0125 - 3 / 13.5 / 2, abs=0.001)


def test_what_a_text_leaves_out_at_its_end_is_found(aligner: WordAligner, tokenizer: CTCTokenizer) -> None:
    """The head goes on after a pause of two seconds."""
    said, unwritten = tokenizer.encode("set the"), tokenizer.encode("你好世")
    last = 4 + 4 * len(said) + 33

    def hidden(*frames: int) -> Tensor:
        heard = {4 + 4 * i: token_id for i, token_id in enumerate(said)}
        return emitting(heard | dict(zip(frames, unwritten, strict=False)), last + 40)

    def aligned(hidden: Tensor, text: str) -> Alignment:
        (alignment,) = aligner.align([hidden], [text], [len(hidden) * FRAME_S])
        return alignment

    late = hidden(last, last + 8)
    found = aligned(late, "set the")
    assert found.words and found.rest_start is not None and found.ctc_text == "set the"
    assert found.words[-1].end < found.rest_start < last * FRAME_S
    assert found.rest_start > (last - 10) * FRAME_S
    # Nothing, one token, or what follows at once and briefly is no rest; nor is what the text has.
    for frames in ((), (last,), (14, 18)):
        assert aligned(hidden(*frames), "set the").rest_start is None
    assert aligned(late, "set the" + tokenizer.decode(unwritten[:2])).rest_start is None
    # Without a text, speech after something else.
    silent = aligned(late[last - 30 :], "")
    assert (silent.words, silent.ctc_text) == ((), "") and silent.rest_start is not None
    assert aligned(late[last - 10 :], "").rest_start is None


def test_words_that_share_a_token_share_its_time(aligner: WordAligner, tokenizer: CTCTokenizer) -> None:
    assert len(tokenizer.encode("你好")) == 1
    first, second = align_one(aligner, spoken_evenly(tokenizer, "你好"), "你好").words or ()
    assert first.end == second.start
    assert first.end - first.start == pytest.approx(second.end - second.start, abs=0.002)


def test_a_character_split_over_tokens_is_one_word(aligner: WordAligner, tokenizer: CTCTokenizer) -> None:
    assert len(tokenizer.encode("𠮷")) == 4
    words = align_one(aligner, spoken_evenly(tokenizer, "𠮷世", step=2), "𠮷世").words or ()
    assert [word.text for word in words] == ["𠮷", "世"]
    assert words[0].end == words[1].start
    assert words[0].start < 4 * FRAME_S
    assert words[1].start > 10 * FRAME_S


@pytest.mark.parametrize("text", ["", " ", "。，！", "... -- ?", "🙂"])
def test_a_text_without_words_has_no_words_and_needs_no_reason(aligner: WordAligner, text: str) -> None:
    assert align_one(aligner, torch.zeros(5, VOCAB_SIZE), text) == Alignment((), None)
    assert align_one(aligner, torch.zeros(0, VOCAB_SIZE), text) == Alignment((), None)


def test_the_fewest_frames_are_enough_and_one_less_is_not(aligner: WordAligner, tokenizer: CTCTokenizer) -> None:
    text = "set the the"  # the second " the" needs a blank before it
    token_ids = Targets.from_texts([text], tokenizer).token_ids.tolist()
    hidden = emitting({0: token_ids[0], 1: token_ids[1], 3: token_ids[2]}, 4)
    assert [word.text for word in align_one(aligner, hidden, text).words or ()] == ["set", "the", "the"]
    refused = align_one(aligner, hidden[:3], text)
    assert refused == Alignment(None, "the text takes at least 4 frames of 60 ms, the audio has 3")


def test_probabilities_that_are_not_numbers_give_no_words(aligner: WordAligner, tokenizer: CTCTokenizer) -> None:
    good = spoken_evenly(tokenizer, "set the")
    broken = good.clone()
    broken[5, 7] = math.nan
    texts, durations = ["set the"] * 2, [len(good) * FRAME_S] * 2
    refused, fine = aligner.align([broken, good], texts, durations)
    assert (refused.words, refused.reason) == (None, "the CTC head gave probabilities that are not finite numbers")
    assert replace(fine, ctc_text=None) == align_one(aligner, good, "set the")


def test_a_head_at_chance_gives_no_words(aligner: WordAligner) -> None:
    untrained = torch.randn(40, VOCAB_SIZE, generator=torch.Generator().manual_seed(0)) * 0.3
    result = align_one(aligner, untrained, "set the")
    assert result.words is None
    assert "nearer to chance" in (result.reason or "")


def test_confidence_tells_heard_words_from_others(aligner: WordAligner, tokenizer: CTCTokenizer) -> None:
    words = align_one(aligner, spoken_evenly(tokenizer, "set the 世"), "set 你 世").words or ()
    confidences = [word.confidence for word in words]
    assert confidences[0] > 0.99
    assert confidences[1] < 0.01
    assert confidences[2] > 0.99


def test_a_number_counts_as_heard_where_anything_is_said(aligner: WordAligner, tokenizer: CTCTokenizer) -> None:
    """The head spells "twenty" (here: "the"); the text says 20%."""
    words = align_one(aligner, spoken_evenly(tokenizer, "set the 世"), "set 20% 世").words or ()
    assert [word.text for word in words] == ["set", "20%", "世"]
    assert words[1].confidence > 0.99
    assert words[0].start < words[1].start < 8 * FRAME_S + 0.1 < words[2].start


def test_a_vocabulary_of_another_head_is_refused(tokenizer: CTCTokenizer) -> None:
    decoder = AdaptorConfig(encoder_dim=8, llm_dim=8, ffn_dim=8, n_layer=0)
    head = CTCHead(CTCConfig(decoder=decoder, vocab_size=256, blank_id=255))
    with pytest.raises(CheckpointError, match="the head's blank is token 255"):
        WordAligner(tokenizer, head, FrameClock())


TEXTS = st.one_of(st.text(max_size=12), st.text("set 你好世the,.25%'𠮷", max_size=12))


@given(st.lists(st.tuples(TEXTS, st.integers(0, 40), st.floats(0.01, 1.0)), max_size=6), st.integers(0, 2**31))
def test_times_rise_inside_the_clip_whatever_the_head_says(
    aligner: WordAligner, clips: list[tuple[str, int, float]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = [torch.randn(n, VOCAB_SIZE, generator=generator) * 2 for _, n, _ in clips]
    for logits in hidden:
        logits[:, BLANK_ID] += 6.0
    # The last frame may be cut, but not the 25 ms window that every frame needs.
    durations = [max(n - 1 + part, 0.5) * FRAME_S for _, n, part in clips]
    texts = [text for text, _, _ in clips]
    for text, duration, result in zip(texts, durations, aligner.align(hidden, texts, durations), strict=True):
        assert (result.words is None) == (result.reason is not None)
        if result.words is None:
            continue
        assert [word.text for word in result.words] == [word.text for word in split_words(text)]
        edges = [edge for word in result.words for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        assert all(0.0 <= edge <= duration for edge in edges)
        assert all(word.end > word.start for word in result.words)
        assert all(0.0 <= word.confidence <= 1.0 for word in result.words)


@pytest.mark.parametrize("max_cells", [1, 500, 10**9])
def test_a_clip_in_any_batch_gets_what_it_gets_alone(
    aligner: WordAligner, monkeypatch: pytest.MonkeyPatch, max_cells: int
) -> None:
    monkeypatch.setattr(aligner_module, "_MAX_CELLS", max_cells)
    texts = ["set the 你好", "", "a text with far too many tokens", "the", "世界 25%", "set", "你好世", "the set"]
    lens = [30, 9, 8, 30, 21, 9, 45, 28]
    generator = torch.Generator().manual_seed(1)
    hidden = [torch.randn(n, VOCAB_SIZE, generator=generator) for n in lens]
    for logits in hidden:
        logits[:, BLANK_ID] += 6.0
    durations = [n * FRAME_S for n in lens]
    together = aligner.align(hidden, texts, durations)
    alone = [aligner.align([h], [t], [d])[0] for h, t, d in zip(hidden, texts, durations, strict=True)]
    assert [a.reason for a in together] == [a.reason for a in alone]
    assert [a.words is None for a in together] == [i == 2 for i in range(len(texts))]
    for ours, theirs in zip(together, alone, strict=True):
        for word, other in zip(ours.words or (), theirs.words or (), strict=True):
            assert (word.text, word.start, word.end) == (other.text, other.start, other.end)
            assert word.confidence == pytest.approx(other.confidence, rel=1e-4)


def test_a_clip_that_is_searched_in_blocks_gets_the_same_times(
    aligner: WordAligner, tokenizer: CTCTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "set the 你好 世界 25% the the set " * 30
    hidden = spoken_evenly(tokenizer, text)
    at_once = aligner.align([hidden], [text], [len(hidden) * FRAME_S])
    monkeypatch.setattr(aligner_module, "_MAX_CELLS", 1000)
    monkeypatch.setattr(viterbi_blocks, "BLOCK", 64)
    monkeypatch.setattr(viterbi_blocks, "WINDOW", 50)
    monkeypatch.setattr(aligner_module, "best_paths", None)  # the other search
    assert aligner.align([hidden], [text], [len(hidden) * FRAME_S]) == at_once
    assert at_once[0].words


def test_batches_bound_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligner_module, "_MAX_CELLS", 3000)
    num_frames = [10, 100, 20, 95, 90, 40, 39, 38, 37, 11, 300, 1000, 0, *[60] * 30] * 2
    num_tokens = np.array([9] * (len(num_frames) // 2) + [1] * (len(num_frames) // 2))
    batches = aligner_module._batches(num_frames, num_tokens)
    assert sorted(i for batch in batches for i in batch) == np.flatnonzero(num_frames).tolist()
    frames = [[num_frames[i] for i in batch] for batch in batches]
    states = [[2 * num_tokens[i] + 1 for i in batch] for batch in batches]
    sizes = [len(batch) * max(f) * max(s) for batch, f, s in zip(batches, frames, states, strict=True)]
    assert all(size <= 3000 or len(batch) == 1 for size, batch in zip(sizes, batches, strict=True))
    assert max(sizes) > 2700  # and batches are full


def test_a_warm_up_runs_each_power_of_two_of_states(monkeypatch: pytest.MonkeyPatch, aligner: WordAligner) -> None:
    most_states = []

    def watched(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
        most_states.append(2 * targets.shape[1] + 1)
        return best_paths(emissions, targets, frame_lens, target_lens)

    monkeypatch.setattr(aligner_module, "best_paths", watched)
    aligner.warm_up()
    assert [2 ** math.ceil(math.log2(states)) for states in most_states] == [32, 64, 128, 256, 512]


def test_a_warm_up_in_another_thread_disturbs_no_alignment(
    aligner: WordAligner, tokenizer: CTCTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, text = spoken_evenly(tokenizer, "Set the 你好, the set!"), "Set the 你好, the set!"
    undisturbed = align_one(aligner, hidden, text)
    emissions = aligner._emissions

    def disturbed(*question: Any) -> Emissions:
        monkeypatch.setattr(aligner, "_emissions", emissions)
        thread = threading.Thread(target=aligner.warm_up)
        thread.start()
        thread.join()
        return emissions(*question)

    monkeypatch.setattr(aligner, "_emissions", disturbed)
    assert align_one(aligner, hidden, text) == undisturbed


def test_padding_does_not_count_as_doubt() -> None:
    emissions = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    targets = torch.tensor([[1, 2], [2, 1]])
    frame_lens = torch.tensor([12, 7])
    states = best_paths(emissions, targets, frame_lens, torch.tensor([2, 2]))
    log_probs = path_log_probs(emissions, targets, states)
    path = Path(states, log_probs, emissions[:, :, BLANK], emissions.argmax(-1))
    alone = Path(*(each[1:, :7] for each in path))
    with_padding = aligner_module._read_paths(path, 2, frame_lens)
    without = aligner_module._read_paths(alone, 2, frame_lens[1:])
    torch.testing.assert_close(with_padding.frame_log_probs[1:], without.frame_log_probs)
    torch.testing.assert_close(with_padding.of_tokens[:, 1:], without.of_tokens)


SECONDS = st.floats(-3, 9)


@given(
    st.lists(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=6), min_size=1, max_size=3),
    st.sampled_from([0.03, 0.5, 5.0]),
)
def test_any_times_settle_inside_the_clip(clips: list[list[tuple[float, float]]], duration: float) -> None:
    num_tokens = np.array([len(clip) for clip in clips])
    times = np.zeros((len(clips), num_tokens.max(), 2))
    for row, clip in zip(times, clips, strict=True):
        row[: len(clip)] = clip
    starts, ends = _settle(times[:, :, 0], times[:, :, 1], num_tokens, np.full(len(clips), duration))
    for b, n in enumerate(num_tokens.tolist()):
        edges = np.stack([starts[b, :n], ends[b, :n]], axis=1)
        assert edges.min() >= 0.0
        assert edges.max() <= duration + 1e-9
        assert (np.diff(edges.ravel()) >= -1e-9).all()
        assert (np.diff(edges, axis=1) >= min(MIN_TOKEN_S, duration / n) - 1e-9).all()


def test_times_that_fit_are_left_alone() -> None:
    starts, ends = np.array([[0.1, 0.3, 0.9]]), np.array([[0.3, 0.5, 1.2]])
    settled = _settle(starts, ends, np.array([3]), np.array([1.5]))
    np.testing.assert_allclose(settled, (starts, ends))


@given(st.lists(TEXTS, max_size=4))
def test_every_word_has_its_own_stretch_of_its_text_s_tokens(tokenizer: CTCTokenizer, texts: list[str]) -> None:
    targets = Targets.from_texts(texts, tokenizer)
    assert (targets.token_lengths > 0).all()
    assert ((targets.start_fractions >= 0) & (targets.start_fractions < 1)).all()
    assert ((targets.end_fractions > 0) & (targets.end_fractions <= 1)).all()
    assert len(targets.words) == len(targets.num_tokens) == len(texts)
    edges = targets.token_lengths.cumsum() - targets.token_lengths
    starts = edges[targets.start_tokens] + targets.start_fractions * targets.token_lengths[targets.start_tokens]
    ends = edges[targets.end_tokens] + targets.end_fractions * targets.token_lengths[targets.end_tokens]
    assert (ends > starts).all()
    assert (starts[1:] >= ends[:-1] - 1e-9).all()
    assert len(starts) == sum(map(len, targets.words))
    length = word = token = 0.0
    for words, num_tokens in zip(targets.words, targets.num_tokens.tolist(), strict=True):
        own = slice(int(token), int(token) + num_tokens)
        if words:
            assert starts[int(word)] == length
            assert ends[int(word) + len(words) - 1] == pytest.approx(length + targets.token_lengths[own].sum())
        length += targets.token_lengths[own].sum()
        word, token = word + len(words), token + num_tokens
    assert token == len(targets.token_ids)


@given(st.lists(TEXTS, max_size=4))
def test_texts_together_are_looked_for_as_each_alone(tokenizer: CTCTokenizer, texts: list[str]) -> None:
    together, alone = Targets.from_texts(texts, tokenizer), [Targets.from_texts([t], tokenizer) for t in texts]
    assert together.token_ids.tolist() == [token_id for one in alone for token_id in one.token_ids]
    assert together.num_tokens.tolist() == [len(one.token_ids) for one in alone]
    assert together.min_frames().tolist() == [one.min_frames()[0] for one in alone]
    np.testing.assert_allclose(together.start_fractions, np.concatenate([[], *(one.start_fractions for one in alone)]))
    np.testing.assert_allclose(together.end_fractions, np.concatenate([[], *(one.end_fractions for one in alone)]))


# --- in processes of their own


@pytest.fixture(scope="module")
def with_processes(tokenizer: CTCTokenizer) -> Iterator[WordAligner]:
    aligner = WordAligner(tokenizer, transparent_head(), FrameClock(), num_processes=2)
    aligner.start_processes()
    yield aligner
    aligner.close()


def many_clips(tokenizer: CTCTokenizer) -> tuple[list[Tensor], list[str], list[float], list[WrittenTokens | None]]:
    texts = ["Set the 你好", "", "the the set", "a text that is far too long", "set 25%", "世", "the"] * 5
    hidden = [spoken_evenly(tokenizer, text)[: 40 + i] for i, text in enumerate(texts)]
    hidden[9], hidden[11] = hidden[9][:0], torch.zeros_like(hidden[11])  # no frame; nothing that can be understood
    written = [WrittenTokens(list(text), [-0.1] * len(text)) if i % 2 else None for i, text in enumerate(texts)]
    return hidden, texts, [len(clip) * FRAME_S for clip in hidden], written


def test_words_are_timed_in_other_processes_as_here(
    aligner: WordAligner, with_processes: WordAligner, tokenizer: CTCTokenizer
) -> None:
    hidden, texts, durations, written = many_clips(tokenizer)
    expected = aligner.align(hidden, texts, durations, written=written, compare=True)
    assert {one.reason is None for one in expected} == {True, False}
    before = [child.process.pid for child in with_processes._timers._children]
    for count in (len(texts), 16, 15, 1, 0):
        found = with_processes.align(
            hidden[:count], texts[:count], durations[:count], written=written[:count], compare=True
        )
        assert found == expected[:count]
    assert [child.process.pid for child in with_processes._timers._children] == before
    assert [len(with_processes._timers.shares(count)) for count in (15, 16, 24, 99)] == [1, 2, 3, 3]


def test_a_process_that_dies_costs_no_words(with_processes: WordAligner, tokenizer: CTCTokenizer) -> None:
    hidden, texts, durations, _ = many_clips(tokenizer)
    expected = with_processes.align(hidden, texts, durations)
    with_processes._timers._children[1].process.kill()
    assert with_processes.align(hidden, texts, durations) == expected
    assert all(child.process.poll() is None for child in with_processes._timers._children)
    assert with_processes.align(hidden, texts, durations) == expected


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next(
    with_processes: WordAligner, tokenizer: CTCTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody presses Ctrl-C between a question and its answer."""
    hidden, texts, durations, _ = many_clips(tokenizer)
    expected = with_processes.align(hidden, texts, durations)
    with monkeypatch.context() as patched:
        patched.setattr(word_processes, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            with_processes.align(hidden[:20], texts[:20], durations[:20])
    assert with_processes.align(hidden, texts, durations) == expected


def interrupted(_: object) -> None:
    raise KeyboardInterrupt


def test_closed_processes_are_gone(tokenizer: CTCTokenizer) -> None:
    before = processes()
    aligner = WordAligner(tokenizer, transparent_head(), FrameClock(), num_processes=2)
    assert processes() <= before  # a model that is being loaded does not wait for their imports
    aligner.start_processes()
    assert len(processes() - before) == 2
    aligner.close()
    assert processes() <= before
    hidden, texts, durations, _ = many_clips(tokenizer)
    assert len(aligner.align(hidden, texts, durations)) == len(texts)  # here


def test_a_process_gets_a_timer_without_the_texts_of_another_thread(tokenizer: CTCTokenizer) -> None:
    timer = WordTimer(tokenizer, CTCFrames(FRAME_S, HALF_WINDOW_S, BLANK_ID, VOCAB_SIZE))
    timer.targets(Texts(["the set"], [20], [1.2], [None], compare=False))
    copied = pickle.loads(pickle.dumps(timer))
    assert copied._tokenizer.encode("the set") == tokenizer.encode("the set")
    assert not hasattr(copied, "_texts")


def test_timing_words_needs_no_torch() -> None:
    """Or each process would take 0.3 GB and two seconds more."""
    code = "import sys, twostage_asr.engine.words.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
