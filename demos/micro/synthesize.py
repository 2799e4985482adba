"""Make clips that the micro checkpoint can hear, each with its text and the times of its words.

    python demos/micro/synthesize.py --set eval --out DIR     # tune/ and test/, en/ and zh/, 100 clips each

Speech comes from espeak-ng (libespeak-ng must be installed: see espeak.py). The same set gives the same bytes every time
with the same espeak-ng. Every folder gets a manifest.jsonl with one line per clip:

    source    file, relative to the manifest
    key       name of the clip
    text      what the model should write
    spoken    the words as they are said: lower case, no punctuation
    language  hint for the model, "英文", "中文" or null
    hotwords  for the prompt
    itn       true: write "25" for "twenty five"
    voice     espeak-ng voice file and settings
    words     [[word or character, start_s, end_s], ...] in the clip
"""

import argparse
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from english import ENGLISH
from espeak import SAMPLE_RATE, EspeakError, FloatArray, Speech, Synthesizer, Voice
from grammar import Grammar, Language, Sentence
from mandarin import MANDARIN, read_characters

# The voices that the checkpoint was trained on.
VARIANTS = (
    "", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4",
    "Alex", "Denis", "Gene", "steph", "max", "victor", "Mario", "Annie", "anika", "boris",
)  # fmt: skip
VOICE_FILES: dict[Language, tuple[str, ...]] = {
    "英文": ("gmw/en-US", "gmw/en", "gmw/en-GB-x-rp"),
    "中文": ("sit/cmn-Latn-pinyin",),
}
SILENCE_LEVEL = 1e-3  # relative to the peak; quieter samples at the end of an utterance are espeak-ng's pause

