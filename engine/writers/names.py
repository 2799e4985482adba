"""Keys -> names of files, for the folder of `transcribe` and for jobs."""

from hashlib import sha256

from . import OUTPUT_SUFFIXES

_NOT_IN_NAMES = '\\:*?"<>|%'  # what some system does not allow in names, and the sign that stands for it here
_MAX_PART_BYTES = 180  # of one part of a path; most file systems allow 255, and suffixes need some
_MAX_PATH_BYTES = 1024  # of all parts; Linux allows 4096 with the folder that they lie in


def file_name(key: str) -> str:
    """A relative path for a key, without suffix. Keys that differ have names that differ, and none leads elsewhere.

    A "/" makes folders. Characters that a name cannot have are written as %XX, and long parts end in a digest. So does
    the dot of a folder that is named like a file, since "a.srt" is the file of the key "a". A digest stands for a key
    with more folders than a path can have.
    """
    *folders, last = map(_part_name, key.split("/"))
    name = "/".join([*map(_folder_name, folders), last])
    return name if len(name.encode()) <= _MAX_PATH_BYTES else f"~{_digest(key)}"


def _folder_name(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{_percent(dot)}{suffix}" if suffix in OUTPUT_SUFFIXES else name


def _part_name(part: str) -> str:
    name = "".join(_percent(char) if char in _NOT_IN_NAMES or not char.isprintable() else char for char in part)
    name = "%2E" + name[1:] if name.startswith(".") else name
    if len(name.encode()) > _MAX_PART_BYTES:
        name = f"{name.encode()[: _MAX_PART_BYTES // 2].decode(errors='ignore')}~{_digest(part)}"
    return name or "%"


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode(errors="surrogatepass"))
