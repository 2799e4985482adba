"""How languages are asked for: the name in every model's prompt, by code, and all that people write for one."""

import pytest

from twostage_asr.engine import ConfigError
from twostage_asr.engine.families import FAMILIES
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.families.languages import LANGUAGES

# What the models were trained on: the README of Fun-ASR, and the qwen-asr package 0.0.6.
NANO = {"zh": "中文", "en": "英文", "ja": "日文"}
MLT_NANO = NANO | {
    **{"yue": "粤语", "ko": "韩文", "vi": "越南语", "id": "印尼语", "th": "泰语", "ms": "马来语", "fil": "菲律宾语"},
    **{"ar": "阿拉伯语", "hi": "印地语", "bg": "保加利亚语", "hr": "克罗地亚语", "cs": "捷克语", "da": "丹麦语"},
    **{"nl": "荷兰语", "et": "爱沙尼亚语", "fi": "芬兰语", "el": "希腊语", "hu": "匈牙利语", "ga": "爱尔兰语"},
    **{"lv": "拉脱维亚语", "lt": "立陶宛语", "mt": "马耳他语", "pl": "波兰语", "pt": "葡萄牙语", "ro": "罗马尼亚语"},
    **{"sk": "斯洛伐克语", "sl": "斯洛文尼亚语", "sv": "瑞典语"},
}
QWEN = {
    **{"zh": "Chinese", "en": "English", "yue": "Cantonese", "ar": "Arabic", "de": "German", "fr": "French"},
    **{"es": "Spanish", "pt": "Portuguese", "id": "Indonesian", "it": "Italian", "ko": "Korean", "ru": "Russian"},
    **{"th": "Thai", "vi": "Vietnamese", "ja": "Japanese", "tr": "Turkish", "hi": "Hindi", "ms": "Malay"},
    **{"nl": "Dutch", "sv": "Swedish", "da": "Danish", "fi": "Finnish", "pl": "Polish", "cs": "Czech"},
    **{"fil": "Filipino", "fa": "Persian", "el": "Greek", "ro": "Romanian", "hu": "Hungarian", "mk": "Macedonian"},
}
NAMES = {"fun_asr_nano": NANO, "fun_asr_mlt_nano": MLT_NANO, "qwen3_asr": QWEN}
OF_EACH = [(family, code, name) for family, names in NAMES.items() for code, name in names.items()]
# ISO 639-2 (terminological, bibliographic), then those of ISO 639-3 that are in use beside it.
CODES = {
    **{"zh": "zho chi cmn", "en": "eng", "ja": "jpn", "yue": "yue", "ko": "kor", "vi": "vie", "id": "ind", "th": "tha"},
    **{"ms": "msa may zsm", "fil": "fil tgl tl", "ar": "ara arb", "hi": "hin", "bg": "bul", "hr": "hrv"},
    **{"cs": "ces cze", "da": "dan", "nl": "nld dut", "et": "est ekk", "fi": "fin", "el": "ell gre", "hu": "hun"},
    **{"ga": "gle", "lv": "lav lvs", "lt": "lit", "mt": "mlt", "pl": "pol", "pt": "por", "ro": "ron rum"},
    **{"sk": "slk slo", "sl": "slv", "sv": "swe", "de": "deu ger", "fr": "fra fre", "es": "spa", "it": "ita"},
    **{"ru": "rus", "tr": "tur", "fa": "fas per pes", "mk": "mkd mac"},
}


def asked(family: str, language: str | None) -> str | None:
    """The name in the prompt, or None."""
    prompt = FAMILIES[family].prompt_text(Request(language=language))
    if family == "qwen3_asr":
        return prompt.suffix.partition("assistant\nlanguage ")[2].removesuffix("<asr_text>") or None
    return prompt.prefix.partition("语音转写")[2].removesuffix("：").removeprefix("成") or None


@pytest.mark.parametrize(("family", "code", "name"), OF_EACH)
def test_the_prompt_names_a_language_as_the_model_was_taught(family: str, code: str, name: str) -> None:
    assert {asked(family, one) for one in (code, code.upper(), f"{code}-XA", name)} == {name}


