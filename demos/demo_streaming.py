"""Live text of an audio file, as it would come while somebody speaks: what is confirmed, and what may still change.

python demos/demo_streaming.py                                  # a bundled clip, with the bundled micro checkpoint
python demos/demo_streaming.py --model-dir FunAudioLLM/Fun-ASR-Nano-2512 --input talk.wav --language 中文
"""

import argparse
import sys
from pathlib import Path

from twostage_asr.engine.console import quiet_libraries

quiet_libraries()  # before torch and vLLM are imported

from twostage_asr.engine import FunASRNanoStreamingVLLM

MICRO = Path(__file__).parent / "micro"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", default=str(MICRO / "checkpoint"), help="checkpoint directory or hub id")
    parser.add_argument("--input", default=str(MICRO / "clips" / "en_long.flac"))
    parser.add_argument("--hub", default="ms", choices=["ms", "hf"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--language", help="name or ISO code; left to the model by default")
    parser.add_argument("--hotwords", nargs="+", default=[])
    parser.add_argument("--chunk-ms", type=float, default=720.0)
    parser.add_argument("--rollback-chars", type=int, default=8)
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    with FunASRNanoStreamingVLLM.from_pretrained(
        args.model_dir,
        hub=args.hub,
        device=args.device,
        chunk_ms=args.chunk_ms,
        rollback_chars=args.rollback_chars,
    ) as model:
        for result in model.streaming_generate(args.input, language=args.language, hotwords=args.hotwords):
            if result["is_final"]:
                print(f"Final: {result['text']}")
            else:
                tail = result["text"].removeprefix(result["fixed_text"])
                print(f"[{result['audio_duration_ms']:6.0f} ms] {result['fixed_text']}|{tail}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
