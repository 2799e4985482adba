"""The model that is trained, and its losses: the encoders' modules, transformers' Qwen3, and heads of training only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from twostage_asr.encoders.adaptor import AdaptorConfig
from twostage_asr.encoders.ctc import CTCConfig, CTCHead
from twostage_asr.encoders.fbank import fbank_frame_lens, lfr_frame_lens
from twostage_asr.encoders.fun_asr_nano import FunASRNanoAcoustic, FunASRNanoAcousticConfig
from twostage_asr.encoders.sensevoice import SenseVoiceConfig

from .batches import NO_ENTRY, NO_WORD, SLOT_FRAMES, WORDS_PER_SLOT
from .codes import prepare_encoder

_NARROW_KERNEL = 11
HEAD_DIM = 32  # of the LLM
ROPE_THETA = 1e6
_BLANK_BIAS = 8.0  # CTC starts near where it would otherwise first have to go: blank in most frames
_LOOKED_UP = 2  # LLM layers after which it should know which hotword counts; the others write what it says
_ATTENTION_GAIN = 1.5  # of normed queries and keys at the start: to tell one entry of twenty apart needs large logits
# No mask: attention is causal as it is. transformers would ask the positions whether they need one, and wait for a GPU.
_CAUSAL = {"full_attention": None}
_NO_WORD_WEIGHT = 0.2  # in the chunk loss: most places hold no word


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroConfig:
    """Sizes of the model."""

    num_tokens: int  # of the vocabulary, without special tokens
    llm_rows: int  # of the embedding table
    end_id: int
    pad_id: int
    encoder_dim: int = 128
    encoder_blocks: int = 6
    encoder_tp_blocks: int = 2
    llm_dim: int = 128
    llm_layers: int = 4
    llm_ffn: int = 384

    @property
    def ctc_size(self) -> int:
        """Columns of the CTC head: the vocabulary and the blank."""
        return self.num_tokens + 1

    def acoustic(self, *, kernel_size: int = _NARROW_KERNEL, memory_shift: int = 0) -> FunASRNanoAcousticConfig:
        """Stage 1 with the kernel of training or of the checkpoint."""
        width = self.encoder_dim
        return FunASRNanoAcousticConfig(
            encoder=SenseVoiceConfig(
                output_dim=width,
                attention_heads=4,
                linear_units=4 * width,
                num_blocks=self.encoder_blocks,
                tp_blocks=self.encoder_tp_blocks,
                kernel_size=kernel_size,
                memory_shift=memory_shift,
            ),
            adaptor=AdaptorConfig(encoder_dim=width, llm_dim=self.llm_dim, ffn_dim=512, n_layer=2),
            ctc=CTCConfig(
                decoder=AdaptorConfig(encoder_dim=width, llm_dim=128, ffn_dim=256, n_layer=2),
                vocab_size=self.ctc_size,
                blank_id=self.num_tokens,
            ),
            low_frame_rate=True,
        )

    def llm(self) -> Qwen3Config:
        """Stage 2."""
        return Qwen3Config(
            vocab_size=self.llm_rows,
            hidden_size=self.llm_dim,
            intermediate_size=self.llm_ffn,
            num_hidden_layers=self.llm_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=HEAD_DIM,
            max_position_embeddings=4096,
            rope_theta=ROPE_THETA,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            bos_token_id=self.pad_id,
            pad_token_id=self.pad_id,
            eos_token_id=self.end_id,
            attn_implementation="sdpa",
        )


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Of the losses that are added up."""

    answer: float = 1.0
    ctc: float = 0.4
    chunk: float = 0.3
    look_up: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What one batch gives."""

    answer_logits: Tensor  # (Y, rows of the embedding table)
    ctc_log_probs: Tensor  # (B, T, ctc_size)
    chunk_logits: Tensor  # (B, slots, WORDS_PER_SLOT, ctc_size), the last class is "no word"
    look_up_logits: Tensor  # (P, MAX_HOTWORDS + 1)


class MicroModel(nn.Module):
    """Stage 1, stage 2 and the heads of the losses that only training has."""

    def __init__(self, config: MicroConfig) -> None:
        super().__init__()
        self.config = config
        self.acoustic = FunASRNanoAcoustic(config.acoustic())
        self.llm = Qwen3ForCausalLM(config.llm())
        slowest = self.llm.model.rotary_emb.inv_freq[-1]  # where transformers keeps rope_theta differs by version
        assert math.isclose(float(slowest), ROPE_THETA ** (2 / HEAD_DIM - 1), rel_tol=1e-3), slowest
        self.chunk_head = nn.Linear(config.llm_dim, WORDS_PER_SLOT * config.ctc_size)
        self.look_up = LookUp(config.llm_dim)
        prepare_encoder(self.acoustic.audio_encoder)
        with torch.no_grad():
            for layer in self.llm.model.layers:
                layer.self_attn.q_norm.weight.fill_(_ATTENTION_GAIN)
                layer.self_attn.k_norm.weight.fill_(_ATTENTION_GAIN)
            self.ctc_head.ctc.ctc_lo.bias[-1] = _BLANK_BIAS

    @property
    def ctc_head(self) -> CTCHead:
        head = self.acoustic.ctc_head
        assert head is not None
        return head

    def forward(self, features: Tensor, lens: Tensor, batch: Mapping[str, Tensor]) -> Outputs:
        """Features (B, T, 560), lens (B,) on any device, and the tensors of a Batch."""
        encoder_out = self.acoustic.audio_encoder(features, lens)
        ctc_log_probs = self.ctc_head.log_probs(self.ctc_head.hidden(encoder_out, lens))
        adapted, _ = self.acoustic.audio_adaptor(encoder_out, lens)
        slots = adapted[:, : batch["slot_words"].shape[1]]
        hidden, middle = self.read(self.embed(batch["token_ids"], adapted, batch))
        answers = hidden.flatten(0, 1).index_select(0, batch["answer_places"])
        chunk_logits = self.chunk_head(slots).unflatten(-1, (WORDS_PER_SLOT, self.config.ctc_size))
        return Outputs(self.llm.lm_head(answers), ctc_log_probs, chunk_logits, self.look_up(middle, batch))

    def embed(self, token_ids: Tensor, adapted: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """What the LLM reads (Q, L, llm_dim): tokens, and adaptor frames where the batch puts them."""
        embeds = self.llm.get_input_embeddings()(token_ids)
        sources = batch["audio_rows"] * adapted.shape[1] + batch["audio_frames"]
        frames = adapted.flatten(0, 1).index_select(0, sources).to(embeds.dtype)
        return embeds.flatten(0, 1).index_copy(0, batch["audio_places"], frames).view_as(embeds)

    def read(self, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """The LLM's last hidden states and those after _LOOKED_UP layers, float32, of the same shape."""
        with torch.autocast(embeds.device.type, torch.bfloat16, enabled=embeds.is_cuda):
            found = self.llm.model(
                inputs_embeds=embeds, attention_mask=_CAUSAL, use_cache=False, output_hidden_states=True
            )
        return found.last_hidden_state.float(), found.hidden_states[_LOOKED_UP].float()


