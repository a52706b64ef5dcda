"""The words of the corpus and the facts about them, once each, in both languages.

Everything the corpus says follows from these tables: what an animal eats and where it lives, which tool an action
takes, what a tradesman sells.
"""

from __future__ import annotations

from dataclasses import dataclass

from .grammar import Adjective, Noun, Person

PERSONS = tuple(Person(name, "f") for name in ("Anna", "Emma", "Lena", "Maria", "Nina", "Clara")) + tuple(
    Person(name, "m") for name in ("Tom", "Paul", "Max", "Felix", "Jonas", "David")
)

PLACES = {
    noun.english: noun
    for noun in (
        Noun("pond", "Teich", "m"), Noun("house", "Haus", "n"), Noun("nest", "Nest", "n"), Noun("river", "Fluss", "m"),
        Noun("garden", "Garten", "m"), Noun("kitchen", "Küche", "f"), Noun("forest", "Wald", "m"),
        Noun("yard", "Hof", "m"), Noun("valley", "Tal", "n"), Noun("barn", "Stall", "m"), Noun("desert", "Wüste", "f"),
        Noun("cave", "Höhle", "f"), Noun("town", "Stadt", "f"), Noun("jungle", "Dschungel", "m"),
        Noun("sea", "Meer", "n"),
    )
}  # fmt: skip
VISITED = tuple(noun for name, noun in PLACES.items() if name not in ("pond", "nest", "river", "sea"))


@dataclass(frozen=True)
class Animal:
    noun: Noun
    home: Noun
    food: tuple[str, str]  # English, German; a mass noun or a plural, so no article


def _animal(english: str, german: str, gender: str, home: str, food: str, futter: str, oblique: str = "") -> Animal:
    return Animal(Noun(english, german, gender, oblique), PLACES[home], (food, futter))


ANIMALS = (
    _animal("frog", "Frosch", "m", "pond", "flies", "Fliegen"),
    _animal("mouse", "Maus", "f", "house", "cheese", "Käse"),
    _animal("bird", "Vogel", "m", "nest", "corn", "Korn"),
    _animal("duck", "Ente", "f", "river", "bread", "Brot"),
    _animal("hare", "Hase", "m", "garden", "carrots", "Möhren", "Hasen"),
    _animal("cat", "Katze", "f", "kitchen", "milk", "Milch"),
    _animal("fox", "Fuchs", "m", "forest", "eggs", "Eier"),
    _animal("dog", "Hund", "m", "yard", "bones", "Knochen"),
    _animal("wolf", "Wolf", "m", "valley", "meat", "Fleisch"),
    _animal("sheep", "Schaf", "n", "barn", "grass", "Gras"),
    _animal("pig", "Schwein", "n", "barn", "potatoes", "Kartoffeln"),
    _animal("lion", "Löwe", "m", "desert", "meat", "Fleisch", "Löwen"),
    _animal("bear", "Bär", "m", "cave", "honey", "Honig", "Bären"),
    _animal("cow", "Kuh", "f", "barn", "hay", "Heu"),
    _animal("horse", "Pferd", "n", "town", "apples", "Äpfel"),
    _animal("camel", "Kamel", "n", "desert", "water", "Wasser"),
    _animal("elephant", "Elefant", "m", "jungle", "bananas", "Bananen", "Elefanten"),
    _animal("whale", "Wal", "m", "sea", "fish", "Fisch"),
)

COLOURS = {"green": "grün", "white": "weiß", "yellow": "gelb", "blue": "blau", "red": "rot", "black": "schwarz",
           "grey": "grau", "brown": "braun"}  # fmt: skip
