"""base64 as clients send it: whatever its form, the bytes are the same, and what is no base64 is an error."""

import base64
import textwrap
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine.audio import urls
from twostage_asr.engine.audio.urls import decode_base64
from twostage_asr.engine.errors import UnsupportedAudioError

HEADS = st.sampled_from(["", "data:;base64,", "DATA:audio/wav;codecs=1;base64,", "data:audio/wav,"])
BREAKS = st.sampled_from(["", "\n", "\r\n", " ", "\t"])


@given(
    content=st.binary(max_size=200),
    head=HEADS,
    line_end=BREAKS,
    is_url_safe=st.booleans(),
    is_padded=st.booleans(),
    is_quoted=st.booleans(),
)
def test_every_form_is_read(
    content: bytes, head: str, line_end: str, is_url_safe: bool, is_padded: bool, is_quoted: bool
) -> None:
    text = (base64.urlsafe_b64encode if is_url_safe else base64.b64encode)(content).decode()
    text = line_end.join(textwrap.wrap(text if is_padded else text.rstrip("="), 20)) + line_end
    assert decode_base64(head + (quote(text, safe="") if is_quoted else text)) == content


@given(
    content=st.binary(min_size=3, max_size=60),
    place=st.integers(min_value=0, max_value=3),
    wrong=st.characters(exclude_characters="=%", exclude_categories=["Zs", "Zl", "Zp", "Cc", "Cs"]).filter(
        lambda character: not (character.isascii() and character.isalnum()) and character not in "+/-_"
    ),
)
def test_a_foreign_character_is_an_error(content: bytes, place: int, wrong: str) -> None:
    text = base64.b64encode(content).decode()
    with pytest.raises(UnsupportedAudioError, match="not base64"):
        decode_base64(text[:place] + wrong + text[place:])


@pytest.mark.parametrize("text", ["A", "AAAAA", "AA==AA", "=AAA", "AA=A", "é", "\ud800"])
def test_what_no_bytes_give_is_an_error(text: str) -> None:
    with pytest.raises(UnsupportedAudioError, match="not base64"):
        decode_base64(text)


def test_padding_within_a_long_text_is_an_error_wherever_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two texts one after the other are not one."""
    monkeypatch.setattr(urls, "BASE64_AT_ONCE", 4)
    assert decode_base64("QUJDREVG") == b"ABCDEF"
    for text in ("QQ==QUJD", "QUI=QUI="):
        with pytest.raises(UnsupportedAudioError, match="padding before its end"):
            decode_base64(text)
