"""What people say first to a recogniser: digits, letters, dates, commands, greetings, single words, in both languages.

`ENGLISH_SAYINGS` and `MANDARIN_SAYINGS` are learned by heart; the grammars around them have slots. See `is_reserved`.
"""

import random

import english
import mandarin
from grammar import Grammar, Sentence, Unit, choice, same, spoken_as


def _split(sayings: str) -> tuple[str, ...]:
    """Sayings of a text that is kept on few lines."""
    return tuple(" ".join(sayings.split()).split(" | "))


ENGLISH_SAYINGS = _split("""
    hello | hi | hey | good morning | good afternoon | good evening | good night | goodbye | bye | see you later |
    how are you | thank you | thanks | thank you very much | you are welcome | please | sorry | excuse me | yes | no
    | okay | maybe | sure | of course | yes please | no thank you | stop | start | go | wait | help | cancel |
    continue | repeat | again | pause | play | next | previous | back | up | down | left | right | on | off | open |
    close | louder | quieter | faster | slower | more | less | play some music | play the next song | stop the music
    | pause the music | turn it up | turn it down | volume up | volume down | mute | unmute | turn on the light |
    turn off the light | turn on the lights | turn off the lights | what time is it | what is the time | what day is
    it | what is the date today | what is the weather | what is the weather like | what's the weather like | what is
    the weather today | what is the weather tomorrow | will it rain today | will it rain tomorrow | set a timer |
    set an alarm | stop the timer | stop the alarm | call my mother | call my father | call me back | answer the
    phone | hang up | send a message | read my messages | take a picture | take a photo | open the camera | open the
    window | close the window | open the door | close the door | lock the door | go home | take me home | where am i
    | turn left | turn right | go straight | what is your name | who are you | where are you | what can you do |
    tell me a joke | tell me a story | can you hear me | do you hear me | can you understand me | this is a test |
    testing | testing one two three | one two three | i do not know | i do not understand | say that again | speak
    slowly | very good | that is right | that is wrong | i love you | happy birthday | happy new year | good luck |
    the quick brown fox | today | tomorrow | yesterday | tonight | now | later | computer | music | weather | news |
    time | half an hour | one hour | five minutes | mountain view
""")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_WRITTEN_SO = {"i": "I"}


def _written_english(text: str) -> str:
    return " ".join(_WRITTEN_SO.get(word, word) for word in text.split())


def _digit(rng: random.Random) -> Unit:
    value = rng.randrange(10)
    return spoken_as(english.number_words(value), str(value))


def _small(rng: random.Random) -> Unit:
    value = rng.choice((rng.randrange(10, 20), rng.randrange(20, 100), rng.randrange(100, 1000)))
    return spoken_as(english.number_words(value), str(value))


def _digit_string(rng: random.Random) -> Unit:
    digits = [rng.randrange(10) for _ in range(rng.randrange(2, 9))]
    return spoken_as(" ".join(map(english.number_words, digits)), "".join(map(str, digits)))


def _letters(rng: random.Random) -> Unit:
    letters = [rng.choice(_ALPHABET) for _ in range(rng.choice((1, 1, 2, 3, 4, 5)))]
    return Unit(spoken=" ".join(letters), written=" ".join(letters).upper(), plain=" ".join(letters).upper())


def _minutes(rng: random.Random) -> Unit:
    value, noun = rng.randrange(2, 61), rng.choice(("minutes", "seconds", "hours"))
    return spoken_as(f"{english.number_words(value)} {noun}", f"{value} {noun}")


def _english_word(rng: random.Random) -> Unit:
    return same(rng.choice(english.WORDS))


def _day(rng: random.Random) -> Unit:
    return same(rng.choice(DAYS))


def _saying(rng: random.Random) -> Unit:
    return same(_written_english(rng.choice(ENGLISH_SAYINGS)))


EVERYDAY_ENGLISH = Grammar(
    language="英文",
    templates=(
        *("{saying}.",) * 8,
        *("{digit}.",) * 4,
        *("{word}.",) * 4,
        "{small}.",
        "{digit_string}.",
        "{digit_string}.",
        "{letters}.",
        "{letters}.",
        "{time}.",
        "{date}.",
        "{day}.",
        "{day}, {date}.",
        "Set a timer for {minutes}.",
        "Set an alarm for {time}.",
        "Remind me {day} at {time}.",
        "Set the {setting} to {small}.",
        "Turn {switch} the {device}.",
        "Turn {switch} the {device} in the {room}.",
        "What is the weather in {city}?",
        "How do I get to {city}?",
        "Play {noun}.",
        "Press {digit}.",
        "My number is {digit_string}.",
        "My name is {name}.",
        "Call {name}.",
        "What is {small} {operation} {small}?",
    ),
    slots=dict(english.ENGLISH.slots)
    | {
        "saying": _saying,
        "digit": _digit,
        "word": _english_word,
        "small": _small,
        "digit_string": _digit_string,
        "letters": _letters,
        "minutes": _minutes,
        "day": _day,
        "noun": choice("music|the radio|the news|a song|a movie|my messages"),
    },
)