class LookUp(nn.Module):
    """For each token of a name to be written: which hotword says how. Only in training.

    Answers alone hardly teach an LLM to find the entry of which all parts are heard; asked for it, halfway up, it
    learns that in a few hundred steps, and then uses it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, elementwise_affine=False)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.no_key = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Hidden states (Q, L, D) -> logits (P, MAX_HOTWORDS + 1); the last is "none"."""
        places, rows = batch["entry_places"], batch["name_rows"]
        states = self.norm(hidden.flatten(0, 1))
        keys = self.key(states.index_select(0, places.clamp(min=0).flatten())).unflatten(0, places.shape)
        keys = keys.masked_fill((places == NO_ENTRY)[..., None], 0.0).index_select(0, rows)
        keys = torch.cat([keys, self.no_key.expand(len(rows), 1, -1)], 1)
        queries = self.query(states.index_select(0, batch["name_places"]))
        logits = (keys @ queries[..., None])[..., 0] / queries.shape[-1] ** 0.5
        is_empty = F.pad(places == NO_ENTRY, (0, 1)).index_select(0, rows)
        return logits.masked_fill(is_empty, -torch.inf)


def losses(outputs: Outputs, lens: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean losses per token: of the answers (weighted), of CTC, of the words in each slot, of names in lists."""
    blank = outputs.ctc_log_probs.shape[-1] - 1
    slot_words = batch["slot_words"]
    slots = torch.arange(slot_words.shape[1], device=slot_words.device)
    own = slots < -(-lens // SLOT_FRAMES)[:, None]
    classes = torch.where(slot_words == NO_WORD, blank, slot_words)
    weight = torch.where(slot_words == NO_WORD, _NO_WORD_WEIGHT, 1.0) * own[..., None]
    chunk = F.cross_entropy(outputs.chunk_logits.flatten(0, 2), classes.flatten(), reduction="none")
    weights = batch["answer_weights"]
    answer = F.cross_entropy(outputs.answer_logits.float(), batch["answer_ids"], reduction="none")
    look_up = F.cross_entropy(outputs.look_up_logits, batch["name_targets"], reduction="sum")
    ctc = F.ctc_loss(  # last, and so first of the backward pass, because both ways it waits for a GPU
        outputs.ctc_log_probs.transpose(0, 1),
        batch["ctc_ids"],
        lfr_frame_lens(fbank_frame_lens(batch["sample_lens"])),
        batch["ctc_lens"],
        blank=blank,
        reduction="sum",
        zero_infinity=True,
    )
    return {
        "answer": (answer * weights).sum() / weights.sum(),
        "ctc": ctc / int(batch["ctc_lens"].sum() + 1),
        "chunk": (chunk * weight.flatten()).sum() / weight.sum(),
        "look-up": look_up / max(len(batch["name_targets"]), 1),
    }
