"""A tiny language classifier for texts of this corpus.

Every word that the corpus uses in one language only is a vote for that language; words of both (names, *in*, *Tom*)
do not vote. More German votes than English ones: German; fewer: English; as many: ``"unclear"``. Over the sentences of
the corpus itself it makes no mistake (a test says so); beyond this vocabulary it means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

from . import lexicon as lex
from .stories import Narrator
from .tasks import all_records


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def language_words() -> dict[str, list[str]]:
    """The words that only English, and that only German, sentences of the corpus contain."""
    rng, records = Random(0), all_records()
    narrator = Narrator(records)
    events = [narrator.line(rng, who) for who in lex.PERSONS for _ in range(1_000)]
    english = {w for r in records for text in (r.question, r.request, r.english) for w in words_of(text)}
    english |= {w for line in events for w in words_of(line.english)}
    german = {w for r in records for w in words_of(r.german)} | {w for line in events for w in words_of(line.german)}
    return {"english": sorted(english - german), "german": sorted(german - english)}


def language_of(text: str, lists: Mapping[str, Sequence[str]]) -> str:
    """``"german"``, ``"english"`` or ``"unclear"``."""
    spoken = words_of(text)
    english, german = (sum(w in lists[language] for w in spoken) for language in ("english", "german"))
    if english == german:
        return "unclear"
    return "german" if german > english else "english"
