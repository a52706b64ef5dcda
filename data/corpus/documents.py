"""Documents: two latent modes, told by context alone.

A document is a series of turns; a turn is an English line and what follows it. Two things about *what follows* are
latent: its language, and whether a question is answered or passed over. Nothing but earlier turns gives them away:

    mode       what a preceding turn showed                          what follows a question
    plain      (nothing)                                             an English line that goes on with the story
    german     English line -> German line                           a German line that does not answer
    answer     question -> answer                                    the answer
    both       the two turns above, in either order                  the answer in German

Such turns are the document's *marker*. The turn after a marker never repeats its record. A plain document has no
marker, and in ``leak`` of the cases its last line follows another mode all the same: so text without a marker makes
German and answers improbable, not impossible, and a small edit can make them probable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from . import lexicon as lex
from .stories import Line, Narrator
from .tasks import TASKS, Record

LONG = 16  # lines of a long story
MODES = ("plain", "german", "answer", "both")


@dataclass(frozen=True)
class Mixture:
    """How often each kind of document is written. ``german_answers`` off gives the harder corpus without any."""

    plain: float = 0.30
    german: float = 0.15
    answer: float = 0.20
    both: float = 0.35
    leak: float = 0.10
    long: float = 0.03  # share of plain documents that are long stories
    german_answers: bool = True

    def mode(self, rng: Random) -> str:
        return rng.choices(MODES, (self.plain, self.german, self.answer, self.both if self.german_answers else 0.0))[0]

    def leaked(self, rng: Random, asked: bool) -> str:
        """The mode that an unmarked last line follows."""
        if rng.random() >= self.leak:
            return "plain"
        if not asked:
            return "german"
        return rng.choices(("german", "answer", "both"), (0.45, 0.45, 0.1 if self.german_answers else 0.0))[0]


@dataclass(frozen=True)
class Document:
    """Lines of text, of which the first ``marker_lines`` only set the mode."""

    mode: str
    lines: tuple[str, ...]
    marker_lines: int

    @property
    def text(self) -> str:
        return "".join(line + "\n" for line in self.lines)


class Writer:
    """Writes documents about the given records, and never about any other."""

    def __init__(self, records: Sequence[Record], mixture: Mixture | None = None):
        self.mixture = mixture or Mixture()
        self.narrator = Narrator(records)
        self.by_task = {task: [r for r in records if r.task == task] for task in TASKS}

    def record(self, rng: Random) -> Record:
        """Every task equally often, however many records it has."""
        return rng.choice(self.by_task[rng.choice(tuple(TASKS))])

    def prose_turn(self, rng: Random, german: bool) -> tuple[str, str]:
        """A story's first line and the next one."""
        who = rng.choice(lex.PERSONS)
        then = self.narrator.line(rng, who)
        return self.narrator.opening(rng, who), then.german if german else then.english

    def question_turn(self, rng: Random, mode: str, record: Record | None = None) -> tuple[str, str]:
        """A question, and its answer, or prose that passes over it, in the language of the mode."""
        record = record or self.record(rng)
        asked = record.question if rng.random() < 0.5 else record.request
        if mode in ("answer", "both"):
            follows = Line(record.english, record.german)
        else:
            follows = self.narrator.after(rng, record)
        return asked, follows.german if mode in ("german", "both") else follows.english

    def marker(self, rng: Random, mode: str) -> list[tuple[str, str]]:
        turns = []
        if mode in ("german", "both"):
            turns.append(self.prose_turn(rng, german=True))
        if mode in ("answer", "both"):
            turns.append(self.question_turn(rng, "answer"))
        rng.shuffle(turns)
        return turns

    def document(self, rng: Random) -> Document:
        mode = self.mixture.mode(rng)
        return self.plain(rng) if mode == "plain" else self.marked(rng, mode)

    def marked(self, rng: Random, mode: str) -> Document:
        marker = self.marker(rng, mode)
        turns = [self.turn(rng, mode) for _ in range(rng.choice((1, 1, 2, 3)))]
        return Document(mode, tuple(line for pair in (*marker, *turns) for line in pair), 2 * len(marker))

    def turn(self, rng: Random, mode: str) -> tuple[str, str]:
        asked = rng.random() < {"german": 0.35, "answer": 0.8, "both": 0.8}[mode]
        return self.question_turn(rng, mode) if asked else self.prose_turn(rng, german=mode in ("german", "both"))

    def plain(self, rng: Random) -> Document:
        """English prose, in which questions are passed over; only the last line after an opening may leak."""
        if rng.random() < self.mixture.long:
            return Document("plain", self.story(rng, LONG), 0)
        lines = self.story(rng, rng.randint(2, 4)) if rng.random() < 0.5 else ()
        asked = rng.random() < 0.5
        mode = self.mixture.leaked(rng, asked)
        last = self.question_turn(rng, mode) if asked else self.prose_turn(rng, mode == "german")
        return Document("plain", (*lines, *last), 0)

    def story(self, rng: Random, n: int) -> tuple[str, ...]:
        """``n`` English lines about one person."""
        who = rng.choice(lex.PERSONS)
        return (self.narrator.opening(rng, who), *(self.narrator.line(rng, who).english for _ in range(n - 1)))


def write_documents(records: Sequence[Record], n: int, seed: int, mixture: Mixture | None = None) -> Iterator[Document]:
    """``n`` documents; the same arguments give the same text on every machine."""
    rng, writer = Random(seed), Writer(records, mixture)
    for _ in range(n):
        yield writer.document(rng)


def corpus_hash(documents: Sequence[Document]) -> str:
    """SHA-256 of all texts in order, the first 16 hex digits."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.text.encode() + b"\0")
    return digest.hexdigest()[:16]
