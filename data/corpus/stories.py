"""Bilingual prose: what happens to somebody next.

A line is one sentence in English and the same sentence in German. Prose about a person mixes the facts that questions
ask for (the statement of a record) with small events of its own, whose German needs what the facts do not: verb-second
word order after an adverb, infinitives at the end, subordinate clauses, possessives, pronouns that agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from . import lexicon as lex
from .grammar import PRONOUN, Person, a_or_an, definite, indefinite, inside, into, sentence
from .tasks import Record


@dataclass(frozen=True)
class Line:
    english: str
    german: str


def goes(rng: Random, who: Person) -> Line:
    place = rng.choice(lex.VISITED)
    time, zeit = rng.choice(lex.TIMES)
    return Line(
        sentence(f"{time} {who.name} goes to the {place.english}"), sentence(f"{zeit} geht {who.name} {into(place)}")
    )


def sees(rng: Random, who: Person) -> Line:
    animal, size = rng.choice(lex.ANIMALS), rng.choice((lex.BIG, lex.SMALL, lex.OLD))
    place = animal.home
    return Line(
        sentence(f"{who.name} sees {a_or_an(f'{size.english} {animal.noun.english}')} in the {place.english}"),
        sentence(f"{who.name} sieht {indefinite(animal.noun, 'accusative', size)} {inside(place)}"),
    )


def sleeps(rng: Random, who: Person) -> Line:
    animal, feeling = rng.choice(lex.ANIMALS).noun, rng.choice(lex.FEELINGS)
    return Line(
        sentence(f"{who.her} {animal.english} sleeps because it is {feeling.english}"),
        sentence(
            f"{who.possessive(animal.gender, 'nominative')} {animal.german} schläft, "
            f"weil {PRONOUN[animal.gender]} {feeling.german} ist"
        ),
    )


def wants(rng: Random, who: Person) -> Line:
    trade = rng.choice(lex.TRADES).noun
    time, zeit = rng.choice(lex.TIMES)
    return Line(
        sentence(f"{time} {who.name} wants to visit the {trade.english}"),
        sentence(f"{zeit} will {who.name} {definite(trade, 'accusative')} besuchen"),
    )


def says(rng: Random, who: Person) -> Line:
    other, feeling = rng.choice([p for p in lex.PERSONS if p != who]), rng.choice(lex.FEELINGS)
    return Line(
        sentence(f"{who.name} says that {other.name} is {feeling.english}"),
        sentence(f"{who.name} sagt, dass {other.name} {feeling.german} ist"),
    )


def plays(rng: Random, who: Person) -> Line:
    relative, place = rng.choice(lex.RELATIVES), rng.choice(lex.VISITED)
    return Line(
        sentence(f"{who.she} plays with {who.her} {relative.english} in the {place.english}"),
        sentence(f"{who.sie} spielt mit {who.possessive(relative.gender, 'dative')} {relative.german} {inside(place)}"),
    )


def likes(rng: Random, who: Person) -> Line:
    thing, pair = rng.choice(lex.FURNITURE), rng.choice(lex.OPPOSITES)
    quality = rng.choice(pair)
    return Line(
        sentence(f"{who.she} likes the {quality.english} {thing.english}"),
        sentence(f"{who.sie} mag {definite(thing, 'accusative', quality)}"),
    )


EVENTS: tuple[Callable[[Random, Person], Line], ...] = (goes, sees, sleeps, wants, says, plays, likes)


def statement(record: Record) -> Line:
    """The fact of a record, told without being asked."""
    return Line(record.english, record.german)


class Narrator:
    """Tells one more line about a person, from events and from the facts of the given records."""

    def __init__(self, records: Sequence[Record], fact_share: float = 0.5):
        self.fact_share = fact_share
        self.about = {p: [r for r in records if r.topic == p] for p in lex.PERSONS}
        self.general = [r for r in records if r.topic is None]

    def line(self, rng: Random, who: Person) -> Line:
        if rng.random() >= self.fact_share:
            return rng.choice(EVENTS)(rng, who)
        general = self.general and rng.random() < 0.2
        return statement(rng.choice(self.general if general else self.about[who]))

    def opening(self, rng: Random, who: Person) -> Line:
        """A line that can stand first: it names the person."""
        while True:
            line = self.line(rng, who)
            if who.name in line.english:
                return line

    def after(self, rng: Random, who: Person, record: Record | None = None) -> Line:
        """A line that does not happen to answer the record's question."""
        while True:
            line = self.line(rng, who)
            if record is None or line.english != record.english:
                return line
