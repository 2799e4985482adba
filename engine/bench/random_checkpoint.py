"""Write a checkpoint of the published sizes with random weights, for measuring speed.

    python -m twostage_asr.engine.bench.random_checkpoint DIR        # 2.3 GB, laid out as on a hub

Its texts are random words, but finding their times is as much work as for real speech. The tokenizers are stand-ins of
the real sizes: each token of the LLM is a word, with or without commas, and each word is one token of the CTC head. The
CTC vocabulary has an empty token at the same rank as the published one.

The CTC head is biased towards blank, which is also the most frequent output of trained heads. Without the bias, all
tokens would be about equally likely, and the aligner would refuse every text instead of finding its word times. It
still refuses texts that are long for their clip: 38 tokens in clips under about 5 s.
"""

import argparse
import base64
import json
import string
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ...encoders import SAMPLE_RATE
from ...encoders.adaptor import AdaptorConfig
from ...encoders.ctc import CTCConfig
from ...encoders.fun_asr_nano import FunASRNanoAcoustic, FunASRNanoAcousticConfig
from ...encoders.sensevoice import SenseVoiceConfig

LLM_DIR, LLM_VOCAB = "Qwen3-0.6B", 151_669
CTC_NAME, CTC_RANKS, CTC_VOCAB = "multilingual.tiktoken", 58_836, 60_515
ENCODER = SenseVoiceConfig(
    output_dim=512, attention_heads=4, linear_units=2048, num_blocks=50, tp_blocks=20, kernel_size=11
)
ADAPTOR = AdaptorConfig(encoder_dim=512, llm_dim=1024, ffn_dim=2048, n_layer=2)
CTC_DECODER = AdaptorConfig(encoder_dim=512, llm_dim=512, ffn_dim=2048, n_layer=5)
CTC_BLANK_BIAS = 12.0  # makes two of three frames blank
NUM_BYTES = 256
EMPTY_RANK = 48_474  # rank at which the published CTC vocabulary has a token of no bytes
NUM_WORDS = CTC_RANKS - NUM_BYTES - 1


def write_checkpoint(directory: Path) -> None:
    """Write the checkpoint; it is the same in every call."""
    torch.manual_seed(0)
    llm_dir = directory / LLM_DIR
    llm_dir.mkdir(parents=True, exist_ok=True)
    write_llm_tokenizer(llm_dir)
    write_ctc_vocabulary(directory / CTC_NAME)
    torch.save(_llm_weights(llm_dir) | _acoustic_weights(), directory / "model.pt")
    (directory / "config.yaml").write_text(yaml.safe_dump(_config()), encoding="utf-8")
    (directory / "configuration.json").write_text(json.dumps({"file_path_metas": _paths()}), encoding="utf-8")


def _config() -> dict[str, object]:
    def adaptor(config: AdaptorConfig) -> dict[str, object]:
        sizes = {name: getattr(config, name) for name in ("encoder_dim", "llm_dim", "ffn_dim", "n_layer")}
        return sizes | {"downsample_rate": config.downsample_rate}

    encoder = {name: getattr(ENCODER, name) for name in ("attention_heads", "linear_units", "num_blocks", "tp_blocks")}
    encoder |= {"output_size": ENCODER.output_dim, "kernel_size": ENCODER.kernel_size, "sanm_shfit": 0}
    encoder |= {"input_layer": "pe", "selfattention_layer_type": "sanm", "normalize_before": True}
    frontend = {"fs": SAMPLE_RATE, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10}
    return {
        "model": "FunASRNano",
        "model_conf": {},
        "audio_encoder": "SenseVoiceEncoderSmall",
        "audio_encoder_conf": encoder,
        "llm": "Qwen3-0.6b",
        "llm_conf": {"hub": "hf", "freeze": True, "llm_dtype": "bf16", "init_param_path": LLM_DIR},
        "audio_adaptor": "Transformer",
        "audio_adaptor_conf": adaptor(ADAPTOR) | {"use_low_frame_rate": True},
        "ctc_decoder": "Transformer",
        "ctc_decoder_conf": adaptor(CTC_DECODER),
        "ctc_conf": {"dropout_rate": 0.0, "ctc_type": "builtin", "reduce": True, "ignore_nan_grad": True},
        "frontend": "WavFrontend",
        "frontend_conf": frontend | {"lfr_m": 7, "lfr_n": 6, "cmvn_file": None},
        "tokenizer": "HuggingfaceTokenizer",
        "tokenizer_conf": {"init_param_path": LLM_DIR},
        "dataset_conf": {
            "ctc_tokenizer": "SenseVoiceTokenizer",
            "ctc_tokenizer_conf": {"vocab_path": None, "is_multilingual": True, "num_languages": 8749},
        },
    }


def _paths() -> dict[str, object]:
    """The content of configuration.json: the files that FunASR looks for in the checkpoint's directory."""
    return {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"init_param_path": LLM_DIR},
        "llm_conf": {"init_param_path": LLM_DIR},
        "dataset_conf": {"ctc_tokenizer_conf": {"vocab_path": CTC_NAME}},
    }


def write_llm_tokenizer(directory: Path) -> None:
    """Write the LLM's stand-in tokenizer: byte symbols, words, and words with commas."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    for i in range(LLM_VOCAB - 26 - len(symbols)):
        commas, number = divmod(i, NUM_WORDS)
        vocab["Ġ" + four_letters(number) + "," * commas] = len(symbols) + i  # Ġ stands for a space
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>"]}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials).save_pretrained(directory)


def write_ctc_vocabulary(path: Path) -> None:
    """Write the CTC head's stand-in vocabulary: bytes, words without commas, and the empty token."""
    words = (f" {four_letters(number)}".encode() for number in range(NUM_WORDS))
    tokens = [bytes([i]) for i in range(NUM_BYTES)] + list(words)
    tokens.insert(EMPTY_RANK, b"")
    path.write_text("".join(f"{base64.b64encode(t).decode() or '='} {rank}\n" for rank, t in enumerate(tokens)))


def four_letters(number: int) -> str:
    """The word with this number, which has four letters."""
    return "".join(string.ascii_lowercase[number // 26**place % 26] for place in range(4))


def _llm_weights(directory: Path) -> dict[str, torch.Tensor]:
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        rope_theta=1e6,
        dtype="bfloat16",
    )
    model = Qwen3ForCausalLM(config).bfloat16()
    config.save_pretrained(directory)
    saved = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(saved | {"architectures": ["Qwen3ForCausalLM"]}))
    # Like the published file, this one has lm_head as a copy of the embeddings.
    return {f"llm.{name}": tensor.clone() for name, tensor in model.state_dict().items()}


def _acoustic_weights() -> dict[str, torch.Tensor]:
    ctc = CTCConfig(decoder=CTC_DECODER, vocab_size=CTC_VOCAB, blank_id=CTC_VOCAB - 1)
    config = FunASRNanoAcousticConfig(encoder=ENCODER, adaptor=ADAPTOR, ctc=ctc, low_frame_rate=True)
    weights = dict(FunASRNanoAcoustic(config).state_dict())
    weights["ctc.ctc_lo.bias"][ctc.blank_id] = CTC_BLANK_BIAS
    return weights


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    write_checkpoint(parser.parse_args().directory)
