"""Mandarin sentences that the micro checkpoint knows, and how their characters are read.

pinyin.json holds the readings: those of the package pypinyin for single characters, and words that read otherwise.
"""

import json
import random
from functools import cache
from pathlib import Path

from grammar import Grammar, Unit, choice, draw_digits, draw_magnitude, same, split_words, spoken_as

_DIGITS = "零一二三四五六七八九"

# For strings of words that no template makes: only the ear helps there.
WORDS = split_words(
    "春天 夏天 秋天 冬天 老师 农民 国王 女王 兔子 老虎 小鸟 小狗 小猫 森林 河流 高山 白云 "
    "鲜花 城市 乡村 国家 世界 家庭 公司 酒店 银行 公园 花园 机场 车站 大桥 学校 厨房 音乐 "
    "书本 图片 信件 铅笔 椅子 桌子 瓶子 房子 房间 窗户 朋友 爸爸 妈妈 姐姐 游泳 跳舞 走路 "
    "睡觉 喝水 说话 读书 写字 做饭 哭泣 大笑 生气 高兴 难过 旧的 新的 黄金 红色 绿色 紫色 "
    "黑色 白色 从来 也许 因为 所以 经常 谢谢 欢迎 开始 打扫 推动 出售 寻找 带来 打开 关闭 "
    "里面 外面 中午 晚上 早上 下午 昨天 东西 问题 英语 数学 历史 科学 飞机 火车 汽车 电脑 "
    "手机 相机 苹果 下雨 下雪 大风 温暖 凉快 工作 生活 街道 海洋 医生 司机"
)

# Name -> another spelling that is said the same way. The model writes the first unless a hotword asks for the second.
SURNAMES = {
    "张": "章", "江": "姜", "傅": "付", "魏": "卫", "卢": "芦", "于": "余", "程": "成", "季": "纪", "严": "颜",
    "李": None, "王": None, "刘": None, "陈": None, "陆": None, "邱": "丘",
}  # fmt: skip
GIVEN_NAMES = {
    "伟": "玮", "林": "琳", "峰": "锋", "宇": "雨", "慧": "惠", "丽": "莉", "轩": "萱", "洋": "阳",
    "静": "敬", "杰": "洁", "婷": None, "明": None, "强": None,
}  # fmt: skip
PLACEHOLDERS = ("张三", "李四", "王五")  # people in examples; the templates' names have no such characters


@cache
def _pinyin() -> dict[str, str]:
    readings: dict[str, str] = json.loads(Path(__file__).with_name("pinyin.json").read_text("utf-8"))
    return readings


# All that have a reading.
CHARACTERS = tuple(sorted({character for word in _pinyin() for character in word}))


def read_characters(text: str) -> tuple[str, ...]:
    """Numbered pinyin of each character, 银行 -> yin2 hang2: the longest known word first, then single characters."""
    table = _pinyin()
    syllables: list[str] = []
    start = 0
    while start < len(text):
        end = next((e for e in range(len(text), start, -1) if text[start:e] in table), None)
        if end is None:
            raise ValueError(f"pinyin.json has no reading for {text[start]!r} in {text!r}")
        syllables += table[text[start:end]].split()
        start = end
    return tuple(syllables)


def number_characters(value: int) -> str:
    """Cardinal number 0..9999: 25 -> 二十五, 305 -> 三百零五."""
    if value < 10:
        return _DIGITS[value]
    if value < 20:
        return "十" + (_DIGITS[value % 10] if value % 10 else "")
    characters, pending_zero = "", False
    for size, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = value // size % 10
        if digit:
            characters += ("零" if pending_zero else "") + _DIGITS[digit] + name
        pending_zero = digit == 0 and bool(characters)
    return characters


def _number(rng: random.Random) -> Unit:
    value = draw_magnitude(rng)
    return spoken_as(number_characters(value), str(value))


def _money(rng: random.Random) -> Unit:
    value = draw_magnitude(rng, least=3)
    return spoken_as(f"{number_characters(value)}元", f"{value}元")


def _percent(rng: random.Random) -> Unit:
    value = rng.randrange(2, 100)
    return spoken_as(f"百分之{number_characters(value)}", f"{value}%")


def _count(rng: random.Random) -> Unit:
    value = rng.randrange(3, 100)
    noun = rng.choice(("把椅子", "辆汽车", "台电脑", "只小狗", "本书", "个苹果", "个瓶子"))
    return spoken_as(number_characters(value) + noun, f"{value}{noun}")


