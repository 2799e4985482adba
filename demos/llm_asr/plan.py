"""Sentences -> what demos/micro/speak.py says: python demos/llm_asr/plan.py TEXTS.txt --out PLAN.jsonl

Needs kokoro-onnx, whose phonemiser knows English. A plan is text: each sentence, and the ids of its phonemes with the
marks that make Kokoro pause. Sentences with fewer than LEAST or more than MOST of them are left out.
"""

import argparse
import json
from pathlib import Path

from kokoro_onnx.tokenizer import Tokenizer

LEAST, MOST = 5, 220


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0, help="line to begin with")
    parser.add_argument("--count", type=int, default=20_000)
    arguments = parser.parse_args()
    tokenizer, lines = Tokenizer(), []
    texts = arguments.texts.read_text("utf-8").splitlines()
    for text in texts[arguments.first : arguments.first + arguments.count]:
        ids = [int(each) for each in tokenizer.tokenize(tokenizer.phonemize(text, "en-us"))]
        if LEAST <= len(ids) <= MOST:
            row = {"language": "英文", "units": [[text, text, text, None, False]], "words": [ids]}
            lines.append(json.dumps(row, ensure_ascii=False))
    arguments.out.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{len(lines)} sentences")


if __name__ == "__main__":
    main()
