"""LLMASR's first stage: Whisper's encoder and one of three adaptors, under the names of FunASR's checkpoints.

Like Whisper it always hears 30 s. As in training, the silence after a clip is encoded and the LLM reads it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import SAMPLE_RATE
from .adaptor import AdaptorConfig, TransformerAdaptor
from .transformer import LayerStack, attend
from .whisper_features import HOP_SAMPLES

WINDOW_SAMPLES = 30 * SAMPLE_RATE
HEAD_WIDTH = 64  # dimensions of an attention head, in all sizes of Whisper
AdaptorKind = Literal["Linear", "Transformer", "QFormer"]
QUERIES = 64  # of the Q-Former, for every window
QFORMER_WIDTH = 768  # Blip-2's
_QFORMER_WINDOW_S = 0.333333


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMASRTowerConfig:
    """Sizes of encoder and adaptor."""

    num_mels: int
    encoder_dim: int
    num_layers: int
    num_positions: int  # encoder frames of 30 s
    adaptor: AdaptorKind
    llm_dim: int
    ffn_dim: int = 2048  # of the adaptor's linear layers
    downsample_rate: int = 5  # encoder frames that the adaptor joins; the Q-Former does not use it
    n_layer: int = 0  # Transformer layers of the adaptor
    attention_heads: int = 8

    def __post_init__(self) -> None:
        if self.adaptor not in get_args(AdaptorKind):
            raise ValueError(f"adaptor must be one of {', '.join(get_args(AdaptorKind))}, got {self.adaptor!r}")
        if self.encoder_dim % HEAD_WIDTH:
            raise ValueError(f"encoder_dim must be a multiple of {HEAD_WIDTH}, got {self.encoder_dim}")
        if self.num_positions != WINDOW_SAMPLES // HOP_SAMPLES // 2:
            raise ValueError(
                f"num_positions must be {WINDOW_SAMPLES // HOP_SAMPLES // 2} (30 s), got {self.num_positions}"
            )


class LLMASRTower(nn.Module):
    """Encoder and adaptor; its units are windows of 30 s.

    Its state dict has the checkpoint's keys: `audio_encoder.*` and `audio_adaptor.*`.
    """

    min_samples: int = WINDOW_SAMPLES
    max_samples: int | None = WINDOW_SAMPLES
    few_units = 8

    def __init__(self, config: LLMASRTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.num_mels = config.num_mels
        self.audio_encoder = WhisperEncoder(config)
        self.audio_adaptor = _ADAPTORS[config.adaptor](config)

    def num_tokens(self, num_samples: int) -> int:
        """Number of embeddings of a clip, which is the same for every clip of up to 30 s."""
        config = self.config
        if config.adaptor == "QFormer":
            return config.num_positions // qformer_window(config.num_positions) * QUERIES
        if config.adaptor == "Linear":
            return config.num_positions // config.downsample_rate
        return -(-config.num_positions // config.downsample_rate)

    def compile(self) -> None:
        """See LayerStack."""
        self.audio_encoder.compile()

    def units(self, features: Tensor, sample_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns its arguments, because each clip is one unit."""
        return features, sample_lens

    def forward(self, units: Tensor, lens: Tensor) -> Tensor:
        """Encode U clips of up to 30 s.

        Args:
            units: (U, num_mels, 3000) float32.
            lens: (U,) int64. They are not used, because the silence after a clip is encoded as well.

        Returns:
            (U, num_tokens, llm_dim).
        """
        out: Tensor = self.audio_adaptor(self.audio_encoder(units))
        return out


class WhisperEncoder(LayerStack):
    """Whisper's encoder (arXiv:2212.04356, section 2.2) in the layout of openai-whisper's checkpoints."""

    def __init__(self, config: LLMASRTowerConfig) -> None:
        super().__init__(_Block, fixed_frames=True)
        width = config.encoder_dim
        self.conv1 = nn.Conv1d(config.num_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.empty(config.num_positions, width))
        self.blocks = nn.ModuleList([_Block(width) for _ in range(config.num_layers)])
        self.ln_post = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """(B, num_mels, 2 * num_positions) -> (B, num_positions, encoder_dim) in the weights' dtype."""
        x = F.gelu(self.conv1(features.to(self.conv1.weight.dtype)))
        x = F.gelu(self.conv2(x)).transpose(1, 2).contiguous() + self.get_buffer("positional_embedding")
        out: Tensor = self.ln_post(self.run_layers(self.blocks, x))
        return out


