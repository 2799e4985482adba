"""The last step: the CTC head learns when words are spoken.

Plain CTC may emit a token anywhere near its word, and with a whole clip in view emits the first ones long before they
are heard. So the finished model's head, and nothing else, is trained on with tokens allowed only around the middle of
their words, which the synthesizer knows. What the LLM hears and writes stays as it is.
"""

import math
import time
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage_asr.encoders.fbank import fbank_frame_lens, lfr_frame_lens
from twostage_asr.encoders.fun_asr_nano import FunASRNanoAcoustic

from .batches import Batch
from .compose import Augmentation, Composer, to_device

_LR = 1e-3
_NEVER = -1e4  # log-probability of what is not allowed; finite, so that a clip with too little room has a gradient


def align_head(
    acoustic: FunASRNanoAcoustic, composer: Composer, batches: Iterator[Batch], *, steps: int, until: float
) -> None:
    """Train the CTC head for `steps` batches, or until a time of time.perf_counter()."""
    head = acoustic.ctc_head
    assert head is not None
    device = next(head.parameters()).device
    optimizer = torch.optim.AdamW(head.parameters(), lr=_LR, betas=(0.9, 0.98), weight_decay=0.02)
    started = time.perf_counter()
    for step in range(steps):
        now = time.perf_counter()
        progress = max(step / steps, (now - started) / (until - started)) if now < until else 1.0
        if progress >= 1.0:
            print(f"CTC head: out of time after {step} of {steps} steps", flush=True)
            break
        batch = to_device(next(batches), device)
        with torch.no_grad():
            features, lens = composer.features(batch, Augmentation())
            encoder_out = acoustic.audio_encoder(features, lens)
        loss = aligned_ctc_loss(head.log_probs(head.hidden(encoder_out, lens)), lens, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = _LR * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.step()
        if step % max(steps // 10, 1) == 0:
            print(f"CTC head, step {step:5d}  loss {float(loss.detach()):.4f}", flush=True)


def aligned_ctc_loss(log_probs: Tensor, lens: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean per token of -log P(the tokens, each within its window); log_probs (B, T, V), the last class is blank.

    P factors into that of emitting, in every frame, something allowed there, and CTC's among what is.
    """
    masked = log_probs.masked_fill(~_allowed(log_probs.shape, batch), _NEVER)
    kept = masked.logsumexp(-1)
    ctc = F.ctc_loss(
        (masked - kept[..., None]).transpose(0, 1),
        batch["ctc_ids"],
        lfr_frame_lens(fbank_frame_lens(batch["sample_lens"])),
        batch["ctc_lens"],
        blank=log_probs.shape[-1] - 1,
        reduction="sum",
        zero_infinity=True,
    )
    valid = torch.arange(log_probs.shape[1], device=kept.device) < lens[:, None]
    return (ctc - kept.masked_fill(~valid, 0.0).sum()) / max(len(batch["ctc_ids"]), 1)


def _allowed(shape: torch.Size, batch: Mapping[str, Tensor]) -> Tensor:
    """(B, T, V): blank anywhere, each token from the first to the last frame of its window."""
    num_clips, num_frames, num_classes = shape
    rows, ids, windows = batch["ctc_rows"], batch["ctc_ids"], batch["ctc_windows"]
    edges = torch.zeros(num_clips, num_frames + 1, num_classes, dtype=torch.int16, device=ids.device)
    one = torch.ones(len(ids), dtype=torch.int16, device=ids.device)
    edges.index_put_((rows, windows[:, 0], ids), one, accumulate=True)
    edges.index_put_((rows, windows[:, 1] + 1, ids), -one, accumulate=True)
    allowed = edges[:, :-1].cumsum(1, dtype=torch.int16) > 0
    allowed[..., -1] = True
    return allowed
