"""What the qwen-asr package says to a few questions, as a file that our tests read.

qwen-asr 0.0.6 pins another transformers, so it runs in an environment of its own:

    uv venv -p 3.11 /tmp/qwen && uv pip install -p /tmp/qwen/bin/python --no-deps qwen-asr==0.0.6
    uv pip install -p /tmp/qwen/bin/python torch==2.13.0 transformers==4.57.6 accelerate==1.12.0 nagisa==0.2.11 \
        soynlp==0.0.493 librosa soundfile pytz
    /tmp/qwen/bin/python -m tests.peers.qwen_asr_golden tests/engine/families/qwen_asr_golden.json
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
from qwen_asr.inference.qwen3_forced_aligner import Qwen3ForceAlignProcessor
from qwen_asr.inference.utils import (
    SUPPORTED_LANGUAGES,
    detect_and_fix_repetitions,
    merge_languages,
    parse_asr_output,
    split_audio_into_chunks,
)

from tests.peers.qwen_asr_golden_waves import waves

ANSWERS = [
    ("language English<asr_text>Hello.", None),
    ("English<asr_text>x", None),
    ("Language cHINESE\n<asr_text> 你好 ", None),
    ("language English<asr_text>a<asr_text>b", None),
    ("language English<asr_text>a", "Chinese"),
    ("language None<asr_text>", None),
    ("language None<asr_text>  ", None),
    ("language None<asr_text> something", None),
    ("language Chinese,English<asr_text>你好 hello", None),
    ("\n\nlanguage French\nmore\n<asr_text>Bonjour", None),
    ("noise\nlanguage French<asr_text>Bonjour", None),
    ("language <asr_text>x", None),
    ("no tag at all ", None),
    ("", None),
    ("  ", "English"),
    ("language English<asr_text>" + "啊" * 30, None),
]
TEXTS = [
    *("啊" * 21, "啊" * 20, "ab" * 20, "ab" * 19, "x " * 30 + "end", "abc" * 25 + "tail", "a" * 20 + "b" * 20),
    *("good " * 19 + "bye", "start " + "la" * 25 + " then " + "no " * 25 + "x" * 50, "12345678901234567890" * 20),
    *("abcdefghijklmnopqrstu" * 25, "a\n" * 30 + "b", "", "short"),
]
SENTENCES = [
    ("你好，world it's 3.14 don't!", "Chinese"),
    ("state-of-the-art l’été naïve", "English"),
    ("  Ein   Satz, mit «Zeichen»; 100% ", "German"),
    ("中文english混排 text", "Chinese"),
    ("こんにちは、今日はいい天気ですね。", "Japanese"),
    ("안녕하세요 오늘 날씨가 좋네요.", "Korean"),
    ("...", "English"),
    ("", "English"),
]


def stamps() -> list[list[int]]:
    rng = random.Random(0)
    fixed = [[80, 4000, 160, 240], [80, 160, 0, 400], [80, 160, 240, 320, 0, 0, 0, 800, 880], [5, 4, 3, 2, 1], [7]]
    noisy = [sorted(rng.randrange(200) * 80 for _ in range(24)) for _ in range(20)]
    for one in noisy:
        for _ in range(rng.randrange(1, 10)):
            one[rng.randrange(24)] = rng.randrange(200) * 80
    return fixed + noisy


def main() -> None:
    aligner = Qwen3ForceAlignProcessor()
    chunks = {
        name: [(round(offset * 1000), len(piece)) for piece, offset in split_audio_into_chunks(wave, 1000, limit)]
        for name, wave, limit in waves()
    }
    golden = {
        "languages": SUPPORTED_LANGUAGES,
        "parse_asr_output": [[raw, language, parse_asr_output(raw, language)] for raw, language in ANSWERS],
        "repetitions": [[text, detect_and_fix_repetitions(text)] for text in TEXTS],
        "merge_languages": [
            [names, merge_languages(names)]
            for names in (["Chinese", "English", "English"], ["", "English"], ["A", "B", "A"], ["", ""], [])
        ],
        "chunks": chunks,
        "words": [[text, language, *aligner.encode_timestamp(text, language)] for text, language in SENTENCES],
        "timestamps": [[data, aligner.fix_timestamp(np.array(data))] for data in stamps()],
    }
    Path(sys.argv[1]).write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
