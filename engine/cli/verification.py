"""The checks of `twostage-asr verify`, which test a published model on this machine.

They download the model and compare digests; convert it and compare each tensor and the LLM's logits; check the
tokenizers; transcribe the published example clips on each backend that can run here; and compare the texts with the
published ones and with each other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...convert.export import ensure_converted
from ...convert.verify import verify_conversion
from ..audio.urls import is_url
from ..auto import AutoModelVLLM
from ..decoder.sharing import installed_vllm_device
from ..errors import ASRError
from ..families import family_named
from ..families.base import ModelFamily, Request
from ..hub.resolve import HUBS, HubName, resolve_model
from ..manifest import CTC_VOCABULARY_NAME, LLM_DIR_NAME, EngineManifest
from ..text import LLMTokenizer
from ..transcript import Transcript
from ..words.tokenizer import CTCTokenizer

Outcome = Literal["pass", "fail", "info"]
EXAMPLE_SUFFIXES = (".mp3", ".wav", ".flac")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A published example clip and its published text."""

    source: str  # path in the repository, or a URL
    text: str  # the beginning of the text, as far as it is published
    language: str | None = "中文"
    hotwords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The known facts about one repository on one hub."""

    sha256: Mapping[str, str] = field(default_factory=dict)  # file -> digest
    examples: tuple[Example, ...] = ()
    prompt: tuple[int, int] | None = None  # number of tokens of the plain prompt before and after the audio
    vocabulary: tuple[int, int, int] | None = None  # of the CTC head: ranks, ids with special tokens, blank id


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    outcome: Outcome
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"[{self.outcome.upper()}] {self.subject}: {self.detail}"


_NANO_EXAMPLES = (
    Example(source="example/zh.mp3", text="开饭时间早上九点至下午五点。"),
    Example(source="example/zh.mp3", text="开放时间", hotwords=("开放时间",)),
)
_NANO_PROMPT = (18, 5)
_QWEN_PROMPT = (9, 6)
_QWEN_CLIPS = "https://qianwen-res.oss-cn-beijing.aliyuncs.com/Qwen3-ASR-Repo"
_QWEN_EXAMPLES = tuple(
    Example(source=f"{_QWEN_CLIPS}/{clip}", text=text, language=None)
    for clip, text in (
        ("asr_en.wav", "Oh yeah, yeah. He wasn't even that big"),
        ("asr_zh.wav", "甚至出现交易几乎停滞的情况。"),
    )
)
_GLM_CLIPS = "https://raw.githubusercontent.com/zai-org/GLM-ASR/main/examples"
_GLM_EXAMPLES = (
    Example(
        source=f"{_GLM_CLIPS}/example_en.wav",
        text="be careful not to allow fabric to become too hot which can cause shrinkage or in extreme cases scorch",
        language=None,
    ),
    Example(
        source=f"{_GLM_CLIPS}/example_zh.wav",
        text="我还能再搞一个，就算是非常小的声音也能识别准确",
        language=None,
    ),
)
Releases = Mapping[tuple[HubName, str], Release]  # by hub and model id
RELEASES: Releases = {
    ("hf", "FunAudioLLM/Fun-ASR-Nano-2512"): Release(
        sha256={"model.pt": "55ae0d2fee369f0f11cce0795f6927934ad17cf11b278a7e56a51272074160bb"},
        examples=_NANO_EXAMPLES,
        prompt=_NANO_PROMPT,
    ),
    ("ms", "FunAudioLLM/Fun-ASR-Nano-2512"): Release(
        sha256={"model.pt": "81fec8616083c69377f3ceef36aba3655660ee0ca69a5d4a1e9810cd340ca499"},
        examples=_NANO_EXAMPLES,
        prompt=_NANO_PROMPT,
        vocabulary=(58_836, 60_515, 60_514),
    ),
    ("ms", "FunAudioLLM/Fun-ASR-MLT-Nano-2512"): Release(
        sha256={"model.pt": "f7ddbef5ff8c57254e6a045f0b316501b704fe2b774f962efc6e402364e8fe37"},
        prompt=_NANO_PROMPT,
    ),
    **{
        (hub, f"Qwen/Qwen3-ASR-{size}"): Release(examples=_QWEN_EXAMPLES, prompt=_QWEN_PROMPT)
        for hub in HUBS
        for size in ("0.6B", "1.7B", "0.6B-hf", "1.7B-hf")
    },
    ("hf", "zai-org/GLM-ASR-Nano-2512"): Release(examples=_GLM_EXAMPLES),
    ("ms", "ZhipuAI/GLM-ASR-Nano-2512"): Release(examples=_GLM_EXAMPLES),
}


def verify_model(model: str, hub: HubName, releases: Releases = RELEASES) -> Iterator[Finding]:
    """Yield findings as they are made. A failed step that later steps depend on ends the checks."""
    try:
        directory = resolve_model(model, hub=hub, more=[f"example/*{suffix}" for suffix in EXAMPLE_SUFFIXES])
        engine_dir = ensure_converted(directory)
    except ASRError as error:
        yield Finding("fail", "download and conversion", str(error))
        return
    manifest = EngineManifest.read(engine_dir)
    release = releases.get((hub, model))
    if release is None:
        yield Finding("info", model, f"no digests or texts are known for it on {hub!r}; known: {_known(releases)}")
        release = Release()
    yield from _check_digests(manifest, release)
    for note in (*manifest.notes, *manifest.missing.values()):
        yield Finding("info", "conversion", note)
    yield _check_conversion(directory, engine_dir)
    try:
        family = family_named(manifest.family)
    except ASRError as error:
        yield Finding("info", model, str(error))
        return
    yield from check_tokenizers(engine_dir, manifest, family, release)
    yield from _check_transcripts(directory, engine_dir, release)


def _check_conversion(directory: Path, engine_dir: Path) -> Finding:
    try:
        done = verify_conversion(directory, engine_dir)
    except ASRError as error:
        return Finding("fail", "conversion", str(error))
    return Finding("pass", "conversion", f"{done.num_tensors} tensors and {done.num_logits} logits are bit-equal")


def _check_digests(manifest: EngineManifest, release: Release) -> Iterator[Finding]:
    for name, file in manifest.source.items():
        expected = release.sha256.get(name)
        if expected is None:
            yield Finding("info", name, f"sha256 {file.sha256}, {file.size} bytes; no published digest is known")
        elif expected == file.sha256:
            yield Finding("pass", name, f"sha256 {file.sha256} as published")
        else:
            yield Finding("fail", name, f"sha256 {file.sha256}; published: {expected}")


def check_tokenizers(
    engine_dir: Path, manifest: EngineManifest, family: ModelFamily, release: Release
) -> Iterator[Finding]:
    """Check the number of tokens of the plain prompt, and the size of the CTC head's vocabulary."""
    tokenizer, text = LLMTokenizer(engine_dir / LLM_DIR_NAME), family.prompt_text(Request())
    before, after = tokenizer.encode(text.prefix, begins_text=text.begins_text), tokenizer.encode(text.suffix)
    found = f"{len(before)} + {len(after)} token ids, {before} and {after}"
    yield Finding(_outcome((len(before), len(after)), release.prompt), "prompt", found + _published(release.prompt))
    ctc = manifest.acoustic.get("ctc")
    if ctc:
        num_ranks = len(CTCTokenizer.from_file(engine_dir / CTC_VOCABULARY_NAME))
        sizes = num_ranks, ctc["vocab_size"], ctc["blank_id"]
        found = f"{num_ranks} ranks, {sizes[1]} ids with special tokens, blank {sizes[2]}"
        outcome = _outcome(sizes, release.vocabulary)
        yield Finding(outcome, "CTC vocabulary", found + _published(release.vocabulary))


