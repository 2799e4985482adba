"""Build the prompt of one clip, draft its answer, and pick from a long hotword list the words that are heard in it.

A short list is put into the prompt as it is, and so is any list if the model has no CTC head. Which words of a long
list are heard is known only after stage 1 (words/hotwords.py). So the first prompt leaves such a list out, which also
shows whether all else fits, and the prompt is built again once the clip is encoded.
"""

from dataclasses import replace

from .clip import Clip
from .decoder.drafts import Draft
from .errors import PromptTooLongError
from .families.base import Request
from .model import LoadedModel
from .prompt import EmbeddedPrompt
from .words.hotwords import MAX_HOTWORDS_IN_PROMPT


def picks_hotwords(model: LoadedModel, request: Request) -> bool:
    """Whether the prompt gets only those hotwords that the CTC head hears: the list is long, and there is a head."""
    return model.aligner is not None and len(request.hotwords) > MAX_HOTWORDS_IN_PROMPT


def first_prompt(
    model: LoadedModel, request: Request, num_audio_tokens: int, answer_ids: tuple[int, ...], max_new_tokens: int
) -> EmbeddedPrompt:
    """The prompt of a clip that is not encoded yet. Raises ConfigError or PromptTooLongError."""
    known = replace(request, hotwords=()) if picks_hotwords(model, request) else request
    return _prompt(model, known, num_audio_tokens, answer_ids, max_new_tokens)


def pick_hotwords(model: LoadedModel, clip: Clip) -> None:
    """Build an encoded clip's prompt again, with the hotwords that are heard in it. Raises PromptTooLongError."""
    aligner, embeds, hidden = model.aligner, clip.audio_embeds, clip.ctc_hidden
    assert aligner is not None and embeds is not None and hidden is not None
    heard = replace(clip.request, hotwords=aligner.heard_hotwords(hidden, clip.request.hotwords))
    clip.prompt = _prompt(model, heard, len(embeds), clip.answer_ids, clip.options.params.max_new_tokens)


def draft_of(model: LoadedModel, clip: Clip) -> Draft | None:
    """A draft of an encoded clip's answer: the text that came with it, or else the CTC head's greedy text."""
    text = clip.draft
    if not text and model.aligner is not None and clip.ctc_hidden is not None:
        text = model.aligner.greedy_text(clip.ctc_hidden)
    if not text:
        return None
    draft = Draft(text, model.tokenizer)
    draft.write(clip.answer_ids)
    return draft


def _prompt(
    model: LoadedModel, request: Request, num_audio_tokens: int, answer_ids: tuple[int, ...], max_new_tokens: int
) -> EmbeddedPrompt:
    def check(num_tokens: int) -> None:
        model.decoder.limits.check_length(num_tokens + len(answer_ids) + num_audio_tokens, max_new_tokens)

    try:
        prompt = model.embedder.embed(model.family.prompt_text(request), check)
    except PromptTooLongError as error:
        if model.aligner is not None or len(request.hotwords) <= MAX_HOTWORDS_IN_PROMPT:
            raise
        raise PromptTooLongError(
            f"{error}. All {len(request.hotwords):,} hotwords are in the prompt, because this model has no CTC head "
            "that could pick those that are heard"
        ) from error
    return prompt.before(answer_ids, model.embedder.embed_answer(answer_ids)) if answer_ids else prompt
