"""Token ids that FunASR 1.4.16's CTC tokenizer gives to texts.

    python tests/peers/funasr_tokenizer.py VOCABULARY < TEXTS.json > IDS.json

TEXTS is a list of strings; IDS holds `ids`, a list for each, the number of tokens with special ones, `vocab_size`, and
that of the last one, `last`. The tokenizer's file is loaded by itself: importing funasr takes half a minute.
"""

import importlib.util
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    package = importlib.util.find_spec("funasr")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "models/sense_voice/whisper_lib/tokenizer.py"
    spec = importlib.util.spec_from_file_location("funasr_tokenizer_module", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.get_tokenizer(multilingual=True, num_languages=8749, vocab_path=sys.argv[1])
    answer = {
        "ids": [tokenizer.encode(text) for text in json.load(sys.stdin)],
        "vocab_size": tokenizer.get_vocab_size(),
        "last": tokenizer.encoding.encode_single_token("<|30.00|>"),
    }
    print(json.dumps(answer))