COLOURED = (
    (Noun("grass", "Gras", "n"), "green"), (Noun("snow", "Schnee", "m"), "white"),
    (Noun("sun", "Sonne", "f"), "yellow"),
    (Noun("sky", "Himmel", "m"), "blue"), (Noun("rose", "Rose", "f"), "red"), (Noun("coal", "Kohle", "f"), "black"),
    (Noun("cloud", "Wolke", "f"), "grey"), (Noun("tomato", "Tomate", "f"), "red"),
    (Noun("lemon", "Zitrone", "f"), "yellow"), (Noun("leaf", "Blatt", "n"), "green"),
    (Noun("chocolate", "Schokolade", "f"), "brown"), (Noun("wood", "Holz", "n"), "brown"),
    (Noun("stone", "Stein", "m"), "grey"), (Noun("swan", "Schwan", "m"), "white"),
)  # fmt: skip

BIG, SMALL = Adjective("big", "groß"), Adjective("small", "klein")
OLD, NEW = Adjective("old", "alt"), Adjective("new", "neu")
GOOD, BAD = Adjective("good", "gut"), Adjective("bad", "schlecht")
OPPOSITES = (
    (BIG, SMALL), (OLD, NEW), (GOOD, BAD), (Adjective("long", "lang"), Adjective("short", "kurz")),
    (Adjective("hard", "hart"), Adjective("soft", "weich")),
    (Adjective("heavy", "schwer"), Adjective("light", "leicht")),
    (Adjective("clean", "sauber"), Adjective("dirty", "schmutzig")),
    (Adjective("wet", "nass"), Adjective("dry", "trocken")),
    (Adjective("beautiful", "schön"), Adjective("ugly", "hässlich")),
)  # fmt: skip
FURNITURE = (
    Noun("house", "Haus", "n"), Noun("bed", "Bett", "n"), Noun("boat", "Boot", "n"), Noun("glass", "Glas", "n"),
    Noun("table", "Tisch", "m"), Noun("chair", "Stuhl", "m"), Noun("coat", "Mantel", "m"), Noun("plate", "Teller", "m"),
    Noun("bag", "Tasche", "f"), Noun("box", "Kiste", "f"), Noun("cup", "Tasse", "f"), Noun("lamp", "Lampe", "f"),
)  # fmt: skip


@dataclass(frozen=True)
class Action:
    """somebody <verb> the <thing> with the <tool>; a separable verb leaves its ``particle`` at the German end."""

    base: str
    verb: str
    thing: Noun
    tool: Noun
    german: str
    particle: str = ""


ACTIONS = (
    Action("cut", "cuts", Noun("bread", "Brot", "n"), Noun("knife", "Messer", "n"), "schneidet"),
    Action("eat", "eats", Noun("soup", "Suppe", "f"), Noun("spoon", "Löffel", "m"), "isst"),
    Action("write", "writes", Noun("letter", "Brief", "m"), Noun("pen", "Stift", "m"), "schreibt"),
    Action("open", "opens", Noun("door", "Tür", "f"), Noun("key", "Schlüssel", "m"), "öffnet"),
    Action("sweep", "sweeps", Noun("floor", "Boden", "m"), Noun("broom", "Besen", "m"), "fegt"),
    Action("catch", "catches", Noun("fish", "Fisch", "m"), Noun("net", "Netz", "n"), "fängt"),
    Action("hit", "hits", Noun("nail", "Nagel", "m"), Noun("hammer", "Hammer", "m"), "schlägt"),
    Action("chop", "chops", Noun("branch", "Ast", "m"), Noun("axe", "Axt", "f"), "hackt"),
    Action("dig", "digs", Noun("hole", "Loch", "n"), Noun("shovel", "Schaufel", "f"), "gräbt"),
    Action("wash", "washes", Noun("shirt", "Hemd", "n"), Noun("soap", "Seife", "f"), "wäscht"),
    Action("sew", "sews", Noun("dress", "Kleid", "n"), Noun("needle", "Nadel", "f"), "näht"),
    Action("wipe", "wipes", Noun("window", "Fenster", "n"), Noun("cloth", "Tuch", "n"), "putzt"),
    Action("water", "waters", Noun("flower", "Blume", "f"), Noun("can", "Kanne", "f"), "gießt"),
    Action("light", "lights", Noun("candle", "Kerze", "f"), Noun("match", "Streichholz", "n"), "zündet", "an"),
)


