"""The grammar that makes every German sentence of the corpus agree.

A German noun phrase is decided by three things: the noun's gender (or the plural), the case that its place in the
sentence asks for, and the article in front of it. Two article tables and three tables of adjective endings hold that
knowledge; the functions below only look it up. English needs no more than *a* against *an*. Pure Python, no imports
beyond the standard library, so that the corpus can be generated anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

GENDERS = ("m", "f", "n", "p")  # masculine, feminine, neuter, plural
CASES = ("nominative", "accusative", "dative")

DEFINITE = {
    "nominative": {"m": "der", "f": "die", "n": "das", "p": "die"},
    "accusative": {"m": "den", "f": "die", "n": "das", "p": "die"},
    "dative": {"m": "dem", "f": "der", "n": "dem", "p": "den"},
}
INDEFINITE = {
    "nominative": {"m": "ein", "f": "eine", "n": "ein", "p": ""},
    "accusative": {"m": "einen", "f": "eine", "n": "ein", "p": ""},
    "dative": {"m": "einem", "f": "einer", "n": "einem", "p": ""},
}
# Adjective endings after der/die/das, after ein/eine, and where no article stands.
WEAK = {
    "nominative": {"m": "e", "f": "e", "n": "e", "p": "en"},
    "accusative": {"m": "en", "f": "e", "n": "e", "p": "en"},
    "dative": {"m": "en", "f": "en", "n": "en", "p": "en"},
}
MIXED = {
    "nominative": {"m": "er", "f": "e", "n": "es", "p": "e"},
    "accusative": {"m": "en", "f": "e", "n": "es", "p": "e"},
    "dative": {"m": "en", "f": "en", "n": "en", "p": "en"},
}
STRONG = {
    "nominative": {"m": "er", "f": "e", "n": "es", "p": "e"},
    "accusative": {"m": "en", "f": "e", "n": "es", "p": "e"},
    "dative": {"m": "em", "f": "er", "n": "em", "p": "en"},
}
PRONOUN = {"m": "er", "f": "sie", "n": "es", "p": "sie"}


@dataclass(frozen=True)
class Noun:
    """A noun in both languages; ``oblique`` is the form of weak nouns (der Hase, den Hasen) outside the nominative."""

    english: str
    german: str
    gender: str
    oblique: str = ""

    def inflected(self, case: str) -> str:
        return self.oblique if self.oblique and case != "nominative" else self.german


@dataclass(frozen=True)
class Adjective:
    english: str
    german: str

    def ending(self, table: dict[str, dict[str, str]], case: str, gender: str) -> str:
        return self.german + table[case][gender]


@dataclass(frozen=True)
class Person:
    """A first name, the same in both languages."""

    name: str
    gender: str

    @property
    def her(self) -> str:
        return {"f": "her", "m": "his"}[self.gender]

    @property
    def pronouns(self) -> dict[str, str]:
        """How a story refers to somebody whom it has named; the keys are those of ``named``."""
        she, him, ihm = {"f": ("she", "her", "ihr"), "m": ("he", "him", "ihm")}[self.gender]
        return {"she": she, "him": him, "sie": PRONOUN[self.gender], "ihm": ihm}

    @property
    def named(self) -> dict[str, str]:
        """The name in every place where a pronoun could stand."""
        return dict.fromkeys(("she", "him", "sie", "ihm"), self.name)

    def possessive(self, owned: str, case: str) -> str:
        """ihr/sein with the endings of ein: ``owned`` is the gender of what is owned."""
        stem = {"f": "ihr", "m": "sein"}[self.gender]
        return stem + INDEFINITE[case][owned].removeprefix("ein")


def words(*parts: str) -> str:
    """Join what is not empty with single spaces."""
    return " ".join(part for part in parts if part)


def definite(noun: Noun, case: str, adjective: Adjective | None = None) -> str:
    """der große Hund, den großen Hund, dem großen Hund."""
    described = adjective.ending(WEAK, case, noun.gender) if adjective else ""
    return words(DEFINITE[case][noun.gender], described, noun.inflected(case))


def indefinite(noun: Noun, case: str, adjective: Adjective | None = None) -> str:
    """ein großer Hund, einen großen Hund, einem großen Hund."""
    described = adjective.ending(MIXED, case, noun.gender) if adjective else ""
    return words(INDEFINITE[case][noun.gender], described, noun.inflected(case))


def bare(noun: Noun, case: str, adjective: Adjective) -> str:
    """frisches Brot, frischen Fisch, rote Rosen: no article, so the adjective carries the case."""
    return words(adjective.ending(STRONG, case, noun.gender), noun.inflected(case))


def inside(place: Noun) -> str:
    """im Stall, in der Küche: where something is (dative)."""
    return words("in der" if place.gender == "f" else "im", place.inflected("dative"))


def into(place: Noun) -> str:
    """in den Stall, in die Küche, ins Haus: where somebody goes (accusative)."""
    article = {"m": "in den", "f": "in die", "n": "ins"}[place.gender]
    return words(article, place.inflected("accusative"))


def a_or_an(phrase: str) -> str:
    return words("an" if phrase[0] in "aeiou" else "a", phrase)


def sentence(text: str) -> str:
    """Capital letter in front, full stop behind."""
    return text[0].upper() + text[1:] + "."


def question(text: str) -> str:
    return text[0].upper() + text[1:] + "?"
