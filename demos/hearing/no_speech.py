"""Whether the no-speech rule would doubt what people said: python demos/hearing/no_speech.py CLIPS --other NONSPEECH

CLIPS holds manifest.jsonl and the clips that it names; each is judged at several levels. NONSPEECH holds audio files
without speech, in which the seconds taken for speech are counted.
"""

import argparse
from pathlib import Path

import numpy as np
from talk import manifest, read

from twostage_asr.engine.quality import MOST_BYTES_PER_S, seconds_of_speech

LEVELS_DB = (0, -10, -20, -30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--other", type=Path, help="directory of audio without speech")
    args = parser.parse_args()
    clips = [(row["text"], read(args.clips / row["file"])) for row in manifest(args.clips)]
    print("| level | clips doubted |\n|---|---|")
    for level in LEVELS_DB:
        scale = np.float32(10 ** (level / 20))
        doubted = sum(len(text.encode()) > MOST_BYTES_PER_S * seconds_of_speech(clip * scale) for text, clip in clips)
        print(f"| {level} dB | {doubted} of {len(clips)} |", flush=True)
    if args.other is not None:
        print("\n| without speech | s | s taken for speech |\n|---|---|---|")
        for path in sorted(each for each in args.other.iterdir() if each.suffix in {".flac", ".wav", ".ogg", ".mp3"}):
            clip = read(path)
            print(f"| {path.stem} | {len(clip) / 16_000:.1f} | {seconds_of_speech(clip):.2f} |")


if __name__ == "__main__":
    main()