def _time(rng: random.Random) -> Unit:
    half, hour = rng.choice(
        (("早上", rng.randrange(5, 11)), ("下午", rng.randrange(1, 7)), ("晚上", rng.randrange(6, 12)))
    )
    minute = rng.choice((0, rng.randrange(11, 60)))
    spoken, written = f"{half}{number_characters(hour)}点", f"{half}{hour}点"
    if minute:
        spoken, written = f"{spoken}{number_characters(minute)}分", f"{written}{minute}分"
    return spoken_as(spoken, written)


def _date(rng: random.Random) -> Unit:
    month, day = rng.randrange(1, 13), rng.randrange(1, 29)
    return spoken_as(f"{number_characters(month)}月{number_characters(day)}日", f"{month}月{day}日")


def _year(rng: random.Random) -> Unit:
    year = str(rng.choice((rng.randrange(1950, 2000), rng.randrange(2000, 2020))))
    return spoken_as("".join(_DIGITS[int(digit)] for digit in year) + "年", f"{year}年")


def _digits(rng: random.Random) -> Unit:
    digits = draw_digits(rng)
    return spoken_as("".join(_DIGITS[digit] for digit in digits), "".join(map(str, digits)))


def _name(rng: random.Random) -> Unit:
    surname, given = rng.choice(list(SURNAMES)), rng.sample(list(GIVEN_NAMES), rng.choice((1, 1, 2)))
    name = surname + "".join(given)
    other_surname, other_last = SURNAMES[surname], GIVEN_NAMES[given[-1]]
    alternative = other_surname + name[1:] if other_surname else name[:-1] + other_last if other_last else None
    return Unit(spoken=name, written=name, plain=name, alternative=alternative, is_name=True)


def _words(rng: random.Random) -> Unit:
    return same("".join(rng.sample(WORDS, rng.randrange(2, 5))))


MANDARIN = Grammar(
    language="中文",
    templates=(
        "把{setting}调到{number}。",
        "设置闹钟{time}。",
        "开饭时间{time}至{time}。",
        "帮我{switch}{room}的{device}。",
        "请{switch}{room}的{device}。",
        "请联系{name}。",
        "给{name}打电话。",
        "帮我找{name}。",
        "我在等{name}。",
        "{name}住在{city}。",
        "{name}{when}会来。",
        "{name}来了。",
        "{name}买了新的手机。",
        "{when}{city}的天气怎么样？",
        "会议在{date}。",
        "考试在{date}。",
        "我的生日是{date}。",
        "我们{date}出发。",
        "密码是{digits}。",
        "房间号是{digits}。",
        "请拨打{digits}。",
        "他出生于{year}。",
        "这座房子建于{year}。",
        "这是{year}。",
        "第{number}章第{number}页。",
        "电量还有{percent}。",
        "完成了{percent}。",
        "增长了{percent}。",
        "价格是{money}。",
        "请支付{money}。",
        "一共{money}。",
        "{number}{operation}{number}。",
        "我们需要{count}。",
        "我有{count}。",
        "这里有{count}。",
        "他买了{count}。",
        "他丢了{count}。",
        "{owner}{noun}{degree}{adjective}。",
        "我想{action}{object}。",
        "你应该{action}{object}。",
        "我们可以{action}{object}。",
        "请不要{action}{object}。",
        "{words}。",
        "{words}。",
        "{words}。",
        "{words}。",
        "{words}。",
        "{words}。",
        "{words}。",
        "{words}。",
    ),
    slots={
        "setting": choice("音量|亮度|温度|速度"),
        "device": choice("灯|风扇|空调|电视|音箱|窗帘"),
        "room": choice("客厅|厨房|卧室|书房|浴室"),
        "city": choice("北京|上海|广州|深圳|成都|西安|南京|杭州"),
        "when": choice("今天|明天|周末|下周|周一|周二|周五"),
        "switch": choice("打开|关闭"),
        "operation": choice("加|减|乘"),
        "owner": choice("这个|那个|我的|每个"),
        "noun": choice("苹果|手机|老师|房间|电脑|国家|信件|瓶子|铅笔|公司|朋友"),
        "degree": choice("非常|不太|真的"),
        "adjective": choice("好|大|小|快|慢|热|冷"),
        "action": choice("打开|关闭|打扫|购买|出售|寻找|带来|推动"),
        "object": choice("窗户|房间|椅子|苹果|瓶子|手机|铅笔|桌子|图片"),
        "number": _number,
        "money": _money,
        "percent": _percent,
        "count": _count,
        "time": _time,
        "date": _date,
        "year": _year,
        "digits": _digits,
        "name": _name,
        "words": _words,
    },
)