Words = list[tuple[str, float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a clip's samples and its line in the manifest."""

    key: str
    sentences: tuple[Sentence, ...]
    voice: Voice
    hint: Language | None = None
    hotwords: tuple[str, ...] = ()
    itn: bool = True
    use_alternative: bool = False
    silence_s: tuple[float, ...] = (0.3, 0.3)  # before, between and after the sentences
    peak: float = 0.5
    noise_snr_db: float | None = None

    @property
    def text(self) -> str:
        texts = [s.text(itn=self.itn, use_alternative=self.use_alternative) for s in self.sentences]
        return (" " if self.sentences and self.sentences[0].language == "英文" else "").join(texts)

    @property
    def spoken(self) -> str:
        if not self.sentences:
            return ""
        joiner = " " if self.sentences[0].language == "英文" else ""
        return joiner.join(joiner.join(sentence.words) for sentence in self.sentences)


def speak_sentence(synthesizer: Synthesizer, sentence: Sentence, voice: Voice) -> tuple[FloatArray, Words]:
    """Waveform of one sentence without espeak-ng's final pause, and its words with start and end in seconds.

    A word ends where the next begins. espeak-ng runs some short words together ("in the") and reports only the first:
    their common stretch is then divided by their numbers of letters.
    """
    tokens = sentence.words if sentence.language == "英文" else read_characters("".join(sentence.words))
    speech = synthesizer.speak(" ".join(tokens), voice)
    waveform = trim_end(speech.waveform)
    edges = word_edges(tokens, speech, len(waveform) / SAMPLE_RATE)
    return waveform, [(word, *edge) for word, edge in zip(sentence.words, edges, strict=True)]


def trim_end(waveform: FloatArray) -> FloatArray:
    """Cut what is quieter than SILENCE_LEVEL of the peak after the last louder sample."""
    loud = np.flatnonzero(np.abs(waveform) > SILENCE_LEVEL * np.abs(waveform).max())
    return waveform[: loud[-1] + 1]


def word_edges(tokens: Sequence[str], speech: Speech, duration_s: float) -> list[tuple[float, float]]:
    """(start, end) in seconds of each token of the text that `speech` spoke, tokens joined by single spaces."""
    positions = list(itertools.accumulate((len(token) + 1 for token in tokens[:-1]), initial=0))
    reported = dict(speech.word_starts)
    if reported.get(0) is None or not reported.keys() <= set(positions):
        raise EspeakError(f"word events {speech.word_starts} do not fit the words of {' '.join(tokens)!r}")
    anchors = [*(i for i, position in enumerate(positions) if position in reported), len(tokens)]
    times = [*(reported[positions[i]] for i in anchors[:-1]), duration_s]
    starts: list[float] = []
    for (first, last), (begin, end) in zip(itertools.pairwise(anchors), itertools.pairwise(times), strict=True):
        letters = [len(token) for token in tokens[first:last]]
        before = itertools.accumulate(letters[:-1], initial=0)
        starts += [begin + (end - begin) * count / sum(letters) for count in before]
    return list(itertools.pairwise([*starts, duration_s]))


def render(synthesizer: Synthesizer, recipe: Recipe) -> tuple[FloatArray, Words]:
    """The clip (N,) float32 at 16 kHz and its words, times from the start of the clip."""
    pieces, words = [_silence(recipe.silence_s[0])], []
    for sentence, gap_s in zip(recipe.sentences, recipe.silence_s[1:], strict=True):
        offset_s = sum(map(len, pieces)) / SAMPLE_RATE
        waveform, sentence_words = speak_sentence(synthesizer, sentence, recipe.voice)
        words += [(word, offset_s + start, offset_s + end) for word, start, end in sentence_words]
        pieces += [waveform / np.abs(waveform).max(), _silence(gap_s)]
    clip = np.concatenate(pieces) * np.float32(recipe.peak)
    return clip, words


def _silence(seconds: float) -> FloatArray:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def write_set(synthesizer: Synthesizer, recipes: Sequence[Recipe], folder: Path, *, suffix: str) -> None:
    """Write each clip as 16-bit `suffix` file (".wav", ".flac") and the manifest that lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for recipe in recipes:
        clip, words = render(synthesizer, recipe)
        soundfile.write(folder / (recipe.key + suffix), clip, SAMPLE_RATE, subtype="PCM_16")
        lines.append(json.dumps(manifest_line(recipe, words, suffix), ensure_ascii=False))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def manifest_line(recipe: Recipe, words: Words, suffix: str) -> dict[str, object]:
    """The clip's line in manifest.jsonl."""
    voice = recipe.voice
    return {
        "source": recipe.key + suffix,
        "key": recipe.key,
        "text": recipe.text,
        "spoken": recipe.spoken,
        "language": recipe.hint,
        "hotwords": list(recipe.hotwords),
        "itn": recipe.itn,
        "voice": f"{voice.name} rate={voice.rate} pitch={voice.pitch} range={voice.pitch_range}",
        "words": [[word, round(start, 3), round(end, 3)] for word, start, end in words],
    }


def draw_voice(language: Language, rng: random.Random) -> Voice:
    """One of the training voices; rates that people speak at."""
    return Voice(
        file=rng.choice(VOICE_FILES[language]),
        variant=rng.choice(VARIANTS),
        rate=rng.randrange(130, 206, 5),
        pitch=rng.randrange(25, 76),
        pitch_range=rng.randrange(35, 71),
    )


def draw_recipe(grammar: Grammar, rng: random.Random, key: str, known: set[str]) -> Recipe:
    """A clip of one to four sentences, none of them in `known`, with prompt options at random."""
    sentences = tuple(_new_sentence(grammar, rng, known) for _ in range(rng.choice((1, 1, 1, 1, 1, 2, 2, 3, 4))))
    alternative = sentences[0].alternative if len(sentences) == 1 else None
    use_alternative = alternative is not None and rng.random() < 0.4
    return Recipe(
        key=key,
        sentences=sentences,
        voice=draw_voice(grammar.language, rng),
        hint=rng.choice((None, grammar.language)),
        hotwords=(alternative,) if alternative and use_alternative else (),
        itn=rng.random() < 0.7,
        use_alternative=use_alternative,
        silence_s=tuple(round(rng.uniform(0.15, 0.5), 3) for _ in range(len(sentences) + 1)),
        peak=round(rng.uniform(0.2, 0.8), 3),
    )


def _new_sentence(grammar: Grammar, rng: random.Random, known: set[str]) -> Sentence:
    while True:
        sentence = grammar.draw(rng)
        text = sentence.text(itn=False)
        if text not in known:
            known.add(text)
            return sentence


def draw_evaluation_set(
    synthesizer: Synthesizer, grammar: Grammar, rng: random.Random, known: set[str], *, count: int, prefix: str
) -> Iterator[Recipe]:
    """`count` clips of 1.5 to 12 s, chosen by length alone."""
    made = 0
    while made < count:
        recipe = draw_recipe(grammar, rng, f"{prefix}{made:03d}", known)
        if 1.5 <= len(render(synthesizer, recipe)[0]) / SAMPLE_RATE <= 12:
            made += 1
            yield recipe


def write_evaluation_sets(synthesizer: Synthesizer, out: Path) -> None:
    """tune/ and test/ with en/ and zh/: no sentence occurs twice in all of them."""
    for grammar, name in ((ENGLISH, "en"), (MANDARIN, "zh")):
        known: set[str] = set()
        for split, seed in (("tune", 1), ("test", 2)):
            rng = random.Random(f"{split} {name} {seed}")
            recipes = draw_evaluation_set(synthesizer, grammar, rng, known, count=100, prefix=f"{name}_{split}_")
            write_set(synthesizer, list(recipes), out / split / name, suffix=".wav")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=["eval"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_evaluation_sets(Synthesizer(), arguments.out)


if __name__ == "__main__":
    main()
