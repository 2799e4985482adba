"""The CTC head: which token the audio holds in each 60 ms frame.

Hidden states and log-probabilities are separate steps, because the vocabulary is wide (60,515 tokens: the float32
log-probabilities of a 30 s clip take 120 MB). `scores` and `greedy` look at a few hundred frames at a time.
Logits, log-probabilities and their sums are float32 for weights of any dtype.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adaptor import AdaptorConfig, TransformerAdaptor
from .transformer import valid_frames

_MAX_FRAMES_AT_ONCE = 512  # of all clips together: 124 MB of float32 logits


@dataclass(frozen=True, slots=True, kw_only=True)
class CTCConfig:
    """Sizes of the head. Its decoder must keep the frame rate."""

    decoder: AdaptorConfig
    vocab_size: int
    blank_id: int

    def __post_init__(self) -> None:
        if not 0 <= self.blank_id < self.vocab_size:
            raise ValueError(f"blank_id must be in 0..{self.vocab_size - 1} (the CTC vocabulary), got {self.blank_id}")
        if self.decoder.downsample_rate != 1:
            raise ValueError(f"the CTC decoder's downsample_rate must be 1, got {self.decoder.downsample_rate}")


@dataclass(frozen=True, slots=True, eq=False)
class CTCScores:
    """What one look at all tokens says of B padded clips."""

    emissions: Tensor  # (B, T, K) float32, log-probabilities of the tokens that were asked for
    best: Tensor  # (B, T) int64, the likeliest token of each frame


class CTCOutput(nn.Module):
    """The output layer, in a module of its own only because the checkpoint's keys say `ctc.ctc_lo`."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(width, vocab_size)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocab_size) float32. Logits rounded to bfloat16 would be wrong by some per cent."""
        weight, bias = self.ctc_lo.weight, self.ctc_lo.bias
        if hidden.is_cuda and weight.dtype != torch.float32:
            # Tensor cores add up products of bfloat16 in float32, and need no float32 copy of the weights.
            rows = hidden.to(weight.dtype).flatten(0, -2)
            logits: Tensor = torch.mm(rows, weight.t(), out_dtype=torch.float32).add_(bias)
            return logits.view(*hidden.shape[:-1], -1)
        return F.linear(hidden.float(), weight.float(), bias.float())


class CTCHead(nn.Module):
    """Decoder and output layer. Keys are the checkpoint's: `ctc_decoder.*` and `ctc.ctc_lo.*`."""

    def __init__(self, config: CTCConfig) -> None:
        super().__init__()
        self.config = config
        self.ctc_decoder = TransformerAdaptor(config.decoder)
        self.ctc = CTCOutput(config.decoder.llm_dim, config.vocab_size)

    def hidden(self, encoder_out: Tensor, lens: Tensor) -> Tensor:
        """(B, T, encoder_dim) and (B,) -> (B, T, D), what the other methods read."""
        hidden: Tensor = self.ctc_decoder(encoder_out, lens)[0]
        return hidden

    def log_probs(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., vocab_size) float32. Mind the size; see `scores`."""
        return self.ctc.logits(hidden).log_softmax(-1)

    def scores(self, hidden: Tensor, columns: Tensor) -> CTCScores:
        """Log-probabilities of only some tokens, as forced alignment needs them, and the likeliest of all.

        Args:
            hidden: (B, T, D).
            columns: (B, K) int64 token ids, any order, repetitions allowed; emissions[b, t, k] is the
                log-probability of token columns[b, k] in frame t.
        """
        index = columns.to(hidden.device)
        if hidden.is_cuda and hidden.dtype == self.ctc.ctc_lo.weight.dtype == torch.bfloat16:
            return self._scores_without_logits(hidden, index)
        index = index[:, None, :]
        emissions = hidden.new_empty(*hidden.shape[:2], columns.shape[1], dtype=torch.float32)
        best = hidden.new_empty(hidden.shape[:2], dtype=torch.int64)
        for part in _parts(hidden):
            logits = self.ctc.logits(hidden[:, part])
            chosen = logits.gather(2, index.expand(-1, logits.shape[1], -1))
            emissions[:, part] = chosen - logits.logsumexp(-1, keepdim=True)
            best[:, part] = logits.argmax(-1)
        return CTCScores(emissions, best)

    def _scores_without_logits(self, hidden: Tensor, index: Tensor) -> CTCScores:
        """The same on an NVIDIA GPU: a product with the few columns, and one kernel that looks at all of them."""
        from .ctc_triton import log_norm_and_best

        weight, bias = self.ctc.ctc_lo.weight, self.ctc.ctc_lo.bias
        logits = torch.baddbmm(bias[index][:, None].float(), hidden.float(), weight[index].float().transpose(1, 2))
        norm, best = log_norm_and_best(hidden.flatten(0, 1), weight, bias)
        return CTCScores(logits.sub_(norm.view(*hidden.shape[:2], 1)), best.view(hidden.shape[:2]))

    def greedy(self, hidden: Tensor, lens: Tensor) -> list[tuple[list[int], list[int]]]:
        """Best path of each clip: (B, T, D) -> what `collapse` makes of the likeliest token of every frame."""
        best = hidden.new_empty(hidden.shape[:2], dtype=torch.int64)
        for part in _parts(hidden):
            best[:, part] = self.ctc.logits(hidden[:, part]).argmax(-1)
        return self.collapse(best, lens)

    def collapse(self, best: Tensor, lens: Tensor) -> list[tuple[list[int], list[int]]]:
        """(B, T) a token for each frame -> the tokens of each clip, equal neighbours merged and blanks dropped, and the
        frame in which each begins.
        """
        starts = F.pad(best[:, 1:] != best[:, :-1], (1, 0), value=True) & (best != self.config.blank_id)
        valid = valid_frames(lens, best.shape[1], best.device)
        if valid is not None:
            starts &= valid
        rows = zip(best.cpu(), starts.cpu(), strict=True)
        return [(row[keep].tolist(), keep.nonzero()[:, 0].tolist()) for row, keep in rows]


def _parts(hidden: Tensor) -> Iterator[slice]:
    """Slices of the frame axis of (B, T, D)."""
    size = max(_MAX_FRAMES_AT_ONCE // hidden.shape[0], 1)
    return (slice(start, start + size) for start in range(0, hidden.shape[1], size))
