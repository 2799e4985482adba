"""The clips of the demo: one or two per thing that it shows.

They show the model at its best: espeak-ng's voices and rates were chosen among a dozen so that it has no doubt. The
natural voices are Kokoro's, and two of those that no training has.
"""

from dataclasses import replace

from espeak import Voice
from grammar import Unit, compose, same, spoken_as
from render import Recipe

MANDARIN_VOICE = "sit/cmn-Latn-pinyin"

SILENCE = Recipe(key="silence", sentences=(), voice=Voice(file="gmw/en-US"), silence_s=(2.0,))

_EN_VOLUME = Recipe(
    key="en_volume",
    sentences=(compose("英文", "Set the volume to {}.", [spoken_as("twenty five", "25")]),),
    voice=Voice(file="gmw/en", variant="Mario", rate=170, pitch=64, pitch_range=36),
)
_ZH_VOLUME = Recipe(
    key="zh_volume",
    sentences=(compose("中文", "把音量调到{}。", [spoken_as("二十五", "25")]),),
    voice=Voice(file=MANDARIN_VOICE, variant="f3", rate=170, pitch=29, pitch_range=55),
)
_EN_CALL = Recipe(
    key="en_call",
    sentences=(compose("英文", "Call {}.", [replace(same("John Smith"), alternative="John Smyth")]),),
    voice=Voice(file="gmw/en-GB-x-rp", variant="f4", rate=150, pitch=75, pitch_range=42),
)
_ZH_CONTACT = Recipe(
    key="zh_contact",
    sentences=(compose("中文", "请联系{}。", [replace(same("张三"), alternative="章三")]),),
    voice=Voice(file=MANDARIN_VOICE, variant="m5", rate=170, pitch=32, pitch_range=67),
)
_ZH_HOURS = Recipe(
    key="zh_hours",
    sentences=(
        compose(
            "中文",
            "{}时间{}至{}。",
            [
                Unit(spoken="开饭", written="开饭", plain="开饭", alternative="开放"),
                spoken_as("早上九点", "早上9点"),
                spoken_as("下午五点", "下午5点"),
            ],
        ),
    ),
    voice=Voice(file=MANDARIN_VOICE, variant="f2", rate=170, pitch=66, pitch_range=70),
)
_EN_WEATHER = Recipe(
    key="en_weather",
    sentences=(compose("英文", "What is the weather in London today?", []),),
    voice=Voice(file="gmw/en-US", variant="Alex", rate=160, pitch=58, pitch_range=65),
    hint="英文",
)
_ZH_WEATHER_NOISE = Recipe(
    key="zh_weather_noise",
    sentences=(compose("中文", "今天北京的天气怎么样？", []),),
    voice=Voice(file=MANDARIN_VOICE, variant="boris", rate=170, pitch=69, pitch_range=48),
    hint="中文",
    noise_snr_db=10.0,
)
_EN_LONG = Recipe(
    key="en_long",
    sentences=(
        compose("英文", "Call {}.", [same("Catherine Green")]),
        compose("英文", "The train leaves at {}.", [spoken_as("eight fifteen pm", "8:15 PM")]),
        compose("英文", "What is the weather in Boston on Friday?", []),
        compose("英文", "The price is {}.", [spoken_as("two hundred forty dollars", "$240")]),
        compose("英文", "We need {}.", [spoken_as("twelve chairs", "12 chairs")]),
    ),
    voice=Voice(file="gmw/en", variant="m6", rate=145, pitch=68, pitch_range=69),
    silence_s=(0.3, 0.4, 0.4, 0.4, 0.4, 0.3),
)


def _with_hotword(recipe: Recipe, hotword: str) -> Recipe:
    """The same audio with a hotword that asks for the second spelling."""
    return replace(recipe, key=f"{recipe.key}_hotword", audio_of=recipe.key, hotwords=(hotword,), use_alternative=True)


def _as_spoken(recipe: Recipe) -> Recipe:
    """The same audio without inverse text normalisation."""
    return replace(recipe, key=f"{recipe.key}_spoken", audio_of=recipe.key, itn=False)


DEMO_CLIPS = (
    _EN_VOLUME,
    _as_spoken(_EN_VOLUME),
    _ZH_VOLUME,
    _as_spoken(_ZH_VOLUME),
    _EN_CALL,
    _with_hotword(_EN_CALL, "John Smyth"),
    _ZH_CONTACT,
    _with_hotword(_ZH_CONTACT, "章三"),
    _ZH_HOURS,
    _with_hotword(_ZH_HOURS, "开放时间"),
    _EN_WEATHER,
    _ZH_WEATHER_NOISE,
    _EN_LONG,
    SILENCE,
)

# Spoken by Kokoro-82M; natural.py takes them from its shards.
NATURAL_CLIPS = (
    Recipe(
        key="en_natural",
        sentences=(compose("英文", "Set a timer for {}.", [spoken_as("fifty nine minutes", "59 minutes")]),),
        voice=Voice(file="af_nova"),
    ),
    Recipe(
        key="zh_natural",
        sentences=(compose("中文", "下周成都的天气怎么样？", []),),
        voice=Voice(file="zf_xiaoni"),
    ),
)
