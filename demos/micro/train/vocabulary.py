"""The vocabulary of both heads: byte-level BPE learned from the grammars' sentences and the prompts.

The LLM's tokenizer (Hugging Face's format) and the CTC head's (tiktoken's) have the same tokens with the same ids: 256
bytes, then the merges. Most English words and every Chinese character are one token.
"""

import base64
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from english import ENGLISH, WORDS
from everyday import ENGLISH_SAYINGS, EVERYDAY_ENGLISH, EVERYDAY_MANDARIN
from mandarin import CHARACTERS, MANDARIN
from mixed import MIXED
from names import draw_name
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from twostage_asr.engine.families.base import Request
from twostage_asr.engine.families.fun_asr_nano import FunASRNano
from twostage_asr.engine.words.tokenizer import CTCTokenizer

MAX_TOKENS = 2365  # with the special tokens 37 * 64
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_GRAMMARS = (ENGLISH, ENGLISH, MANDARIN, MIXED, EVERYDAY_ENGLISH, EVERYDAY_MANDARIN)
_NUM_SENTENCES = 32_000
# Qwen3's split into pieces that merges never cross.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """Both tokenizers over one set of tokens."""

    tokenizer: Tokenizer
    ctc: CTCTokenizer

    @property
    def num_tokens(self) -> int:
        """Ordinary tokens; the CTC blank is the next id."""
        return len(self.ctc)

    @property
    def pieces(self) -> list[bytes]:
        """The bytes of each ordinary token in the order of the ids."""
        return _pieces(self.tokenizer)[: self.num_tokens]

    @property
    def end_id(self) -> int:
        """Of <|im_end|>, which ends an answer."""
        return self.special_id("<|im_end|>")

    @property
    def llm_size(self) -> int:
        """Rows of the embedding table, a multiple of 64."""
        return -(-(self.num_tokens + len(SPECIAL_TOKENS)) // 64) * 64

    def special_id(self, token: str) -> int:
        """Id of a special token."""
        token_id = self.tokenizer.token_to_id(token)
        assert token_id is not None, token
        return int(token_id)

    def encode(self, text: str) -> list[int]:
        """Token ids of text for the LLM, special tokens recognised."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_marked(self, text: str, phrases: Sequence[str]) -> tuple[list[int], list[str | None]]:
        """`encode`, and for each token the longest of the phrases in the text that it belongs to."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        marks: list[str | None] = [None] * len(encoding.ids)
        for phrase in sorted(phrases, key=len):
            for found in re.finditer(re.escape(phrase), text):
                for token, (begin, end) in enumerate(encoding.offsets):
                    if found.start() < end and begin < found.end():
                        marks[token] = phrase
        return encoding.ids, marks

    def encode_with_ends(self, text: str, ends: Sequence[int]) -> tuple[list[int], list[int]]:
        """`encode`, and the token of the last character of each text[:end]."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        last = {character: token for token, span in enumerate(encoding.offsets) for character in range(*span)}
        return encoding.ids, [last[end - 1] for end in ends]


def learn_vocabulary(*, seed: int) -> Vocabulary:
    """A vocabulary from sentences drawn with `seed`."""
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    characters = pre_tokenizers.Split(Regex(r"[\u2e80-\uffff]"), "isolated")  # no merge across Chinese characters
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([characters, split, bytes_of])
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(random.Random(f"vocabulary {seed}")), trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    pieces = _pieces(tokenizer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return Vocabulary(tokenizer, CTCTokenizer(pieces))


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a checkpoint's tokenizer.json."""
    tokenizer = Tokenizer.from_file(str(path))
    return Vocabulary(tokenizer, CTCTokenizer(_pieces(tokenizer)))


def write_llm_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json, vocab.json and merges.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(vocabulary.tokenizer.to_str()), ensure_ascii=False))
    vocabulary.tokenizer.model.save(str(folder))
    config = {
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def write_ctc_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """The tokens in tiktoken's format: one "base64 rank" pair a line."""
    pieces = _pieces(vocabulary.tokenizer)[: vocabulary.num_tokens]
    path.write_text("".join(f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(pieces)))


def _texts(rng: random.Random) -> Iterator[str]:
    request_kinds = [(language, itn) for language in ("英文", "中文", "日文", None) for itn in (True, False)]
    for language, itn in request_kinds:
        names = tuple(draw_name(rng.choice(("英文", "中文")), rng) for _ in range(10))
        prompt = FunASRNano().prompt_text(Request(language=language, hotwords=names, itn=itn))
        yield from [prompt.prefix.replace("<|im_start|>", "").replace("<|im_end|>", "")] * 500
    for _ in range(_NUM_SENTENCES):
        sentence = rng.choice(_GRAMMARS).draw(rng)
        yield sentence.text(itn=rng.random() < 0.5)
        yield f" {sentence.spoken} {draw_name('英文', rng)}, {draw_name('中文', rng)}"
    for _ in range(200):
        yield "".join(CHARACTERS)
    for word in (*WORDS, *" ".join(ENGLISH_SAYINGS).split()) * 10:
        yield f"{word.capitalize()} {word}"


def _pieces(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of each ordinary token in the order of the ids."""
    byte_of = {character: byte for byte, character in enumerate(_byte_alphabet())}
    vocab = {token: token_id for token, token_id in tokenizer.get_vocab().items() if token not in SPECIAL_TOKENS}
    ordered = sorted(vocab, key=lambda token: vocab[token])
    return [bytes(byte_of[character] for character in token) for token in ordered]


def _byte_alphabet() -> list[str]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256)]
