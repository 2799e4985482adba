"""The voices of training, and those that only the held-out clips have.

A voice is an espeak-ng voice file with a variant. The data of espeak-ng 1.51 holds 105 variants.
"""

import random

from espeak import Voice
from grammar import Language

ENGLISH_FILES = ("gmw/en-US", "gmw/en", "gmw/en-GB-x-rp")
MANDARIN_FILE = "sit/cmn-Latn-pinyin"
VOICE_FILES: dict[Language, tuple[str, ...]] = {"英文": ENGLISH_FILES, "中文": (MANDARIN_FILE,)}

# Never in training: three men, two women.
HELD_OUT_VARIANTS = ("m8", "f5", "Andy", "linda", "adam")

# Not among them: "rob", with which libespeak-ng 1.51 crashes on Mandarin at a low pitch with a wide range.

# As people sound, "" being the voice as it is.
_COMMON = (
    "", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "Alex", "Denis", "Gene", "steph", "max",
    "victor", "Mario", "Annie", "anika", "boris", "Alicia", "Andrea", "Diogo", "Gene2", "Henrique", "Hugo", "Jacky",
    "Lee", "Marco", "Michael", "Mike", "Mr", "Nguyen", "antonio", "aunty", "belinda", "benjamin", "caleb", "david",
    "ed", "edward", "edward2", "grandma", "grandpa", "gustave", "iven", "iven2", "iven3", "iven4", "john",
    "kaukovalta", "marcelo", "michel", "miguel", "norbert", "pablo", "paul", "pedro", "quincy", "robert",
    "sandro", "serious", "shelby", "steph2", "steph3", "travis", "zac", "announcer",
)  # fmt: skip
# As machines do, or in a whisper; they widen what the model takes for a voice.
_RARE = (
    "RicishayMax", "RicishayMax2", "RicishayMax3", "Storm", "Tweaky", "anikaRobot", "klatt", "klatt2", "klatt3",
    "klatt4", "klatt6", "robosoft", "robosoft2", "robosoft3", "robosoft5", "robosoft6", "croak", "whisper", "whisperf",
)  # fmt: skip
TRAINING_VARIANTS = _COMMON + _RARE


def draw_training_voice(language: Language, rng: random.Random) -> Voice:
    """One of the training voices at any rate, from slower to faster than people speak."""
    return Voice(
        file=rng.choice(VOICE_FILES[language]),
        variant=rng.choice(_COMMON if rng.random() < 0.93 else _RARE),
        rate=rng.choice((rng.randrange(90, 300), rng.randrange(120, 221))),
        pitch=rng.randrange(10, 91),
        pitch_range=rng.randrange(20, 86),
    )


def draw_held_out_voice(language: Language, rng: random.Random, *, rates: tuple[int, int] = (130, 205)) -> Voice:
    """A voice that training never had; `rates` is a closed range in words per minute."""
    return Voice(
        file=rng.choice(VOICE_FILES[language]),
        variant=rng.choice(HELD_OUT_VARIANTS),
        rate=rng.randint(*rates),
        pitch=rng.randrange(25, 76),
        pitch_range=rng.randrange(35, 71),
    )