class _Block(nn.Module):
    """Pre-norm Transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn_ln = nn.LayerNorm(width)
        self.attn = _Attention(width)
        self.mlp_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x))
        out: Tensor = x + self.mlp(self.mlp_ln(x))
        return out


class _Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD_WIDTH
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        out: Tensor = self.out(attend(query, key, value, num_heads=self.num_heads, mask=None))
        return out


class LinearAdaptor(nn.Module):
    """Joins groups of frames and maps them with two linear layers. An incomplete last group is dropped."""

    def __init__(self, config: LLMASRTowerConfig) -> None:
        super().__init__()
        self.rate = config.downsample_rate
        self.linear1 = nn.Linear(config.encoder_dim * self.rate, config.ffn_dim)
        self.linear2 = nn.Linear(config.ffn_dim, config.llm_dim)

    def forward(self, encoder_out: Tensor) -> Tensor:
        """(B, T, encoder_dim) -> (B, T // rate, llm_dim)."""
        batch, num_frames, width = encoder_out.shape
        groups = num_frames // self.rate
        joined = encoder_out[:, : groups * self.rate].reshape(batch, groups, self.rate * width)
        out: Tensor = self.linear2(F.relu(self.linear1(joined)))
        return out


class WholeTransformerAdaptor(TransformerAdaptor):
    """The Transformer adaptor for batches in which all clips have the same length."""

    def __init__(self, config: LLMASRTowerConfig) -> None:
        super().__init__(
            AdaptorConfig(
                encoder_dim=config.encoder_dim,
                llm_dim=config.llm_dim,
                ffn_dim=config.ffn_dim,
                n_layer=config.n_layer,
                downsample_rate=config.downsample_rate,
                attention_heads=config.attention_heads,
            )
        )

    def forward(self, encoder_out: Tensor, lens: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """(B, T, encoder_dim) -> (B, ceil(T / rate), llm_dim)."""
        adapted, _ = super().forward(encoder_out, torch.full(encoder_out.shape[:1], encoder_out.shape[1]))
        return adapted


class QFormerAdaptor(nn.Module):
    """Blip-2's Q-Former: learned queries that attend to each third of a second separately."""

    def __init__(self, config: LLMASRTowerConfig) -> None:
        super().__init__()
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        sizes = Blip2QFormerConfig(
            hidden_size=QFORMER_WIDTH, encoder_hidden_size=config.encoder_dim, num_hidden_layers=2
        )
        self.query = nn.Parameter(torch.empty(1, QUERIES, QFORMER_WIDTH))
        self.qformer = Blip2QFormerModel(sizes)
        self.linear = nn.Linear(QFORMER_WIDTH, config.llm_dim)
        self.norm = nn.LayerNorm(config.llm_dim)

    def forward(self, encoder_out: Tensor) -> Tensor:
        """(B, T, encoder_dim) -> (B, windows * QUERIES, llm_dim). An incomplete last window is dropped."""
        batch, num_frames, width = encoder_out.shape
        size = qformer_window(num_frames)
        windows = encoder_out[:, : num_frames // size * size].reshape(-1, size, width)
        query = self.query.expand(len(windows), -1, -1)
        heard: Tensor = self.qformer(query_embeds=query, encoder_hidden_states=windows).last_hidden_state
        out: Tensor = self.norm(self.linear(heard))
        return out.reshape(batch, -1, out.shape[2])


def qformer_window(num_frames: int) -> int:
    """Frames that one set of queries attends to, given the number of frames of 30 s."""
    return round(num_frames * _QFORMER_WINDOW_S / 30.0)


_ADAPTORS: dict[AdaptorKind, type[nn.Module]] = {
    "Linear": LinearAdaptor,
    "Transformer": WholeTransformerAdaptor,
    "QFormer": QFormerAdaptor,
}
