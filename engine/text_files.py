"""Text files that users give: lists of inputs, hotwords, references, keys."""

import codecs
import re
from pathlib import Path

from .errors import ConfigError

# In this order, because the mark of UTF-32-LE begins with that of UTF-16-LE.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LINE_END = re.compile(r"\r\n|\n|\r")  # str.splitlines() also splits at characters that may stand in a JSON string


def encoding_of(content: bytes) -> tuple[bytes, str]:
    """The byte order mark that a text begins with, or b"", and its encoding."""
    return next((each for each in _MARKS if content.startswith(each[0])), (b"", "utf-8"))


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        ConfigError: the file has another encoding; the message names the file, the line and the byte.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    mark, encoding = encoding_of(content)
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        before = content[len(mark) :][: error.start].decode(encoding)
        line = len(LINE_END.findall(before)) + 1
        place = len(mark) + error.start
        raise ConfigError(
            f"{path}, line {line}: not {encoding.upper()}: byte {place:,} is 0x{content[place]:02x}; save the file as "
            "UTF-8, or as UTF-16 with a byte order mark"
        ) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped of white space; empty lines are included. Raises what read_text raises."""
    return [line.strip() for line in LINE_END.split(read_text(path))]