MANDARIN_SAYINGS = _split("""
    你好 | 您好 | 大家好 | 早上好 | 下午好 | 晚上好 | 晚安 | 再见 | 明天见 |
    谢谢 | 谢谢你 | 不客气 | 对不起 | 没关系 | 是 | 不是 | 是的 | 对 | 不对 |
    好 | 好的 | 不好 | 可以 | 不可以 | 不行 | 没问题 | 请 | 等一下 | 停 |
    停止 | 开始 | 继续 | 暂停 | 取消 | 确定 | 重复 | 再说一遍 | 下一个 |
    上一个 | 返回 | 帮助 | 打开 | 关闭 | 大声一点 | 小声一点 | 快一点 | 慢一点 |
    播放音乐 | 下一首 | 上一首 | 停止播放 | 暂停音乐 | 我想听音乐 | 打开灯 | 关灯 |
    开灯 | 打开电视 | 关闭电视 | 打开空调 | 关闭空调 | 打开窗帘 | 现在几点 |
    现在几点了 | 今天几号 | 今天星期几 | 今天天气怎么样 | 明天天气怎么样 | 今天会下雨吗 |
    明天会下雨吗 | 设置闹钟 | 停止闹钟 | 打电话 | 给妈妈打电话 | 给爸爸打电话 | 接电话 |
    挂电话 | 发信息 | 拍照 | 打开相机 | 打开窗户 | 关闭窗户 | 回家 | 我要回家 |
    左转 | 右转 | 你叫什么名字 | 你是谁 | 你在哪里 | 你会做什么 | 讲个笑话 |
    讲个故事 | 听得到吗 | 你能听到我说话吗 | 这是一个测试 | 测试 | 测试一二三 | 一二三 |
    我不知道 | 我不明白 | 请说慢一点 | 很好 | 非常好 | 生日快乐 | 新年快乐 | 我爱你 |
    今天 | 明天 | 昨天 | 现在 | 音乐 | 天气 | 新闻 | 时间 | 为什么 | 怎么样 |
    什么 | 哪里 | 但是 | 使用 | 小学 | 星期几
""")


def _zh_digit(rng: random.Random) -> Unit:
    value = rng.randrange(11)
    return spoken_as(mandarin.number_characters(value) if value else "零", str(value))


def _zh_small(rng: random.Random) -> Unit:
    value = rng.choice((rng.randrange(10, 20), rng.randrange(20, 100), rng.randrange(100, 1000)))
    return spoken_as(mandarin.number_characters(value), str(value))


def _zh_digit_string(rng: random.Random) -> Unit:
    digits = [rng.randrange(10) for _ in range(rng.randrange(2, 9))]
    return spoken_as("".join("零一二三四五六七八九"[digit] for digit in digits), "".join(map(str, digits)))


def _zh_minutes(rng: random.Random) -> Unit:
    value, noun = rng.randrange(3, 61), rng.choice(("分钟", "秒", "个小时"))
    return spoken_as(f"{mandarin.number_characters(value)}{noun}", f"{value}{noun}")


EVERYDAY_MANDARIN = Grammar(
    language="中文",
    templates=(
        *("{saying}。",) * 8,
        *("{digit}。",) * 3,
        *("{word}。",) * 5,
        "{small}。",
        "{digit_string}。",
        "{digit_string}。",
        "{time}。",
        "{date}。",
        "{day}。",
        "设置{minutes}的闹钟。",
        "{day}{time}提醒我。",
        "把{setting}调到{small}。",
        "{switch}{device}。",
        "{switch}{room}的{device}。",
        "{city}的天气怎么样？",
        "去{city}怎么走？",
        "我叫{name}。",
        "给{name}打电话。",
        "我的号码是{digit_string}。",
        "请按{digit}。",
        "{small}{operation}{small}等于多少？",
    ),
    slots=dict(mandarin.MANDARIN.slots)
    | {
        "saying": choice("|".join(MANDARIN_SAYINGS)),
        "digit": _zh_digit,
        "word": choice("|".join(mandarin.WORDS)),
        "small": _zh_small,
        "digit_string": _zh_digit_string,
        "minutes": _zh_minutes,
        "day": choice("星期一|星期二|星期三|星期四|星期五|星期六|星期天|今天|明天|昨天"),
    },
)

EVERYDAY = (EVERYDAY_ENGLISH, EVERYDAY_MANDARIN)

# What only the ear tells. Without many of them, strings of known words are taken for unknown speech.
DRILLS = (
    Grammar(
        language="英文",
        templates=(
            *("{words}.",) * 5,
            *("{letters}.",) * 2,
            "{digit_string}.",
            *("{digit}.",) * 2,
            *("{word}.",) * 2,
        ),
        slots=EVERYDAY_ENGLISH.slots,
    ),
    Grammar(
        language="中文",
        templates=(*("{words}。",) * 5, *("{digit_string}。",) * 3, *("{digit}。",) * 2, *("{word}。",) * 3),
        slots=EVERYDAY_MANDARIN.slots,
    ),
)
_BY_HEART = frozenset((*ENGLISH_SAYINGS, *MANDARIN_SAYINGS, *mandarin.WORDS))


def known_words() -> frozenset[str]:
    """Sayings whole and, in English, by word; single words, those of numbers below 100, and letters."""
    words = {word.lower() for word in english.WORDS} | set(" ".join(ENGLISH_SAYINGS).split())
    numbers = {word for value in range(100) for word in english.number_words(value).split()}
    return frozenset({*words, *numbers, *_ALPHABET, *_BY_HEART})


def is_reserved(sentence: Sentence) -> bool:
    """Held out by its words; of sayings and single words only voices are ever new."""
    return sentence.is_held_out and len(sentence.words) > 1 and sentence.spoken not in _BY_HEART
