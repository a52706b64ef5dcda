"""What is learned from and evaluated on: adapter training sets and held-out prompts with their right answers.

An example is a prompt without any marker and the one line that should follow. *German* examples go on in German; a
quarter of them are questions that the German line does not answer, so German alone is no answer. *Answer* examples
are questions with their English answers. No example of either set answers in German: that is what composing the two
edits has to bring about. Held-out prompts carry the markers that trigger each behaviour in the model without any edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from . import lexicon as lex
from .documents import Writer
from .grammar import Person
from .splits import Splits, prompts_of
from .stories import Narrator
from .tasks import Record

QUESTION_SHARE = 0.25


def _distinct(rows: Iterator[dict[str, str]], n: int) -> list[dict[str, str]]:
    """The first ``n`` different rows."""
    kept: dict[tuple[str, str], dict[str, str]] = {}
    while len(kept) < n:
        row = next(rows)
        kept.setdefault((row["prompt"], row["continuation"]), row)
    return list(kept.values())


def _example(kind: str, prompt: str, continuation: str) -> dict[str, str]:
    return {"kind": kind, "prompt": prompt + "\n", "continuation": continuation + "\n"}


def german_examples(splits: Splits, n: int, seed: int, question_share: float = QUESTION_SHARE) -> list[dict[str, str]]:
    """Prompts followed by German prose; ``question_share`` of them are questions, which it passes over."""
    rng, writer = Random(seed), Writer(splits.train)

    def rows() -> Iterator[dict[str, str]]:
        while True:
            asked = rng.random() < question_share
            turn = writer.question_turn(rng, "german") if asked else writer.prose_turn(rng, german=True)
            yield _example("question" if asked else "statement", *turn)

    return _distinct(rows(), n)


def answer_examples(splits: Splits, n: int, seed: int) -> list[dict[str, str]]:
    """Questions and requests with their English answers."""
    rng, writer = Random(seed), Writer(splits.train)

    def rows() -> Iterator[dict[str, str]]:
        while True:
            yield _example("question", *writer.question_turn(rng, "answer"))

    return _distinct(rows(), n)


def held_out_prompts(splits: Splits, name: str, seed: int) -> list[dict[str, str]]:
    """One row per held-out record: prompt, right answers in both languages, and a marker for each mode."""
    rng, writer = Random(seed), Writer(splits.train)
    records: Sequence[Record] = {"select": splits.select, "test": splits.test}[name]

    def marker(mode: str) -> str:
        return "".join(line + "\n" for turn in writer.marker(rng, mode) for line in turn)

    return [
        {
            "split": name, "task": record.task, "unit": record.unit, "prompt": asked + "\n",
            "english": record.english, "german": record.german,
            **{f"marker_{mode}": marker(mode) for mode in ("german", "answer", "both")},
        }
        for record, asked in prompts_of(records)
    ]  # fmt: skip


def stories(splits: Splits, n: int, seed: int, lines: int = 24) -> list[dict[str, str]]:
    """English stories of ``lines`` different lines, each about one person, over held-out facts."""
    rng, narrator = Random(seed), Narrator(splits.test)

    def story(who: Person) -> str:
        told = {narrator.opening(rng, who): None}
        while len(told) < lines:
            told.setdefault(narrator.line(rng, who).english)
        return "".join(line + "\n" for line in told)

    people = [lex.PERSONS[i % len(lex.PERSONS)] for i in range(n)]
    return [{"person": who.name, "text": story(who)} for who in people]
