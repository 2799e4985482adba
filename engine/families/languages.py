"""The languages of all families: codes, names in English and Chinese, and other names in use.

A request may give a language as a tag (BCP 47, RFC 5646: `en`, `en-US`, `zh_CN`, `cmn-Hans-CN`), an ISO 639 code, or a
name in English or Chinese, in upper or lower case. Each family lists the languages that its model knows, with their
names in its prompt.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class Language:
    """The names of one language."""

    english: str
    chinese: str
    others: tuple[str, ...] = ()  # codes of ISO 639-2 and -3, older codes and other names, in lower case


# Keyed by ISO 639-1 code, or by ISO 639-3 code for a language without one.
LANGUAGES: Mapping[str, Language] = {
    "zh": Language("Chinese", "中文", ("zho", "chi", "cmn", "mandarin", "putonghua", "汉语", "普通话")),
    "en": Language("English", "英文", ("eng", "英语")),
    "ja": Language("Japanese", "日文", ("jpn", "jp", "日语")),
    "yue": Language("Cantonese", "粤语", ("广东话",)),
    "ko": Language("Korean", "韩文", ("kor", "韩语")),
    "vi": Language("Vietnamese", "越南语", ("vie",)),
    "id": Language("Indonesian", "印尼语", ("ind", "in")),
    "th": Language("Thai", "泰语", ("tha",)),
    "ms": Language("Malay", "马来语", ("msa", "may", "zsm")),
    "fil": Language("Filipino", "菲律宾语", ("tl", "tgl", "tagalog")),
    "ar": Language("Arabic", "阿拉伯语", ("ara", "arb")),
    "hi": Language("Hindi", "印地语", ("hin",)),
    "bg": Language("Bulgarian", "保加利亚语", ("bul",)),
    "hr": Language("Croatian", "克罗地亚语", ("hrv",)),
    "cs": Language("Czech", "捷克语", ("ces", "cze")),
    "da": Language("Danish", "丹麦语", ("dan",)),
    "nl": Language("Dutch", "荷兰语", ("nld", "dut")),
    "et": Language("Estonian", "爱沙尼亚语", ("est", "ekk")),
    "fi": Language("Finnish", "芬兰语", ("fin",)),
    "el": Language("Greek", "希腊语", ("ell", "gre")),
    "hu": Language("Hungarian", "匈牙利语", ("hun",)),
    "ga": Language("Irish", "爱尔兰语", ("gle",)),
    "lv": Language("Latvian", "拉脱维亚语", ("lav", "lvs")),
    "lt": Language("Lithuanian", "立陶宛语", ("lit",)),
    "mt": Language("Maltese", "马耳他语", ("mlt",)),
    "pl": Language("Polish", "波兰语", ("pol",)),
    "pt": Language("Portuguese", "葡萄牙语", ("por",)),
    "ro": Language("Romanian", "罗马尼亚语", ("ron", "rum")),
    "sk": Language("Slovak", "斯洛伐克语", ("slk", "slo")),
    "sl": Language("Slovenian", "斯洛文尼亚语", ("slv",)),
    "sv": Language("Swedish", "瑞典语", ("swe",)),
    "de": Language("German", "德语", ("deu", "ger", "德文")),
    "fr": Language("French", "法语", ("fra", "fre", "法文")),
    "es": Language("Spanish", "西班牙语", ("spa",)),
    "it": Language("Italian", "意大利语", ("ita",)),
    "ru": Language("Russian", "俄语", ("rus", "俄文")),
    "tr": Language("Turkish", "土耳其语", ("tur",)),
    "fa": Language("Persian", "波斯语", ("fas", "per", "pes", "farsi")),
    "mk": Language("Macedonian", "马其顿语", ("mkd", "mac")),
}
# Dialects that models transcribe under the name of a language: those that Qwen3-ASR and Fun-ASR-Nano list, and the ISO
# 639-3 codes of the Chinese languages other than Mandarin and Cantonese.
DIALECTS: Mapping[str, str] = {
    **dict.fromkeys(("Anhui", "Dongbei", "Fujian", "Gansu", "Guizhou", "Hebei", "Henan", "Hubei", "Hunan"), "zh"),
    **dict.fromkeys(("Jiangxi", "Ningxia", "Shandong", "Shaanxi", "Shanxi", "Sichuan", "Tianjin"), "zh"),
    **dict.fromkeys(("Yunnan", "Zhejiang", "Wu", "Minnan", "Hakka", "Gan", "Xiang", "Jin"), "zh"),
    **dict.fromkeys(("Cantonese (Hong Kong accent)", "Cantonese (Guangdong accent)"), "yue"),
    **dict.fromkeys(("吴语", "闽语", "客家话", "赣语", "湘语", "晋语"), "zh"),
    **dict.fromkeys(("wuu", "nan", "hak", "hsn", "cjy", "cdo", "cpx", "czo", "mnp"), "zh"),
}
_INSTEAD = {"yue": "zh"}  # the language to request from a model that has no name for the requested one
_CODES: Mapping[str, str] = {
    **{name.lower(): code for name, code in DIALECTS.items()},
    **{
        name.lower(): code
        for code, language in LANGUAGES.items()
        for name in (code, language.english, language.chinese, *language.others)
    },
}
_TAG = re.compile(r"(?P<language>[a-z]{2,3})(-(?P<extended>[a-z]{3}))?(-[a-z0-9]{1,8})*")  # RFC 5646, 2.1


def is_auto(language: str | None) -> bool:
    """Whether the model is to detect the language."""
    return language is None or language.strip().lower() in ("", "auto")


@dataclass(frozen=True, slots=True)
class KnownLanguages:
    """The languages that one model knows."""

    names: Mapping[str, str]  # code in LANGUAGES -> name in the prompt
    advice: str = ""  # appended to the error for an unknown language

    def prompt_name(self, language: str | None) -> str | None:
        """A tag, code or name -> the name in the prompt; None, "" and "auto" -> None.

        Raises:
            ConfigError: a language that the model does not know.
        """
        if language is None or is_auto(language):
            return None
        for name in _readings(language):
            code = _CODES.get(name, "")
            code = code if code in self.names else _INSTEAD.get(code, "")
            if code in self.names:
                return self.names[code]
        known = ", ".join(f"{name} ({code})" for code, name in self.names.items())
        dialects = [LANGUAGES[code].english for code in _INSTEAD if code not in self.names]
        dialects += [name for name, code in DIALECTS.items() if name[0].isupper() and code in self.names]
        raise ConfigError(
            f'language {language!r} is unknown; allowed: None, "auto", {known}; ISO 639 codes and BCP 47 tags of '
            f"these, their names in English and Chinese, and the dialects {', '.join(dialects)}{self.advice}"
        )


def _readings(language: str) -> Iterator[str]:
    """The names and codes to look up for a text: itself and, if it is a tag, its extended and primary language."""
    whole = language.strip().lower().replace("_", "-")
    yield whole
    if tag := _TAG.fullmatch(whole):
        yield tag["extended"] or ""  # zh-yue is yue
        yield tag["language"]
