"""Serve a model over HTTP and WebSockets; the bundled micro checkpoint if none is named.

    python demos/serve_vllm.py --port 8899 --model FunAudioLLM/Fun-ASR-Nano-2512 --gpu-memory-utilization 0.5
    curl -F file=@a.wav http://localhost:8899/asr          # http://localhost:8899/ is a page to try it with

The same as `twostage-asr serve`, whose --help lists all options.
"""

import sys
from pathlib import Path

from twostage_asr.engine.cli import main

MICRO = Path(__file__).parent / "micro" / "checkpoint"


def arguments(command: str, given: list[str]) -> list[str]:
    """The command line, with the bundled model where none is named."""
    names_one = any(argument.split("=")[0] in ("--model", "--config") for argument in given)
    return [command, *([] if names_one else ["--model", str(MICRO)]), *given]


if __name__ == "__main__":
    sys.exit(main(arguments("serve", sys.argv[1:])))