@dataclass(frozen=True)
class Trade:
    """Who sells what: ``goods`` carries the gender (or plural) that its strong adjective agrees with."""

    noun: Noun
    quality: Adjective
    goods: Noun


FRESH, HOT, SWEET = Adjective("fresh", "frisch"), Adjective("hot", "heiß"), Adjective("sweet", "süß")
TRADES = (
    Trade(Noun("baker", "Bäcker", "m"), FRESH, Noun("bread", "Brot", "n")),
    Trade(Noun("farmer", "Bauer", "m", "Bauern"), FRESH, Noun("milk", "Milch", "f")),
    Trade(Noun("fisher", "Fischer", "m"), FRESH, Noun("fish", "Fisch", "m")),
    Trade(Noun("butcher", "Metzger", "m"), GOOD, Noun("meat", "Fleisch", "n")),
    Trade(Noun("gardener", "Gärtner", "m"), BIG, Noun("roses", "Rosen", "p")),
    Trade(Noun("tailor", "Schneider", "m"), BEAUTIFUL := OPPOSITES[8][0], Noun("clothes", "Kleider", "p")),
    Trade(Noun("miller", "Müller", "m"), GOOD, Noun("flour", "Mehl", "n")),
    Trade(Noun("smith", "Schmied", "m"), HARD := OPPOSITES[4][0], Noun("iron", "Eisen", "n")),
    Trade(Noun("painter", "Maler", "m"), BEAUTIFUL, Noun("pictures", "Bilder", "p")),
    Trade(Noun("beekeeper", "Imker", "m"), SWEET, Noun("honey", "Honig", "m")),
    Trade(Noun("carpenter", "Tischler", "m"), HEAVY := OPPOSITES[5][0], Noun("tables", "Tische", "p")),
    Trade(Noun("cook", "Köchin", "f"), HOT, Noun("soup", "Suppe", "f")),
    Trade(Noun("teacher", "Lehrerin", "f"), OLD, Noun("books", "Bücher", "p")),
    Trade(Noun("shoemaker", "Schuster", "m"), NEW, Noun("shoes", "Schuhe", "p")),
)

# Country and capital, English then German.
COUNTRIES = (
    ("France", "Frankreich", "Paris", "Paris"), ("Italy", "Italien", "Rome", "Rom"),
    ("Germany", "Deutschland", "Berlin", "Berlin"), ("Austria", "Österreich", "Vienna", "Wien"),
    ("Spain", "Spanien", "Madrid", "Madrid"), ("Poland", "Polen", "Warsaw", "Warschau"),
    ("Greece", "Griechenland", "Athens", "Athen"), ("Russia", "Russland", "Moscow", "Moskau"),
    ("Portugal", "Portugal", "Lisbon", "Lissabon"), ("Norway", "Norwegen", "Oslo", "Oslo"),
    ("England", "England", "London", "London"), ("Sweden", "Schweden", "Stockholm", "Stockholm"),
    ("Denmark", "Dänemark", "Copenhagen", "Kopenhagen"), ("Japan", "Japan", "Tokyo", "Tokio"),
)  # fmt: skip

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ZAHLEN = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf")
COUNTED = (
    ("apples", "Äpfel"), ("eggs", "Eier"), ("shoes", "Schuhe"), ("tables", "Tische"), ("cups", "Tassen"),
    ("balls", "Bälle"), ("letters", "Briefe"), ("boats", "Boote"), ("chairs", "Stühle"), ("keys", "Schlüssel"),
)  # fmt: skip

FEELINGS = (
    Adjective("happy", "froh"), Adjective("tired", "müde"), Adjective("hungry", "hungrig"), Adjective("ill", "krank"),
    Adjective("sad", "traurig"),
)  # fmt: skip
RELATIVES = (Noun("brother", "Bruder", "m"), Noun("sister", "Schwester", "f"), Noun("friend", "Freund", "m"))
# What a line that goes on with a story begins with; in German the verb follows it at once.
ADVERBS = (("then", "dann"), ("later", "später"), ("soon", "bald"))
