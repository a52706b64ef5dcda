"""Texts -> token ids, and where a prompt ends and its completion begins.

A *prompt* is a text that a decoder continues: the tokens that the tokenizer puts in front of it (a beginning-of-text
token, say) belong to it, and those that the tokenizer appends by itself (an end-of-text token) do not. An end-of-text
token that is written in the text stays. Training and generation both take their prompts from `prompt_tokens`, so they
see the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from causal_reft.errors import DataError

Ids = list[int]
WORD_START = "\u2581"  # sentencepiece's mark of a space, which it also puts in front of a text without one


@dataclass(frozen=True)
class Continuation:
    """The tokens of a prompt and of what follows it.

    `merged`: prompt + completion as one text has other tokens at the border, so the completion was tokenised by itself.
    """

    prompt: Ids
    completion: Ids
    merged: bool = False


def check_tokenizer(tokenizer: Any) -> Any:
    """The same tokenizer.

    Raises:
        DataError: nothing that turns texts into token ids.
    """
    if not callable(tokenizer) or not hasattr(tokenizer, "eos_token_id"):
        given = "None" if tokenizer is None else f"a {type(tokenizer).__name__}"
        raise DataError(
            f"Texts need a transformers tokenizer, and {given} was given. Write tokenizer = "
            "AutoTokenizer.from_pretrained(name)."
        )
    return tokenizer


def whole_tokens(texts: Sequence[str], tokenizer: Any) -> list[Ids]:
    """The tokens of texts exactly as the tokenizer gives them, for models that read a finished text."""
    return _tokens(texts, tokenizer, special=True)


def text_tokens(texts: Sequence[str], tokenizer: Any) -> list[Ids]:
    """The tokens of the texts themselves, without any that the tokenizer adds."""
    return _tokens(texts, tokenizer, special=False)


def prompt_tokens(texts: Sequence[str], tokenizer: Any, framed: bool = False) -> list[Ids]:
    """The tokens of prompts as a decoder reads them before it continues.

    Args:
        texts: prompts.
        tokenizer: a transformers tokenizer, fast or slow.
        framed: whether the texts hold their special tokens already, as those of a chat template do.

    Raises:
        DataError: a tokenizer that changes a text's own tokens when it adds special ones.
    """
    plain = text_tokens(texts, tokenizer)
    if framed:
        return plain
    whole = whole_tokens(texts, tokenizer)
    return [
        row[: len(row) - _appended(row, own, text, tokenizer)]
        for row, own, text in zip(whole, plain, texts, strict=True)
    ]


def continuations(
    prompts: Sequence[str],
    completions: Sequence[str],
    tokenizer: Any,
    framed: bool = False,
    records: Sequence[int] | None = None,
) -> list[Continuation]:
    """The tokens of each prompt, and those of its completion as they follow it.

    Where the two merge (no token ends where the prompt does), the prompt keeps the tokens that it has in generation,
    and the completion is tokenised by itself, without a space that the tokenizer would put in front of it.

    Args:
        prompts, completions: one completion for each prompt.
        tokenizer: a transformers tokenizer, fast or slow.
        framed: as for `prompt_tokens`.
        records: how errors number the pairs; by default from 0.

    Raises:
        DataError: a completion that cannot follow its prompt without a space that neither has.
    """
    before = prompt_tokens(prompts, tokenizer, framed)
    whole = prompt_tokens([p + c for p, c in zip(prompts, completions, strict=True)], tokenizer, framed)
    found = []
    for row, (prompt, both) in enumerate(zip(before, whole, strict=True)):
        merged = both[: len(prompt)] != prompt
        rest = (
            _by_itself(row if records is None else records[row], completions[row], tokenizer)
            if merged
            else both[len(prompt) :]
        )
        found.append(Continuation(prompt, rest, merged))
    return found


def ended(completion: Ids, tokenizer: Any, framed: bool = False) -> Ids:
    """A completion that ends in an end-of-text token, of which there is one.

    A framed completion (of a chat template) ends at its own last special token, where it has one: the white space that
    templates put there is never generated.
    """
    if framed:
        special = [place for place, token in enumerate(completion) if token in _special(tokenizer)]
        if special and not tokenizer.decode(completion[special[-1] + 1 :]).strip():
            return completion[: special[-1] + 1]
    end = int(tokenizer.eos_token_id)
    return completion if completion and completion[-1] == end else [*completion, end]


def _tokens(texts: Sequence[str], tokenizer: Any, special: bool) -> list[Ids]:
    check_tokenizer(tokenizer)
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
    return [[int(i) for i in row] for row in rows]


def _appended(whole: Ids, own: Ids, text: str, tokenizer: Any) -> int:
    """How many tokens the tokenizer has put after a text's own."""
    added = len(whole) - len(own)
    if not own:
        return int(added > 1 and whole[-1] == tokenizer.eos_token_id)
    for front in range(added, -1, -1):
        if whole[front : front + len(own)] == own:
            return added - front
    raise DataError(
        f"{type(tokenizer).__name__} changes the tokens of {text!r} when it adds special tokens: "
        f"{tokenizer.convert_ids_to_tokens(own)} become {tokenizer.convert_ids_to_tokens(whole)}. Pass token ids."
    )


def _by_itself(row: int, text: str, tokenizer: Any) -> Ids:
    """The tokens of a completion that merges with its prompt."""
    alone = text_tokens([text], tokenizer)[0]
    if not alone or text[:1].isspace():
        return alone
    if not str(tokenizer.convert_ids_to_tokens(alone)[0]).startswith(WORD_START):
        return alone
    guard, guarded = text_tokens(["\n", "\n" + text], tokenizer)
    if guarded[: len(guard)] == guard:
        return guarded[len(guard) :]
    raise DataError(
        f"Record {row}: this tokenizer puts a space in front of the completion {text!r}, and neither the prompt nor "
        "the completion has one there. End the prompt, and begin the completion, at a space."
    )


def _special(tokenizer: Any) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {int(i) for i in tokenizer.all_special_ids} | {int(i) for i, token in added.items() if token.special}
