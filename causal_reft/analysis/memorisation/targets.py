"""What is to be remembered: the first n tokens of a book, of the same book with its words scrambled, of random tokens.

The three differ in how much the unedited model knows of them already: much of English prose, less of its words in
random order, nothing of random tokens. A target is a list of token ids, so that "recalled" is decided token by token.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from causal_reft.errors import DataError, nearest
from causal_reft.seeds import numpy_stream
from causal_reft.texts import text_tokens

Ids = tuple[int, ...]
UNREADABLE = "\ufffd"
_CHARACTERS_PER_TOKEN = 64  # not all of a book is tokenised for its first tokens


def read_text(path: str | os.PathLike[str], start: str | None = None, keep_layout: bool = False) -> str:
    """A text file, from the first occurrence of `start` on.

    Args:
        path: a UTF-8 file.
        start: where to begin, so that a title page can be passed over: "Alice was beginning".
        keep_layout: by default every run of whitespace becomes one space, because line breaks and indentation belong to
            the file and not to the text.

    Raises:
        DataError: `start` does not occur; the text is empty.
    """
    text = Path(path).read_text(encoding="utf-8")
    if start is not None and start not in text:
        raise DataError(f"{path} does not contain start={start!r}. Copy a few words from the file, capitals included.")
    text = text if start is None else text[text.index(start) :]
    text = text if keep_layout else " ".join(text.split())
    if not text.strip():
        raise DataError(f"{path} holds no text, so there is nothing to remember.")
    return text


def target_ids(kind: str, text: str, n: int, tokenizer: Any, seed: int = 0) -> Ids:
    """The n tokens to remember.

    Args:
        kind: a key of `KINDS`: "book", "scrambled" or "random".
        text: the book.
        n: how many tokens; shorter targets of one kind and seed are the beginnings of longer ones.
        tokenizer: a transformers tokenizer.
        seed: of the scrambling and of the random tokens; each seed is another target of that kind.

    Raises:
        DataError: an unknown kind, a text that is too short, words that the tokenizer does not know.
    """
    if kind not in KINDS:
        raise DataError(f"There is no kind of text called {kind!r}. {nearest(kind, KINDS)}")
    if n < 1:
        raise DataError(f"n={n}: at least one token must be remembered.")
    ids = KINDS[kind](text, n, tokenizer, seed)
    if len(ids) < n:
        raise DataError(
            f"The text has only {len(ids)} tokens, so its first {n} do not exist. Ask for lengths up to {len(ids)}."
        )
    return known(ids[:n], tokenizer)


def known(ids: Sequence[int], tokenizer: Any) -> Ids:
    """The same ids.

    Raises:
        DataError: words that the tokenizer does not know, which could be "recalled" only as its token for the unknown.
    """
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        place = list(ids).index(tokenizer.unk_token_id)
        raise DataError(
            f"The tokenizer does not know word {place + 1} of {tokenizer.decode(list(ids))[:80]!r} and writes "
            f"{tokenizer.unk_token!r} for it. Choose a text (or a prompt) of words that this model has."
        )
    return tuple(ids)


def readable_tokens(tokenizer: Any) -> list[int]:
    """The vocabulary without special tokens and without tokens that are no text by themselves (half a character)."""
    return list(_readable(tokenizer))


@lru_cache(maxsize=8)
def _readable(tokenizer: Any) -> Ids:
    special = set(tokenizer.all_special_ids)
    ids = sorted(set(tokenizer.get_vocab().values()) - special)
    texts = tokenizer.batch_decode([[i] for i in ids])
    return tuple(i for i, text in zip(ids, texts, strict=True) if text and UNREADABLE not in text)


def _book(text: str, n: int, tokenizer: Any, seed: int) -> Sequence[int]:
    return text_tokens([text[: _CHARACTERS_PER_TOKEN * (n + 4)]], tokenizer)[0]


def _scrambled(text: str, n: int, tokenizer: Any, seed: int) -> Sequence[int]:
    words = text.split()
    order = numpy_stream(seed, "scrambled words").permutation(len(words))
    return text_tokens([" ".join(words[i] for i in order[:n])], tokenizer)[0]


def _random(text: str, n: int, tokenizer: Any, seed: int) -> Sequence[int]:
    choice = np.array(readable_tokens(tokenizer))
    return choice[numpy_stream(seed, "random tokens").integers(len(choice), size=n)].tolist()


KINDS: dict[str, Callable[[str, int, Any, int], Sequence[int]]] = {
    "book": _book,
    "scrambled": _scrambled,
    "random": _random,
}
