"""Mandarin sentences with English words in them that the micro checkpoint knows."""

import random

from english import WORDS
from grammar import Grammar, Unit, choice, same


def _english(rng: random.Random) -> Unit:
    return same(" ".join(rng.sample(WORDS, rng.choice((1, 1, 1, 2, 2, 3)))))


# English words stand between spaces, and neither first nor last, so that sentences can follow each other without one.
MIXED = Grammar(
    language="中文",
    templates=(
        "请说 {english} 这个词。",
        "我今天学了 {english} 这个词。",
        "老师说 {english} 不是名字。",
        "他问 {english} 是什么意思？",
        "请打开 {english} 的图片。",
        "我想听 {english} 的音乐。",
        "你应该说 {english} 和 {english} 两个词。",
        "帮我找 {english} 的电影。",
        "{when} {city} 的天气怎么样？",
        "我的朋友住在 {city} 的酒店。",
        "{when}我们去 {city} 工作。",
    ),
    slots={
        "english": _english,
        "city": choice("London|Paris|Berlin|Boston|Tokyo|New York"),
        "when": choice("今天|明天|周末|下周|周一|周二|周五"),
    },
)