@pytest.mark.parametrize(("family", "names"), NAMES.items())
def test_a_family_says_which_languages_it_knows(family: str, names: dict[str, str]) -> None:
    assert sorted(FAMILIES[family].languages) == sorted(names)


@pytest.mark.parametrize(("code", "others"), CODES.items())
def test_longer_codes_and_both_names_mean_the_same_language(code: str, others: str) -> None:
    for family, names in NAMES.items():
        if code in names:
            spoken = [*others.split(), LANGUAGES[code].english.lower(), LANGUAGES[code].chinese]
            assert {asked(family, one) for one in spoken} == {names[code]}
            assert QWEN.get(code, LANGUAGES[code].english) == LANGUAGES[code].english
    assert CODES.keys() == LANGUAGES.keys()


@pytest.mark.parametrize(
    ("tag", "nano", "mlt", "qwen"),
    [
        *((tag, "英文", "英文", "English") for tag in ("en-US", "en_us", "EN-gb-oxendict", " en ", "eng-Latn-US")),
        *((tag, "中文", "中文", "Chinese") for tag in ("zh-CN", "zh-TW", "zh-Hans", "zh_CN", "cmn", "cmn-Hans-CN")),
        *((tag, "中文", "中文", "Chinese") for tag in ("zh-cmn-Hans", "wuu", "nan-TW", "hak", "zh-wuu", "mandarin")),
        *((tag, "中文", "中文", "Chinese") for tag in ("Sichuan", "吴语", "Minnan")),
        *((tag, "中文", "粤语", "Cantonese") for tag in ("yue", "yue-HK", "zh-yue", "zh-yue-HK", "Cantonese", "粤语")),
        ("Cantonese (Hong Kong accent)", "中文", "粤语", "Cantonese"),
        ("jp", "日文", "日文", "Japanese"),
        ("pt-BR", "", "葡萄牙语", "Portuguese"),
        ("韩语", "", "韩文", "Korean"),
        ("hr-HR", "", "克罗地亚语", ""),
        ("fa-IR", "", "", "Persian"),
        *((tag, "", "", "") for tag in ("Klingon", "tlh", "x-en", "en--US", "-en", "English-US", "e", "zz-CN")),
    ],
)
def test_tags_fall_to_a_language_that_the_model_knows(tag: str, nano: str, mlt: str, qwen: str) -> None:
    for family, name in zip(NAMES, (nano, mlt, qwen), strict=True):
        if name:
            assert asked(family, tag) == name
        else:
            with pytest.raises(ConfigError, match="is unknown; allowed"):
                asked(family, tag)


@pytest.mark.parametrize("nothing", [None, "", " ", "auto", "AUTO"])
def test_no_language_leaves_it_to_the_model(nothing: str | None) -> None:
    assert {asked(family, nothing) for family in NAMES} == {None}
    for family in FAMILIES.values():
        family.prompt_text(Request(language=nothing))
        assert family.parse_answer("text", Request(language=nothing)).language is None


@pytest.mark.parametrize(("family", "names"), NAMES.items())
def test_an_unknown_language_names_the_known_ones(family: str, names: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"'Klingon' is unknown; allowed: None, \"auto\", .* Sichuan") as caught:
        asked(family, "Klingon")
    assert all(f"{name} ({code})" in str(caught.value) for code, name in names.items())


def test_what_only_mlt_nano_knows_is_refused_with_how_a_checkpoint_is_taken_for_one() -> None:
    with pytest.raises(ConfigError, match=r"'ko' is unknown; .*Cantonese.*knows 31 languages; .* says MLT"):
        asked("fun_asr_nano", "ko")


@pytest.mark.parametrize("family", ["glm_asr", "llm_asr"])
def test_families_whose_prompt_names_no_language_know_none(family: str) -> None:
    assert FAMILIES[family].languages == ()
    with pytest.raises(ConfigError, match=r"language is 'en', but the prompt of .* has no place for it"):
        FAMILIES[family].prompt_text(Request(language="en"))
