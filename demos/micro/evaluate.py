"""Character error rate of a model, or of hypotheses that anything else wrote, on clips with known text.

    python demos/micro/evaluate.py MANIFEST.jsonl ... --model DIR [--save HYPOTHESES.jsonl]
    python demos/micro/evaluate.py MANIFEST.jsonl ... --hypotheses HYPOTHESES.jsonl

A manifest is as synthesize.py writes it; its language, hotwords and itn go into each clip's prompt. Hypotheses are
lines with "key" and "text". Printed per language: CER = edits / characters of the reference, spaces counted, and the
share of clips without an error; once as written, once with case folded and Unicode punctuation removed. Held-out sets
have a line per condition, and where hotwords are about a name, the share of clips that write it as they should.
"""

import argparse
import json
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import kaldialign

TABLE_HEAD = (
    "| | clips | CER % | exact % | CER %, no punctuation | exact %, no punctuation | names right % |",
    "|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A line of a manifest."""

    key: str
    text: str
    spoken: str
    condition: str | None = None  # of a held-out set
    name: str | None = None  # that the hotwords are about, as it should be written

    @property
    def group(self) -> str:
        """The table's line that counts it."""
        return self.condition or self.spoken_language

    @property
    def spoken_language(self) -> str:
        """By its letters, because the manifest's language is what the prompt says, which may be nothing."""
        if any("\u4e00" <= character <= "\u9fff" for character in self.spoken):
            return "Mandarin"
        return "English" if self.spoken else "silence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Counts over a set of clips."""

    errors: int
    characters: int
    exact: int
    clips: int

    @property
    def cer(self) -> float | None:
        """Fraction; None where the references are empty."""
        return self.errors / self.characters if self.characters else None


def edit_distance(reference: Sequence[object], hypothesis: Sequence[object]) -> int:
    """Least number of inserted, deleted and replaced characters or tokens (Levenshtein, 1966)."""
    return int(kaldialign.edit_distance(list(reference), list(hypothesis))["total"])


def without_punctuation(text: str) -> str:
    """Case folded, characters of Unicode's punctuation classes removed, spaces in a row joined."""
    kept = "".join(character for character in text if not unicodedata.category(character).startswith("P"))
    return " ".join(kept.casefold().split())


def is_written(name: str, text: str) -> bool:
    """Whether the name stands in the text as a whole: "Brown" is not in "Call Browne."."""
    return re.search(rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])", text) is not None


def score(pairs: Iterable[tuple[str, str]]) -> Score:
    """(reference, hypothesis) pairs -> counts."""
    pairs = list(pairs)
    return Score(
        errors=sum(edit_distance(reference, hypothesis) for reference, hypothesis in pairs),
        characters=sum(len(reference) for reference, _ in pairs),
        exact=sum(reference == hypothesis for reference, hypothesis in pairs),
        clips=len(pairs),
    )


def read_manifest(path: Path) -> list[Clip]:
    """What was said in each clip, in order."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    fields = ("key", "text", "spoken", "condition", "name")
    return [Clip(**{field: row[field] for field in fields if field in row}) for row in rows]


def read_hypotheses(path: Path) -> dict[str, str]:
    """Text by key."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {row["key"]: row["text"] for row in rows}


def transcribe(
    manifests: Sequence[Path], model_dir: str, *, dtype: str, backend: Literal["auto", "vllm", "torch"]
) -> dict[str, str]:
    """Text by key, from this package's engine."""
    from twostage_asr.engine.console import quiet_libraries

    quiet_libraries()  # before torch and vLLM are imported
    from twostage_asr.engine import AutoModelVLLM

    with AutoModelVLLM(model=model_dir, dtype=dtype, encoder_dtype=dtype, backend=backend) as model:
        results = model.generate(manifests, timestamps=False)
    for result in results:
        if result.status == "error":
            raise SystemExit(f"{result.key}: {result.error}")
    return {result.key: result.text for result in results}


def table(clips: Sequence[Clip], texts: Mapping[str, str]) -> str:
    """Markdown, one line per language, or per condition of a held-out set."""
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[clip.group].append(clip)
    lines = list(TABLE_HEAD)
    for name, group in sorted(groups.items()):
        scores = [
            score((normalise(clip.text), normalise(texts[clip.key])) for clip in group)
            for normalise in (str, without_punctuation)
        ]
        cells = [cell for each in scores for cell in (_percent(each.cer), _percent(each.exact / each.clips, digits=1))]
        named = [is_written(clip.name, texts[clip.key]) for clip in group if clip.name is not None]
        cells.append(_percent(sum(named) / len(named) if named else None, digits=1))
        lines.append(f"| {name} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(fraction: float | None, *, digits: int = 2) -> str:
    return "-" if fraction is None else f"{100 * fraction:.{digits}f}"


def save_hypotheses(clips: Sequence[Clip], texts: Mapping[str, str], path: Path) -> None:
    """Write what read_hypotheses reads."""
    lines = [json.dumps({"key": clip.key, "text": texts[clip.key]}, ensure_ascii=False) for clip in clips]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def show_errors(clips: Sequence[Clip], texts: Mapping[str, str]) -> None:
    """Print what differs to stderr."""
    for clip in clips:
        if clip.text != texts[clip.key]:
            print(f"{clip.key}\n    expected {clip.text}\n    written  {texts[clip.key]}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="directory of a checkpoint or a converted model")
    source.add_argument("--hypotheses", type=Path, help="JSON lines with key and text")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"], help="of both stages")
    parser.add_argument("--backend", default="auto", choices=["auto", "vllm", "torch"])
    parser.add_argument("--save", type=Path, help="write the hypotheses")
    parser.add_argument("--show-errors", action="store_true", help="print what differs")
    arguments = parser.parse_args()
    clips = [clip for manifest in arguments.manifests for clip in read_manifest(manifest)]
    if len({clip.key for clip in clips}) < len(clips):
        raise SystemExit("a key occurs twice in the manifests; hypotheses are found by key")
    if arguments.hypotheses:
        texts = read_hypotheses(arguments.hypotheses)
    else:
        texts = transcribe(arguments.manifests, arguments.model, dtype=arguments.dtype, backend=arguments.backend)
    missing = [clip.key for clip in clips if clip.key not in texts]
    if missing:
        raise SystemExit(f"no hypothesis for {len(missing)} of {len(clips)} clips, first {missing[0]!r}")
    if arguments.save:
        save_hypotheses(clips, texts, arguments.save)
    if arguments.show_errors:
        show_errors(clips, texts)
    print(table(clips, texts))


if __name__ == "__main__":
    main()
