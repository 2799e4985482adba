"""Whisper's encoder, an adaptor, and an LLM: its losses, and greedy decoding.

The prompt is the family's own (engine/families/llm_asr.py): text, then the audio, then the answer. Trained are the
adaptor, low-rank updates (LoRA) of the LLM and of the encoder's upper layers, and a CTC head. The head exists for the
training alone: it names tokens by the LLM's own embeddings, so that what the adaptor makes of a word soon looks to the
LLM like the word.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from speech import LETTERS, NO_TOKEN, Batch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from twostage_asr.encoders.llm_asr import WINDOW_SAMPLES, LLMASRTower, LLMASRTowerConfig
from twostage_asr.encoders.upload import to_device
from twostage_asr.encoders.whisper_features import HOP_SAMPLES, log_mel
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.families.llm_asr import LLMASR
from twostage_asr.engine.text import LLMTokenizer

DOWNSAMPLE, LAYERS, FFN = 5, 4, 2048  # of the adaptor
RANK, ALPHA = 32, 64.0  # of the updates
_HEADS = 8
LETTERS_A_FRAME = 3  # at most, of the adaptor's frames of 100 ms
_SCALE = 20.0  # of the CTC head's cosines, at first
_LENGTH_WEIGHT = 0.3  # of the embeddings' lengths, beside CTC
_WRONG = 0.1  # of the tokens that the LLM reads while it learns
_FRAME_SAMPLES = 2 * HOP_SAMPLES  # of the encoder
WHISPER_NAMES = {
    "layers": "blocks",
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "self_attn_layer_norm": "attn_ln",
    "final_layer_norm": "mlp_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
}


def read_whisper(directory: Path) -> dict[str, Tensor]:
    """The encoder of a directory in Hugging Face's layout, under openai-whisper's names, float32."""
    found = {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        if not name.startswith("model.encoder."):
            continue
        name = name.removeprefix("model.encoder.")
        if name.startswith("layer_norm."):
            name = name.replace("layer_norm", "ln_post")
        name = name.replace("embed_positions.weight", "positional_embedding")
        for theirs, ours in WHISPER_NAMES.items():
            name = name.replace(theirs, ours)
        found[name] = tensor.float()
    return found


def tower_config(encoder: dict[str, Tensor], llm_dim: int) -> LLMASRTowerConfig:
    """Sizes of encoder and adaptor."""
    width, mels, _ = encoder["conv1.weight"].shape
    return LLMASRTowerConfig(
        num_mels=mels,
        encoder_dim=width,
        num_layers=len({name.split(".")[1] for name in encoder if name.startswith("blocks.")}),
        num_positions=len(encoder["positional_embedding"]),
        adaptor="Transformer",
        llm_dim=llm_dim,
        ffn_dim=FFN,
        downsample_rate=DOWNSAMPLE,
        n_layer=LAYERS,
        attention_heads=_HEADS,
    )


class Updated(nn.Module):
    """A frozen linear layer plus ALPHA / RANK * lora_B @ lora_A (arXiv:2106.09685)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.lora_A = nn.Parameter(torch.randn(RANK, linear.in_features) / math.sqrt(linear.in_features))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """The update is added in place: on a GPU a step waits for memory, and large outputs are written but twice."""
        rows = x.flatten(0, -2)
        out: Tensor = self.linear(rows)
        inner = ALPHA / RANK * F.linear(rows, self.lora_A)
        out = out.addmm_(inner.to(out.dtype), self.lora_B.T.to(out.dtype))
        return out.view(*x.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class Losses:
    """Means per token."""

    answer: Tensor
    ctc: Tensor
    letters: Tensor
    right: Tensor  # share of answer tokens


class Recognizer(nn.Module):
    """What is trained is float32; so is the encoder, of which the upper half of the layers is updated."""

    def __init__(self, whisper: Path, llm: Path, ctc_ids: Tensor, dtype: torch.dtype) -> None:
        """`ctc_ids`: (V,) the tokens that the CTC head can name, those of the texts. `dtype`: of the LLM's weights."""
        super().__init__()
        encoder = read_whisper(whisper)
        self.tokenizer = LLMTokenizer(llm)
        self.llm: Any = AutoModelForCausalLM.from_pretrained(llm, dtype=dtype)
        self.config = tower_config(encoder, self.llm.config.hidden_size)
        self.tower = LLMASRTower(self.config)
        self.tower.audio_encoder.load_state_dict(encoder)
        self.end_id = int(self.llm.config.eos_token_id)
        prompt = LLMASR().prompt_text(Request())
        ids = torch.tensor(self.tokenizer.encode(prompt.prefix, begins_text=prompt.begins_text))
        self.register_buffer("prompt_ids", ids, persistent=False)
        self.requires_grad_(False)
        self.tower.audio_adaptor.requires_grad_(True)
        encoder_layers = self.tower.audio_encoder.blocks
        for layer in (*self.llm.model.layers, *encoder_layers[len(encoder_layers) // 2 :]):
            _update(layer)
        self.blank = nn.Parameter(torch.randn(self.config.llm_dim))
        self.scale = nn.Parameter(torch.tensor(_SCALE))
        self.letters = nn.Linear(self.config.llm_dim, LETTERS_A_FRAME * (1 + len(LETTERS)))
        self.register_buffer("ctc_ids", ctc_ids, persistent=False)
        self.register_buffer("middle", self._rows(ctc_ids).mean(0), persistent=False)
        self.tower.audio_adaptor.linear2.bias.data.copy_(self.middle)  # audio begins where the LLM's words are
        self._places = torch.full((self.llm.config.vocab_size,), -1)  # on the CPU, as answers are
        self._places[ctc_ids] = torch.arange(1, len(ctc_ids) + 1)

    def trained(self) -> dict[str, Tensor]:
        """What training changes, by the names of its state dict, in bfloat16."""
        kept = {name: each for name, each in self.named_parameters() if each.requires_grad}
        return {name: each.detach().to("cpu", torch.bfloat16).contiguous() for name, each in kept.items()}

    def save(self, path: Path) -> None:
        part = path.with_suffix(".part")
        save_file(self.trained(), part)
        part.rename(path)

    def load(self, path: Path) -> None:
        """Raises RuntimeError if the file is of another architecture."""
        _, unexpected = self.load_state_dict(load_file(path), strict=False)
        if unexpected:
            raise RuntimeError(f"{path} holds {unexpected[0]}, which this model lacks")

    def hear(self, waveforms: Tensor, mask: "Mask | None" = None) -> Tensor:
        """(B, N) samples of up to 30 s -> (B, A, D) embeddings of the audio."""
        padded = F.pad(waveforms, (0, WINDOW_SAMPLES - waveforms.shape[1]))
        lens = torch.full((len(padded),), WINDOW_SAMPLES)
        with torch.autocast(padded.device.type, enabled=False):
            features = log_mel(padded, lens, self.config.num_mels)
        encoded = self.tower.audio_encoder(features if mask is None else mask(features))
        out: Tensor = self.tower.audio_adaptor(encoded)
        return out

    def losses(self, audio: Tensor, said: Batch, *, with_llm: bool = True) -> Losses:
        """Without the LLM its loss is 0.

        Some of the tokens that it reads are wrong, as they will be when it reads what it wrote itself; and it cannot
        learn the texts by heart. What decides shapes is computed on the CPU, so that nothing waits for the GPU.
        """
        ctc, letters = self._ctc(audio, said)
        if not with_llm:
            return Losses(torch.zeros_like(ctc), ctc, letters, torch.zeros_like(ctc))
        answers = to_device(said.answers, audio.device)
        embed = self.llm.get_input_embeddings()
        prompt = embed(self.prompt_ids).expand(len(audio), -1, -1)
        given = answers.clamp(min=0)[:, :-1]
        others = self.ctc_ids[torch.randint(len(self.ctc_ids), given.shape, device=given.device)]
        read = torch.where(torch.rand(given.shape, device=given.device) < _WRONG, others, given)
        inputs = torch.cat([prompt, audio.to(prompt.dtype), embed(read)], 1)
        hidden = self.llm.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        hidden = hidden[:, prompt.shape[1] + audio.shape[1] - 1 :]
        wanted = to_device((said.answers != NO_TOKEN).flatten().nonzero()[:, 0], audio.device)
        logits, targets = self.llm.lm_head(hidden.flatten(0, 1)[wanted]).float(), answers.flatten()[wanted]
        right = (logits.argmax(-1) == targets).float().mean()
        return Losses(F.cross_entropy(logits, targets), ctc, letters, right)

    def _rows(self, ids: Tensor) -> Tensor:
        return self.llm.get_input_embeddings().weight[ids].float()

    def _ctc(self, audio: Tensor, said: Batch) -> tuple[Tensor, Tensor]:
        """Losses of tokens and of letters, of the frames of each clip's own length.

        Cosines do not see lengths. Embeddings that are much longer than words would drown what the LLM's layers add to
        them, so all are kept about as long as words.
        """
        rows, audio = self._rows(self.ctc_ids) - self.middle, audio.float() - self.middle
        names = torch.cat([self.blank[None], rows])
        frames = -(-said.sounding // (_FRAME_SAMPLES * self.config.downsample_rate))
        heard = audio[:, : int(frames.max())]  # the silence behind the clips names nothing
        logits = self.scale * F.linear(F.normalize(heard, dim=-1), F.normalize(names, dim=-1))
        is_text = (said.answers != NO_TOKEN) & (said.answers != self.end_id)
        tokens = _ctc_loss(logits, frames, self._places[said.answers[is_text]], is_text.sum(1))
        spelled = self.letters(heard).reshape(len(heard), -1, 1 + len(LETTERS))
        letters = _ctc_loss(spelled, LETTERS_A_FRAME * frames, said.letters, said.num_letters)
        longer = audio.norm(dim=-1).clamp(min=1e-6) / rows.norm(dim=-1).mean()
        return tokens + _LENGTH_WEIGHT * longer.log().square().mean(), letters

    @torch.inference_mode()
    def decode(self, audio: Tensor, most: int) -> list[list[int]]:
        """Greedy answers of B clips, without their end tokens."""
        embed = self.llm.get_input_embeddings()
        prompt = embed(self.prompt_ids).expand(len(audio), -1, -1)
        step: dict[str, Tensor] = {"inputs_embeds": torch.cat([prompt, audio.to(prompt.dtype)], 1)}
        answers: list[list[int]] = [[] for _ in audio]
        running, cache = set(range(len(audio))), None
        for _ in range(most):
            found = self.llm(**step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, tokens = found.past_key_values, found.logits[:, -1].argmax(-1)
            for row, token in enumerate(tokens.tolist()):
                if row in running and token != self.end_id:
                    answers[row].append(token)
                else:
                    running.discard(row)
            if not running:
                break
            step = {"input_ids": tokens[:, None]}
        return answers


def _update(layer: nn.Module) -> None:
    """Give every linear layer in it an update."""
    for block in [*layer.modules()]:
        for name, linear in [*block.named_children()]:
            if isinstance(linear, nn.Linear):
                setattr(block, name, Updated(linear))


def _ctc_loss(logits: Tensor, frames: Tensor, targets: Tensor, lens: Tensor) -> Tensor:
    """Of a target, on average. `frames` (B,), `targets` of all clips one after another and `lens` (B,) on the CPU."""
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    targets = to_device(targets, logits.device)
    found = F.ctc_loss(log_probs, targets, frames, lens, reduction="sum", zero_infinity=True)
    return found / max(int(lens.sum()), 1)


class Mask:
    """Light SpecAugment (arXiv:1904.08779) on features of Whisper: each clip loses up to two bands and two gaps."""

    def __init__(
        self, seed: int, device: torch.device, *, bands: int = 12, frames: int = 30, share: float = 0.5
    ) -> None:
        self._device = device
        self._random = torch.Generator(device).manual_seed(seed)
        self._bands, self._frames, self._share = bands, frames, share

    def __call__(self, features: Tensor) -> Tensor:
        clips, bands, frames = features.shape
        hidden = torch.zeros(clips, bands, frames, dtype=torch.bool, device=self._device)
        for _ in range(2):
            hidden |= self._gap(clips, bands, self._bands, bands)[:, :, None]
            hidden |= self._gap(clips, frames, self._frames, frames // 2)[:, None, :]
        return features.masked_fill(hidden, 0.0)

    def _gap(self, clips: int, size: int, most: int, end: int) -> Tensor:
        start, width, chosen = (torch.rand(clips, 1, generator=self._random, device=self._device) for _ in range(3))
        place = torch.arange(size, device=self._device)
        inside = (place >= start * end) & (place < start * end + width * most)
        return inside & (chosen < self._share)
