"""The commands and Python blocks of the pages that tests check without running them, and why.

What begins with one of these is parsed instead: options by the program's own parser, Python by ruff, which finds names
that do not exist. An entry that fits nothing any more makes a test fail.
"""

from dataclasses import dataclass

SERVE = "one server serves all pages, and these options are parsed"
BENCH = "it takes minutes; tests/engine/test_bench.py runs it"
MEASURES = "it measures for minutes"
NEEDS_AUDIO = "it needs recordings that are not here"
INSTALLS = "it changes the environment"
ELSEWHERE = "it runs on machines that are not here"


@dataclass(frozen=True, slots=True)
class Exemption:
    """Commands, or Python blocks, of one page (or of all: "*") that begin so."""

    page: str
    start: str
    reason: str


EXEMPTIONS = (
    Exemption("README.md", "python3 -m venv", INSTALLS),
    Exemption("README.md", "source .venv/bin/activate", INSTALLS),
    Exemption("*", "make check", INSTALLS),
    Exemption("*", "make test", INSTALLS),
    Exemption("*", "make format", INSTALLS),
    Exemption("*", "make micro", "it trains a model"),
    Exemption("demos/streaming.md", "pip install", INSTALLS),
    Exemption("demos/command_line.md", "mkdir", INSTALLS),
    Exemption("demos/command_line.md", "twostage-asr completion", INSTALLS),
    Exemption("*", "twostage-asr serve", SERVE),
    Exemption("*", "twostage-asr bench", BENCH),
    Exemption("*", "twostage-asr verify", "tests/engine/cli/test_verification.py runs it"),
    Exemption("*", "twostage-asr stream mic", "it needs a microphone"),
    Exemption("*", "arecord", "it needs a microphone"),
    Exemption("demos/streaming.md", "parec", "it needs a microphone"),
    Exemption("demos/clients.md", "ffmpeg -v error -f alsa", "it needs a microphone"),
    Exemption("demos/clients.md", "gst-launch-1.0", "it needs a microphone"),
    Exemption("demos/streaming.md", "ffmpeg -v error -f pulse", "it needs a microphone"),
    Exemption("*", "python demos/benchmark_", MEASURES),
    Exemption("demos/speed.md", "python demos/first_text.py", MEASURES),
    Exemption("demos/llm_asr/README.md", "python demos/", "it trains a model"),
    Exemption("demos/llm_asr/README.md", "twostage-asr", "it needs the trained model"),
    Exemption("demos/page.md", "python -m tests.engine.server.page_pictures", "it needs Chromium"),
    Exemption("demos/micro/README.md", "python demos/micro/", MEASURES),
    Exemption("demos/micro/README.md", "python tests/peers/", "FunASR has a process of its own"),
    Exemption("demos/micro/train/README.md", ".venv/bin/python demos/micro/make_checkpoint.py", "it trains a model"),
    Exemption("demos/speakers.md", "python demos/speakers/", NEEDS_AUDIO),
    Exemption("demos/speed.md", "RTFx =", "it is a formula"),
    Exemption("demos/streaming.md", "python funasr_wss_client.py", "it is FunASR's client"),
    Exemption("demos/cluster.md", "import ray", ELSEWHERE),
)
