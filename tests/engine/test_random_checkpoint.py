"""The benchmark's random checkpoint: its texts take as much work as speech does."""

import random
from pathlib import Path

import numpy as np

from twostage_asr.engine.bench.random_checkpoint import (
    CTC_NAME,
    CTC_RANKS,
    CTC_VOCAB,
    EMPTY_RANK,
    LLM_VOCAB,
    NUM_BYTES,
    write_ctc_vocabulary,
    write_llm_tokenizer,
)
from twostage_asr.engine.text import LLMTokenizer
from twostage_asr.engine.words.timer import Targets
from twostage_asr.engine.words.tokenizer import NUM_SPECIALS, CTCTokenizer


def test_a_token_of_the_llm_is_a_word_and_one_token_of_the_ctc_head(tmp_path: Path) -> None:
    write_llm_tokenizer(tmp_path)
    write_ctc_vocabulary(tmp_path / CTC_NAME)
    tokenizer, ctc = LLMTokenizer(tmp_path), CTCTokenizer.from_file(tmp_path / CTC_NAME)
    assert len(ctc) == CTC_RANKS == CTC_VOCAB - NUM_SPECIALS
    assert ctc.byte_lengths(np.array([EMPTY_RANK - 1, EMPTY_RANK, EMPTY_RANK + 1])).tolist() == [5, 0, 5]
    token_ids = random.Random(0).sample(range(NUM_BYTES, LLM_VOCAB - 26), 1000)
    targets = Targets.from_texts([tokenizer.decode(token_ids)], ctc)
    num_letters = 4  # of the first word, which has no space before it and so is spelled
    assert len(targets.words[0]) == 1000 and len(targets.token_ids) == num_letters + 999
