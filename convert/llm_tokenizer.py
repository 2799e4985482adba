"""The LLM's tokenizer, in any form that a checkpoint may hold -> the tokenizer.json that the engine reads.

A tokenizer.json is copied, since it means the same to every version of every library. Other forms (vocab.json and
merges.txt, or sentencepiece's tokenizer.model) are converted by transformers, which FunASR uses as well.
"""

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from ..engine.errors import CheckpointError, ConfigError
from ..engine.hub.model_files import check_file, read_text
from ..engine.text import TOKENIZER_NAME, read_tokenizer
from .config_file import read_json

VOCAB_NAME, MERGES_NAME = "vocab.json", "merges.txt"
SENTENCEPIECE_NAME = "tokenizer.model"
CONFIG_NAMES = ("tokenizer_config.json", "special_tokens_map.json")
FORMS = ({TOKENIZER_NAME}, {VOCAB_NAME, MERGES_NAME}, {SENTENCEPIECE_NAME})  # each of these is enough for a tokenizer
COPIED_NAMES = (  # where present
    *(TOKENIZER_NAME, VOCAB_NAME, MERGES_NAME, SENTENCEPIECE_NAME, *CONFIG_NAMES),
    *("added_tokens.json", "chat_template.jinja"),
)
_MOST_UNMADE = 0.01  # share of a vocabulary that merges may leave out: special tokens need no merge
# Texts on which tokenizers tend to differ.
_PROBES = ("Transcribe speech to text.\nINPUT: ", "1,234  words", "你好，世界\t🙂", "ﬁrst Ｆull")


def list_tokenizer_files(directory: Path) -> tuple[Path, ...]:
    """The files of a tokenizer. Raises CheckpointError if there is none."""
    files = tuple(directory / name for name in COPIED_NAMES if (directory / name).is_file())
    names = {file.name for file in files}
    if not any(form <= names for form in FORMS):
        forms = ", or ".join(" and ".join(sorted(form)) for form in FORMS)
        raise CheckpointError(f"{directory} holds no tokenizer; {forms} is needed")
    return files


def made_files(directory: Path) -> dict[str, str]:
    """Files to write, by name: tokenizer.json if the directory has none, else nothing."""
    return {} if (directory / TOKENIZER_NAME).is_file() else {TOKENIZER_NAME: _made_tokenizer(directory)}


def read_llm_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of an LLM's directory. Raises CheckpointError, ConfigError."""
    if (directory / TOKENIZER_NAME).is_file():
        return read_tokenizer(directory / TOKENIZER_NAME)
    return Tokenizer.from_str(_made_tokenizer(directory))


def stated_eos(directory: Path) -> int | None:
    """The id of the token that ends a text, from the tokenizer's configuration; None if that names none."""
    configs = [read_json(path) for path in (directory / name for name in CONFIG_NAMES) if path.is_file()]
    token = next((config["eos_token"] for config in configs if config.get("eos_token")), None)
    content = token.get("content") if isinstance(token, Mapping) else token
    return read_llm_tokenizer(directory).token_to_id(content) if isinstance(content, str) else None


def _made_tokenizer(directory: Path) -> str:
    """The text of tokenizer.json for a tokenizer in another form. Raises CheckpointError, ConfigError."""
    import transformers  # here, because it takes seconds that an up-to-date conversion does not need

    is_sentencepiece = (directory / SENTENCEPIECE_NAME).is_file()
    if not is_sentencepiece:
        _check_merges(directory)
    expected = _sentencepiece_ids(directory / SENTENCEPIECE_NAME) if is_sentencepiece else None
    reader = f"transformers {transformers.__version__}"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True).backend_tokenizer
    except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory}: its tokenizer cannot be read by {reader}: {error}") from error
    if expected and [tokenizer.encode(probe, add_special_tokens=False).ids for probe in _PROBES] != expected:
        raise CheckpointError(
            f"{directory / SENTENCEPIECE_NAME}: {reader} makes other tokens of it than sentencepiece; LLaMA's kind is "
            "needed: BPE without normalization, and bytes where it has no piece"
        )
    content: str = tokenizer.to_str()
    return content


def _check_merges(directory: Path) -> None:
    """Raises CheckpointError if merges are missing: words would be split into tokens that the LLM never learned."""
    vocab = read_json(directory / VOCAB_NAME)
    lines = read_text(directory / MERGES_NAME).split("\n")
    made = {line.rstrip("\r").replace(" ", "") for line in lines if line.strip() and not line.startswith("#version")}
    unmade = [token for token in vocab if len(token) > 1 and token not in made]
    if not made <= vocab.keys() or len(unmade) > _MOST_UNMADE * len(vocab):
        raise CheckpointError(
            f"{directory / MERGES_NAME} is cut short, or not of this {VOCAB_NAME}: of its {len(made)} merges "
            f"{len(made - vocab.keys())} make no token, and {len(unmade)} of {len(vocab)} tokens are made by none"
        )


def _sentencepiece_ids(path: Path) -> list[list[int]]:
    """The token ids that sentencepiece itself gives for _PROBES."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ConfigError(
            f'{path} needs sentencepiece, which is not installed: pip install ".[sentencepiece]"'
        ) from error
    check_file(path)
    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no model of sentencepiece, or is cut short or damaged: {error}") from error
    return [processor.encode(probe) for probe in _PROBES]
