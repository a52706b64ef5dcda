"""Bilingual prose: what happens to somebody next.

A line is one sentence in English and the same sentence in German. A story opens with a line that names somebody. It
goes on with lines that begin with an adverb, so that German puts its verb before the subject (*Then she goes to the
garden*, *Dann geht sie in den Garten*), and with lines about somebody or something else, which begin as answers do: so
the language of a line is not settled by its first word, and no first word belongs to prose alone. About half of what
happens are the facts that questions ask for; the rest are small events, whose German needs what the facts do not:
infinitives at the end, subordinate clauses, possessives, pronouns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from . import lexicon as lex
from .grammar import PRONOUN, Person, a_or_an, definite, indefinite, inside, into, sentence
from .tasks import TASKS, Record


@dataclass(frozen=True)
class Line:
    english: str
    german: str


@dataclass(frozen=True)
class Event:
    """What somebody does: ``english`` follows the subject; in German the subject stands after the ``verb``."""

    english: str
    verb: str
    german: str
    joint: str = " "  # between subject and the rest: a comma where a clause follows

    def about(self, who: Person) -> Line:
        return Line(f"{who.name} {self.english}.", f"{who.name} {self.verb}{self.joint}{self.german}.")

    @property
    def retold(self) -> tuple[str, str]:
        return f"{{she}} {self.english}", f"{self.verb} {{sie}}{self.joint}{self.german}"


def goes(rng: Random, who: Person) -> Event:
    place = rng.choice(lex.VISITED)
    return Event(f"goes to the {place.english}", "geht", into(place))


def sees(rng: Random, who: Person) -> Event:
    animal, size = rng.choice(lex.ANIMALS), rng.choice((lex.BIG, lex.SMALL, lex.OLD))
    return Event(
        f"sees {a_or_an(f'{size.english} {animal.noun.english}')} in the {animal.home.english}",
        "sieht",
        f"{indefinite(animal.noun, 'accusative', size)} {inside(animal.home)}",
    )


def carries(rng: Random, who: Person) -> Event:
    animal, feeling = rng.choice(lex.ANIMALS[:9]).noun, rng.choice(lex.FEELINGS)
    return Event(
        f"carries {who.her} {animal.english} because it is {feeling.english}",
        "trägt",
        f"{who.possessive(animal.gender, 'accusative')} {animal.inflected('accusative')}, "
        f"weil {PRONOUN[animal.gender]} {feeling.german} ist",
    )


def wants(rng: Random, who: Person) -> Event:
    trade = rng.choice(lex.TRADES).noun
    return Event(f"wants to visit the {trade.english}", "will", f"{definite(trade, 'accusative')} besuchen")


def thinks(rng: Random, who: Person) -> Event:
    other, feeling = rng.choice([p for p in lex.PERSONS if p != who]), rng.choice(lex.FEELINGS)
    return Event(
        f"thinks that {other.name} is {feeling.english}", "glaubt", f"dass {other.name} {feeling.german} ist", ", "
    )


def plays(rng: Random, who: Person) -> Event:
    relative, place = rng.choice(lex.RELATIVES), rng.choice(lex.VISITED)
    return Event(
        f"plays with {who.her} {relative.english} in the {place.english}",
        "spielt",
        f"mit {who.possessive(relative.gender, 'dative')} {relative.german} {inside(place)}",
    )


def likes(rng: Random, who: Person) -> Event:
    thing, pair = rng.choice(lex.FURNITURE), rng.choice(lex.OPPOSITES)
    quality = rng.choice(pair)
    return Event(f"likes the {quality.english} {thing.english}", "mag", definite(thing, "accusative", quality))


EVENTS: tuple[Callable[[Random, Person], Event], ...] = (goes, sees, carries, wants, thinks, plays, likes)


def told(retold: tuple[str, str], mention: dict[str, str], adverb: tuple[str, str]) -> Line:
    """The line that goes on with a story: adverb first, the person named or by pronoun."""
    english, german = (
        sentence(f"{first} {body.format(**mention)}") for first, body in zip(adverb, retold, strict=True)
    )
    return Line(english, german)


class Narrator:
    """Tells stories about a person, from events and from the facts of the given records."""

    def __init__(self, records: Sequence[Record], fact_share: float = 0.5, adverb_share: float = 0.6):
        self.fact_share, self.adverb_share = fact_share, adverb_share
        self.by_task = [[r for r in records if r.task == task] for task in TASKS]
        self.about = {p: [r for r in records if r.topic == p] for p in lex.PERSONS}
        self.general = [r for r in records if r.topic is None]

    def fact(self, rng: Random, who: Person) -> Record:
        general = self.general and rng.random() < 0.25
        return rng.choice(self.general if general else self.about[who])

    def opening(self, rng: Random, who: Person) -> str:
        """An English line about a named person that can stand first."""
        if rng.random() < self.fact_share:
            return rng.choice(self.about[who]).english
        return rng.choice(EVENTS)(rng, who).about(who).english

    def elsewhere(self, rng: Random, who: Person) -> Line:
        """A line about somebody or something else; facts of every task equally often."""
        if rng.random() < 0.3:
            other = rng.choice([p for p in lex.PERSONS if p != who])
            return rng.choice(EVENTS)(rng, other).about(other)
        while True:
            record = rng.choice(rng.choice(self.by_task))
            if record.topic != who:
                return Line(record.english, record.german)

    def line(self, rng: Random, who: Person, named: bool = False) -> Line:
        """The next line of a story about ``who``."""
        if rng.random() >= self.adverb_share:
            return self.elsewhere(rng, who)
        fact = rng.random() < self.fact_share
        what = self.fact(rng, who) if fact else rng.choice(EVENTS)(rng, who)
        return told(what.retold, who.named if named else who.pronouns, rng.choice(lex.ADVERBS))

    def after(self, rng: Random, record: Record) -> Line:
        """A line that passes over the record's question and does not happen to tell its answer."""
        who = record.topic or rng.choice(lex.PERSONS)
        mention = who.pronouns if record.topic else who.named
        forbidden = [told(record.retold, mention, adverb) for adverb in lex.ADVERBS]
        forbidden.append(Line(record.english, record.german))
        while True:
            line = self.line(rng, who, named=record.topic is None)
            if line not in forbidden:
                return line
