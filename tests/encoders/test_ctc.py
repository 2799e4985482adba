"""Emissions are columns of the log-probabilities; greedy is the collapsed best path; parts equal the whole."""

from itertools import groupby

import numpy as np
import pytest
import torch
from torch import Tensor

from twostage_asr.encoders import ctc as ctc_module
from twostage_asr.encoders.adaptor import AdaptorConfig
from twostage_asr.encoders.ctc import CTCConfig, CTCHead
from twostage_asr.engine.words.timer import collapse

BLANK = 6
LENS = torch.tensor([40, 1, 25])


@pytest.fixture(scope="module")
def head() -> CTCHead:
    torch.manual_seed(0)
    decoder = AdaptorConfig(encoder_dim=16, llm_dim=32, ffn_dim=24, n_layer=1)
    return CTCHead(CTCConfig(decoder=decoder, vocab_size=7, blank_id=BLANK)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def hidden(head: CTCHead) -> Tensor:
    return head.hidden(torch.randn(3, 41, 16, generator=torch.Generator().manual_seed(0)) * 5, LENS)


def clips_of(hidden: Tensor) -> list[Tensor]:
    """Without their padding."""
    return [clip[:length] for clip, length in zip(hidden, LENS.tolist(), strict=True)]


def test_log_probs_are_a_distribution(head: CTCHead, hidden: Tensor) -> None:
    log_probs = head.log_probs(hidden)
    assert log_probs.shape == (3, 41, 7)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 41))


@pytest.mark.parametrize("frames_at_once", [1, 10, 10**6])
def test_emissions_are_columns_of_the_log_probs(
    head: CTCHead, hidden: Tensor, frames_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctc_module, "_MAX_FRAMES_AT_ONCE", frames_at_once)
    columns = torch.tensor([[BLANK, 0, 0, 3], [BLANK, 5, 4, 3], [1, 1, 1, 1]])
    log_probs = head.log_probs(hidden)
    expected = log_probs.gather(2, columns[:, None, :].expand(-1, 41, -1))
    scores = head.scores(clips_of(hidden), columns)
    for clip, length in enumerate(LENS.tolist()):
        torch.testing.assert_close(scores.emissions[clip, :length], expected[clip, :length], atol=1e-5, rtol=0)
        assert scores.best[clip, :length].equal(log_probs[clip, :length].argmax(-1))


@pytest.mark.parametrize("frames_at_once", [1, 10, 10**6])
def test_greedy_is_the_collapsed_best_path(
    head: CTCHead, hidden: Tensor, frames_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctc_module, "_MAX_FRAMES_AT_ONCE", frames_at_once)
    best = head.log_probs(hidden).argmax(-1)
    expected = [
        [token for token, _ in groupby(row[:length].tolist()) if token != BLANK]
        for row, length in zip(best, LENS.tolist(), strict=True)
    ]
    blank = torch.full((len(LENS), 1), BLANK)
    path = head.scores(clips_of(hidden), blank).best.numpy()
    assert [tokens for tokens, _ in collapse(path, LENS.tolist(), BLANK)] == expected
    assert len(expected[0]) > 5


def test_a_blank_between_equal_tokens_keeps_both() -> None:
    path = np.array([[0, 0, BLANK, 0, 1, 1, BLANK, BLANK, 1]])
    for num_frames, expected in ((9, ([0, 0, 1, 1], [0, 3, 4, 8])), (8, ([0, 0, 1], [0, 3, 4])), (0, ([], []))):
        assert collapse(path, [num_frames], BLANK) == [expected]


def test_bfloat16_weights_give_float32_log_probs(head: CTCHead, hidden: Tensor) -> None:
    half = CTCHead(head.config).to(torch.bfloat16)
    half.load_state_dict(head.state_dict())
    log_probs = half.log_probs(hidden.bfloat16())
    assert (
        log_probs.dtype
        == half.scores(clips_of(hidden.bfloat16()), torch.zeros(3, 1, dtype=torch.int64)).emissions.dtype
        == torch.float32
    )
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 41))
    torch.testing.assert_close(log_probs, head.log_probs(hidden), atol=0.05, rtol=0)


@pytest.mark.parametrize("blank_id", [-1, 7])
def test_a_blank_outside_the_vocabulary_is_refused(head: CTCHead, blank_id: int) -> None:
    with pytest.raises(ValueError, match=r"blank_id must be in 0\.\.6"):
        CTCConfig(decoder=head.config.decoder, vocab_size=7, blank_id=blank_id)


def test_a_decoder_that_drops_frames_is_refused() -> None:
    decoder = AdaptorConfig(encoder_dim=16, llm_dim=32, ffn_dim=24, n_layer=1, downsample_rate=2)
    with pytest.raises(ValueError, match="downsample_rate must be 1, got 2"):
        CTCConfig(decoder=decoder, vocab_size=7, blank_id=BLANK)
