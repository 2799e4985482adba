"""The tokenizer of tiny LLMs: byte-level BPE without merges, made alike with and without the packages compared with."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

NUM_BYTES = 256


def byte_tokenizer(specials: Sequence[str] = (), tags: Sequence[str] = ()) -> Tokenizer:
    """256 byte symbols, then `specials`, which decoding leaves out, then `tags`, which it keeps."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    tokenizer.add_tokens(list(tags))
    return tokenizer
