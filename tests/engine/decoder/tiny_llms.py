"""Tiny LLMs of all architectures with random weights, and what transformers writes with them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from twostage_asr.engine.decoder.base import LLMSource
from twostage_asr.engine.decoder.torch_decoder import TorchDecoder
from twostage_asr.engine.manifest import LLMInfo

WIDTH, VOCAB, MAX_MODEL_LEN = 64, 320, 256
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "rope_theta": 1e5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def make_llm(name: str) -> Any:
    """transformers' model, with random weights under which greedy answers wander with clear leads."""
    torch.manual_seed(0)
    if name == "qwen3":
        model: Any = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True))
    elif name == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False))
    elif name == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=32, attention_bias=True, mlp_bias=True))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZES, rope_scaling=LLAMA3))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.05 if "embed_tokens" in key else 2.5 * weight.shape[1] ** -0.5)
            elif key.endswith("bias"):
                weight.normal_(0, 0.1)
            else:
                nn.init.constant_(weight, 1.5)
    return model.eval()


def source_of(model: Any, directory: Path, eos: tuple[int, ...] = (VOCAB - 1,)) -> LLMSource:
    """The model, saved in a directory."""
    model.save_pretrained(directory)
    info = LLMInfo(hidden_size=WIDTH, vocab_size=VOCAB, max_position_embeddings=512, eos_token_ids=eos, tied=True)
    return LLMSource(directory, info, torch.float32, MAX_MODEL_LEN)


def decoder_of(source: LLMSource, max_sequences: int = 4, device: str = "cpu") -> TorchDecoder:
    decoder = TorchDecoder(source, device=torch.device(device), max_sequences=max_sequences)
    decoder.wait_until_ready()
    return decoder


def some_prompts(count: int, *, longest: int = 60) -> list[Tensor]:
    """Prompts of mixed lengths, the first of one position."""
    generator = torch.Generator().manual_seed(1)
    lengths = [1 + (longest - 1) * (number * 7 % count) // count for number in range(count)]
    return [torch.randn(length, WIDTH, generator=generator) * 0.1 for length in lengths]


@torch.inference_mode()
def expected_answer(model: Any, prompt: Tensor, num_tokens: int) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities, computed from the beginning at each step."""
    embeds, token_ids, log_probs = prompt[None], [], []
    for _ in range(num_tokens):
        scores = model(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
        token_ids.append(int(scores.argmax()))
        log_probs.append(float(scores.max()))
        embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([[token_ids[-1]]]))], 1)
    return token_ids, log_probs
