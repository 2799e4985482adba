"""The CTC head: which token the audio holds in each 60 ms frame.

Hidden states and log-probabilities are separate steps, because the vocabulary is large: with 60,515 tokens, the float32
log-probabilities of a 30 s clip take 120 MB. `scores` computes a few hundred frames at a time and skips the padding.
Logits, log-probabilities and their sums are float32, whatever the dtype of the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adaptor import AdaptorConfig, TransformerAdaptor
from .upload import to_device

_MAX_FRAMES_AT_ONCE = 512  # of all clips together: 124 MB of float32 logits


@dataclass(frozen=True, slots=True, kw_only=True)
class CTCConfig:
    """Sizes of the head. Its decoder must not change the frame rate. Raises ValueError."""

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
    """Scores of B padded clips. Rows of padding have no meaning."""

    emissions: Tensor  # (B, T, K) float32, log-probabilities of the tokens that were asked for
    best: Tensor  # (B, T) int64, the most probable token of each frame


class CTCOutput(nn.Module):
    """The output layer. It is a module of its own because the checkpoint's keys are `ctc.ctc_lo.*`."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(width, vocab_size)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocab_size) float32. bfloat16 would be too coarse for logits."""
        weight, bias = self.ctc_lo.weight, self.ctc_lo.bias
        if hidden.is_cuda and weight.dtype != torch.float32:
            # Tensor cores sum bfloat16 products in float32, so the weights need no float32 copy.
            rows = hidden.to(weight.dtype).flatten(0, -2)
            logits: Tensor = torch.mm(rows, weight.t(), out_dtype=torch.float32).add_(bias)
            return logits.view(*hidden.shape[:-1], -1)
        return F.linear(hidden.float(), weight.float(), bias.float())


class CTCHead(nn.Module):
    """Decoder and output layer. Its state dict has the checkpoint's keys: `ctc_decoder.*` and `ctc.ctc_lo.*`."""

    def __init__(self, config: CTCConfig) -> None:
        super().__init__()
        self.config = config
        self.ctc_decoder = TransformerAdaptor(config.decoder)
        self.ctc = CTCOutput(config.decoder.llm_dim, config.vocab_size)

    def hidden(self, encoder_out: Tensor, lens: Tensor) -> Tensor:
        """(B, T, encoder_dim) and (B,) lengths -> (B, T, D), the input of the other methods."""
        hidden: Tensor = self.ctc_decoder(encoder_out, lens)[0]
        return hidden

    def log_probs(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., vocab_size) float32. The result is large; `scores` avoids it."""
        return self.ctc.logits(hidden).log_softmax(-1)

    def scores(self, hidden: Sequence[Tensor], columns: Tensor) -> CTCScores:
        """Log-probabilities of some tokens, for forced alignment, and the most probable of all tokens.

        Args:
            hidden: B tensors (T, D), one for each clip.
            columns: (B, K) int64 token ids, any order, repetitions allowed; emissions[b, t, k] is the
                log-probability of token columns[b, k] in frame t.
        """
        lens = torch.tensor([len(clip) for clip in hidden])
        num_clips, num_frames = len(hidden), int(lens.max())
        rows = torch.cat(list(hidden))  # without padding, which would cost a product with the whole vocabulary
        in_clip = torch.arange(num_frames) < lens[:, None]
        places = to_device(in_clip.flatten().nonzero()[:, 0], rows.device)  # of the rows among B * T
        index = columns.to(rows.device)
        best = rows.new_zeros(num_clips * num_frames, dtype=torch.int64)
        if rows.is_cuda and rows.dtype == self.ctc.ctc_lo.weight.dtype == torch.bfloat16:
            emissions, best[places] = self._scores_without_logits(rows, places, index, num_frames)
        else:
            emissions = rows.new_zeros(len(best), index.shape[1], dtype=torch.float32)
            for part, at in zip(*(torch.split(each, _MAX_FRAMES_AT_ONCE) for each in (rows, places)), strict=True):
                logits = self.ctc.logits(part)
                emissions[at] = logits.gather(1, index[at // num_frames]) - logits.logsumexp(-1, keepdim=True)
                best[at] = logits.argmax(-1)
        return CTCScores(emissions.view(num_clips, num_frames, -1), best.view(num_clips, num_frames))

    def _scores_without_logits(
        self, rows: Tensor, places: Tensor, index: Tensor, num_frames: int
    ) -> tuple[Tensor, Tensor]:
        """`scores` on an NVIDIA GPU: a product with the few columns, and one kernel that scans the whole vocabulary.

        Returns:
            (B, T, K) emissions, and the most probable token of each row.
        """
        from .ctc_triton import log_norm_and_best

        weight, bias = self.ctc.ctc_lo.weight, self.ctc.ctc_lo.bias
        norm, best = log_norm_and_best(rows, weight, bias)
        hidden = rows.new_zeros(len(index) * num_frames, rows.shape[1], dtype=torch.float32)
        hidden[places] = rows.float()
        norms = norm.new_zeros(len(hidden))
        norms[places] = norm
        hidden, norms = (each.view(len(index), num_frames, -1) for each in (hidden, norms))
        logits = torch.baddbmm(bias[index][:, None].float(), hidden, weight[index].float().transpose(1, 2))
        return logits.sub_(norms), best
