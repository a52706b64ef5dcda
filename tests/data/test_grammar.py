"""Laws of the corpus's German, checked against tables written here a second time, in another shape."""

import re
from random import Random

import pytest
from corpus import grammar, lexicon
from corpus.stories import Narrator
from corpus.tasks import all_records

# (article, adjective ending) -> what it can be: gender and case, "p" for the plural.
ARTICLES = {
    "der": {"m1", "f3"}, "die": {"f1", "f4", "p1", "p4"}, "das": {"n1", "n4"}, "den": {"m4", "p3"}, "dem": {"m3", "n3"},
    "ein": {"m1", "n1", "n4"}, "eine": {"f1", "f4"}, "einen": {"m4"}, "einem": {"m3", "n3"}, "einer": {"f3"},
    "im": {"m3", "n3"}, "ins": {"n4"}, "ihr": {"m1", "n1"}, "sein": {"m1", "n1"}, "ihre": {"f1"}, "seine": {"f1"},
    "ihrem": {"m3", "n3"}, "seinem": {"m3", "n3"}, "ihrer": {"f3"}, "seiner": {"f3"},
}  # fmt: skip
DEFINITE = ("der", "die", "das", "den", "dem", "im", "ins")
CASE = {"1": "nominative", "3": "dative", "4": "accusative"}
GOVERNED = {"mit": "3", "von": "3"}  # prepositions that take one case only
TAKES_ACCUSATIVE = {"sucht", "malt", "mag", "sieht", "will", *(a.german for a in lexicon.ACTIONS)}


def nouns() -> dict[str, grammar.Noun]:
    """Every noun of the lexicon that can follow an article, by each of its German forms."""
    found = [a.noun for a in lexicon.ANIMALS] + list(lexicon.PLACES.values()) + [n for n, _ in lexicon.COLOURED]
    found += [t.noun for t in lexicon.TRADES] + [x for a in lexicon.ACTIONS for x in (a.thing, a.tool)]
    found += [*lexicon.FURNITURE, *lexicon.RELATIVES, grammar.Noun("opposite", "Gegenteil", "n")]
    return {form: noun for noun in found for form in (noun.german, noun.oblique) if form}


def german_sentences() -> list[str]:
    rng = Random(5)
    narrator = Narrator(all_records())
    told = [narrator.line(rng, who, named).german for who in lexicon.PERSONS for named in [True, False] * 400]
    return [r.german for r in all_records()] + told


def noun_phrases(sentence: str):
    """(word before, article, adjective or "", noun) for every article of the sentence."""
    tokens = re.findall(r"\w+", sentence)
    for i, token in enumerate(tokens[:-1]):
        article = token.lower()
        if article in ARTICLES and tokens[i + 1] not in ARTICLES:  # "verkauft ihr die Köchin": a pronoun, no article
            between = tokens[i + 1][0].islower()
            yield (tokens[i - 1] if i else ""), article, tokens[i + 1] if between else "", tokens[i + 1 + between]


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return german_sentences()


def readings(article: str, adjective: str, noun: grammar.Noun, form: str) -> set[str]:
    """The cases in which article, adjective and noun form all agree."""
    possible = {r[1] for r in ARTICLES[article] if r[0] == noun.gender}
    possible = {case for case in possible if noun.inflected(CASE[case]) == form}
    if adjective:
        ending = re.search(r"(e|er|es|en|em)$", adjective).group()
        possible = {c for c in possible if ending == expected_ending(article, noun.gender, c)}
    return possible


def expected_ending(article: str, gender: str, case: str) -> str:
    """-en in the dative and in the masculine accusative; else -e, or the gender's mark where the article lacks it."""
    if case == "3" or (case == "4" and gender == "m"):
        return "en"
    return "e" if article in DEFINITE or gender == "f" else {"m": "er", "n": "es"}[gender]


def test_every_noun_phrase_agrees(sentences):
    lexical, count = nouns(), 0
    for sentence in sentences:
        for _, article, adjective, form in noun_phrases(sentence):
            assert form in lexical, (sentence, form)
            assert readings(article, adjective, lexical[form], form), sentence
            count += 1
    assert count > 5_000


def test_prepositions_and_verbs_govern_their_case(sentences):
    lexical, count = nouns(), 0
    for sentence in sentences:
        for before, article, adjective, form in noun_phrases(sentence):
            wanted = GOVERNED.get(before) or ("4" if before in TAKES_ACCUSATIVE else None)
            if wanted:
                assert wanted in readings(article, adjective, lexical[form], form), sentence
                count += 1
    assert count > 1_000


def test_the_verb_stands_second_in_main_clauses_and_last_in_subordinate_ones(sentences):
    verbs = {"sucht", "gibt", "malt", "ist", "verkauft", "sind", "besucht", "geht", "sieht", "trägt", "will", "sagt",
             "glaubt", "spielt", "mag", *(a.german for a in lexicon.ACTIONS)}  # fmt: skip
    first = {adverb.capitalize() for _, adverb in lexicon.ADVERBS} | {p.name for p in lexicon.PERSONS}
    for sentence in sentences:
        main, _, subordinate = sentence.rstrip(".").partition(", ")
        tokens = main.split()
        opens_with = next(i for i, token in enumerate(tokens) if token in verbs)
        assert sum(token in verbs for token in tokens) == 1, sentence
        assert opens_with == 1 or (tokens[0] not in first and opens_with <= 6), sentence
        assert subordinate == "" or subordinate.split()[-1] in ("ist", "sind"), sentence
        assert (", " in sentence) == any(word in tokens for word in ("sagt", "glaubt", "trägt")), sentence


def test_weak_nouns_and_separable_verbs():
    texts = {r.german for r in all_records()}
    assert "Anna sucht den Hasen im Garten." in texts
    assert "Paul gibt dem Bären Honig." in texts
    assert "Emma zündet die Kerze mit dem Streichholz an." in texts
    assert "In Italien besucht Max Rom." in texts
    assert "Das Gegenteil von einem großen Haus ist ein kleines Haus." in texts
    assert "Nina sieht den Bären in der Höhle." in texts
    assert "Der Fischer verkauft Lena frischen Fisch." in texts


def test_pronouns_and_possessives_agree():
    anna, tom = lexicon.PERSONS[0], lexicon.PERSONS[6]
    assert (anna.possessive("f", "dative"), tom.possessive("f", "dative")) == ("ihrer", "seiner")
    assert (anna.possessive("m", "nominative"), tom.possessive("f", "nominative")) == ("ihr", "seine")
    count = 0
    for sentence in german_sentences():
        found = re.match(r".* trägt \w+ (ihren?|ihre|seinen?|seine) (\w+), weil (er|sie|es) ", sentence)
        if found:
            count += 1
            assert grammar.PRONOUN[nouns()[found[2]].gender] == found[3], sentence
    assert count > 50


def test_english_articles():
    for record in all_records():
        for article, following in re.findall(r"\b([Aa]n?) (\w)", record.english + " " + record.question):
            assert (article.lower() == "an") == (following in "aeiou"), record
