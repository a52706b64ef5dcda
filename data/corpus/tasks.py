"""Nine kinds of question, each with its full-sentence answer in both languages.

A record crosses an *entity*, about which there is a fact, with a *setting*, which the answer must take over from the
question: who is looking for the cow, whom the baker sells to. So there are thousands of distinct records over few
words, and a held-out record asks a known kind of thing about a pair that no training text ever put together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from . import grammar as g
from . import lexicon as lex
from .grammar import Person, a_or_an, definite, indefinite, sentence, words


@dataclass(frozen=True)
class Record:
    """``question`` and ``request`` ask the same thing; ``english`` and ``german`` are the one right answer to both.

    ``unit`` names the pair that is held out or not; ``topic`` is the person the record is about, if there is one.
    ``retold`` is the fact as a story tells it after an adverb (*Then she ...*, *Dann sucht sie ...*), with places for
    the person; a fact about nobody is what somebody says, so its German verb stands last.
    """

    task: str
    unit: str
    question: str
    request: str
    english: str
    german: str
    retold: tuple[str, str]
    topic: Person | None = None


def _said(english: str, german: str) -> tuple[str, str]:
    return f"{{she}} says that {english}", f"sagt {{sie}}, dass {german}"


def home() -> Iterator[Record]:
    for animal, person in product(lex.ANIMALS, lex.PERSONS):
        noun, place = animal.noun, animal.home
        yield Record(
            "home",
            f"{noun.english}/{person.name}",
            f"Where does {person.name} look for the {noun.english}?",
            f"Tell me where {person.name} looks for the {noun.english}.",
            f"{person.name} looks for the {noun.english} in the {place.english}.",
            f"{person.name} sucht {definite(noun, 'accusative')} {g.inside(place)}.",
            (
                f"{{she}} looks for the {noun.english} in the {place.english}",
                f"sucht {{sie}} {definite(noun, 'accusative')} {g.inside(place)}",
            ),
            person,
        )


def food() -> Iterator[Record]:
    for animal, person in product(lex.ANIMALS, lex.PERSONS):
        noun, (english, german) = animal.noun, animal.food
        yield Record(
            "food",
            f"{noun.english}/{person.name}",
            f"What does {person.name} give to the {noun.english}?",
            f"Tell me what {person.name} gives to the {noun.english}.",
            f"{person.name} gives {english} to the {noun.english}.",
            f"{person.name} gibt {definite(noun, 'dative')} {german}.",
            (f"{{she}} gives {english} to the {noun.english}", f"gibt {{sie}} {definite(noun, 'dative')} {german}"),
            person,
        )


def colour() -> Iterator[Record]:
    for (noun, english), person in product(lex.COLOURED, lex.PERSONS):
        yield Record(
            "colour",
            f"{noun.english}/{person.name}",
            f"Which colour does {person.name} paint the {noun.english}?",
            f"Tell me which colour {person.name} paints the {noun.english}.",
            f"{person.name} paints the {noun.english} {english}.",
            f"{person.name} malt {definite(noun, 'accusative')} {lex.COLOURS[english]}.",
            (
                f"{{she}} paints the {noun.english} {english}",
                f"malt {{sie}} {definite(noun, 'accusative')} {lex.COLOURS[english]}",
            ),
            person,
        )


def opposite() -> Iterator[Record]:
    for pair, noun in product(lex.OPPOSITES, lex.FURNITURE):
        for given, wanted in (pair, pair[::-1]):
            asked, answer = (a_or_an(f"{quality.english} {noun.english}") for quality in (given, wanted))
            gegeben, antwort = indefinite(noun, "dative", given), indefinite(noun, "nominative", wanted)
            yield Record(
                "opposite",
                f"{given.english}/{noun.english}",
                f"What is the opposite of {asked}?",
                f"Tell me the opposite of {asked}.",
                sentence(f"the opposite of {asked} is {answer}"),
                sentence(f"das Gegenteil von {gegeben} ist {antwort}"),
                _said(f"the opposite of {asked} is {answer}", f"das Gegenteil von {gegeben} {antwort} ist"),
            )


def tool() -> Iterator[Record]:
    for action, person in product(lex.ACTIONS, lex.PERSONS):
        thing, how = action.thing, action.tool
        with_what = words(definite(thing, "accusative"), "mit", definite(how, "dative"), action.particle)
        yield Record(
            "tool",
            f"{action.base}/{person.name}",
            f"How does {person.name} {action.base} the {thing.english}?",
            f"Tell me how {person.name} {action.verb} the {thing.english}.",
            f"{person.name} {action.verb} the {thing.english} with the {how.english}.",
            f"{person.name} {action.german} {with_what}.",
            (
                f"{{she}} {action.verb} the {thing.english} with the {how.english}",
                f"{action.german} {{sie}} {with_what}",
            ),
            person,
        )


def trade() -> Iterator[Record]:
    for seller, person in product(lex.TRADES, lex.PERSONS):
        noun, quality, goods = seller.noun, seller.quality, seller.goods
        yield Record(
            "trade",
            f"{noun.english}/{person.name}",
            f"What does the {noun.english} sell to {person.name}?",
            f"Tell me what the {noun.english} sells to {person.name}.",
            f"The {noun.english} sells {quality.english} {goods.english} to {person.name}.",
            sentence(f"{definite(noun, 'nominative')} verkauft {person.name} {g.bare(goods, 'accusative', quality)}"),
            (
                f"the {noun.english} sells {quality.english} {goods.english} to {{him}}",
                f"verkauft {{ihm}} {definite(noun, 'nominative')} {g.bare(goods, 'accusative', quality)}",
            ),
            person,
        )


def seen() -> Iterator[Record]:
    """Who lives there? Only of places where one animal lives alone."""
    homes = Counter(animal.home for animal in lex.ANIMALS)
    for animal, person in product((a for a in lex.ANIMALS if homes[a.home] == 1), lex.PERSONS):
        noun, place = animal.noun, animal.home
        yield Record(
            "seen",
            f"{noun.english}/{person.name}",
            f"Which animal does {person.name} see in the {place.english}?",
            f"Tell me which animal {person.name} sees in the {place.english}.",
            f"{person.name} sees the {noun.english} in the {place.english}.",
            f"{person.name} sieht {definite(noun, 'accusative')} {g.inside(place)}.",
            (
                f"{{she}} sees the {noun.english} in the {place.english}",
                f"sieht {{sie}} {definite(noun, 'accusative')} {g.inside(place)}",
            ),
            person,
        )


def sums() -> Iterator[Record]:
    for (noun, german), a, b in product(lex.COUNTED, range(2, 7), range(2, 7)):
        one, two, both = lex.NUMBERS[a], lex.NUMBERS[b], lex.NUMBERS[a + b]
        eins, zwei, zusammen = lex.ZAHLEN[a], lex.ZAHLEN[b], lex.ZAHLEN[a + b]
        yield Record(
            "sum",
            f"{noun}/{one}+{two}",
            f"How many are {one} {noun} and {two} {noun}?",
            f"Tell me how many {one} {noun} and {two} {noun} are.",
            sentence(f"{one} and {two} {noun} are {both} {noun}"),
            sentence(f"{eins} und {zwei} {german} sind {zusammen} {german}"),
            _said(f"{one} and {two} {noun} are {both} {noun}", f"{eins} und {zwei} {german} {zusammen} {german} sind"),
        )


def city() -> Iterator[Record]:
    for (english, german, capital, hauptstadt), person in product(lex.COUNTRIES, lex.PERSONS):
        yield Record(
            "city",
            f"{english}/{person.name}",
            f"Which capital does {person.name} visit in {english}?",
            f"Tell me which capital {person.name} visits in {english}.",
            f"{person.name} visits {capital} in {english}.",
            f"In {german} besucht {person.name} {hauptstadt}.",  # place first, so verb before subject
            (f"{{she}} visits {capital} in {english}", f"besucht {{sie}} {hauptstadt} in {german}"),
            person,
        )


TASKS = {"home": home, "food": food, "colour": colour, "opposite": opposite, "tool": tool, "trade": trade,
         "seen": seen, "sum": sums, "city": city}  # fmt: skip


def all_records() -> tuple[Record, ...]:
    """Every record of every task, always in the same order."""
    return tuple(record for make in TASKS.values() for record in make())