def _outcome(found: tuple[int, ...], published: tuple[int, ...] | None) -> Outcome:
    return "info" if published is None else "pass" if found == published else "fail"


def _published(numbers: tuple[int, ...] | None) -> str:
    return "" if numbers is None else f"; published: {', '.join(map(str, numbers))}"


def _check_transcripts(directory: Path, engine_dir: Path, release: Release) -> Iterator[Finding]:
    published = {example.source for example in release.examples}
    found = sorted(p for p in directory.glob("example/*") if p.suffix in EXAMPLE_SUFFIXES)
    others = [str(p.relative_to(directory)) for p in found if str(p.relative_to(directory)) not in published]
    texts: dict[str, list[str]] = {}
    for backend in ("vllm", "torch"):
        if backend == "vllm" and installed_vllm_device() is None:
            yield Finding("info", backend, "not installed, so not compared")
            continue
        with AutoModelVLLM(engine_dir, backend=backend) as model:
            for example in release.examples:
                source = example.source if is_url(example.source) else directory / example.source
                (result,) = model.generate(source, language=example.language, hotwords=example.hotwords)
                yield _compared(f"{backend}, {example.source}, hotwords {list(example.hotwords)}", result, example.text)
            texts[backend] = [_text(result) for result in model.generate([directory / other for other in others])]
    for i, other in enumerate(others):
        said = {backend: lines[i] for backend, lines in texts.items()}
        agree = len(set(said.values())) == 1
        yield Finding("info" if agree else "fail", other, f"{'' if agree else 'backends differ: '}{said}")


def _compared(subject: str, result: Transcript, expected: str) -> Finding:
    said = _text(result)
    return Finding("pass" if said.startswith(expected) else "fail", subject, f"{said!r}; published: {expected!r}")


def _text(result: Transcript) -> str:
    return result.text if result.status == "ok" else f"error: {result.error}"


def _known(releases: Releases) -> str:
    return ", ".join(f"{model} on {hub!r}" for hub, model in releases)
