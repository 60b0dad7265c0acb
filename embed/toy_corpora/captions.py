"""What the world of `scenes` is called in four languages: one table a language, nothing else depends on which it is."""

import dataclasses
import random
import re


@dataclasses.dataclass(frozen=True)
class Language:
    """Words and sentences of one language. A pair of forms "rojo/roja" agrees with the gender of the shape."""

    code: str
    article: str
    phrase: str  # the order of {article}, {size}, {colour} and {shape}
    second: frozenset[str]  # shapes that take the second form
    words: dict[str, str]  # attribute value -> word; adjectives with both their forms
    plain: dict[str, str]  # adjectives as they stand alone, where the first form is not that
    scenes: tuple[str, ...]  # {thing} {position} {background}
    edits: tuple[str, ...]  # {}: what has changed
    utterances: tuple[str, ...]  # {thing} {position}, loosely
    then: str  # between two things, one after the other

    def thing(self, shape: str, colour: str = "", size: str = "") -> str:
        """A noun phrase: "a large red star", "une grande étoile rouge"."""

        def agree(forms: str) -> str:
            return forms.split("/")[-1 if shape in self.second else 0]

        colour, size = (agree(self.words[value]) if value else "" for value in (colour, size))
        phrase = self.phrase.format(article=agree(self.article), size=size, colour=colour, shape=self.words[shape])
        return re.sub(r"\ba (?=[aeiou])", "an " if self.code == "en" else "a ", " ".join(phrase.split()))

    def alone(self, value: str) -> str:
        """An attribute value as it follows "the same, but"."""
        if value in SHAPES:
            return self.thing(value)
        return self.plain.get(value, self.words[value].split("/")[0])


SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "large")
POSITIONS = (
    *("top left", "top", "top right"),
    *("left", "centre", "right"),
    *("bottom left", "bottom", "bottom right"),
)
BACKGROUNDS = ("plain", "striped", "dotted")
ATTRIBUTE_VALUES = (*SHAPES, *COLORS, *SIZES, *POSITIONS, *BACKGROUNDS)


def _table(*rows: str) -> dict[str, str]:
    """Words in the order of VALUES, separated by commas."""
    words = [word.strip() for row in rows for word in row.split(",")]
    return dict(zip(ATTRIBUTE_VALUES, words, strict=True))


ENGLISH = Language(
    "en",
    article="a",
    phrase="{article} {size} {colour} {shape}",
    second=frozenset(),
    words=_table(
        "circle, square, triangle, star, cross, ring",
        "red, orange, yellow, green, cyan, blue, purple, pink",
        "small, large",
        "at the top left, at the top, at the top right, on the left, in the centre, on the right",
        "at the bottom left, at the bottom, at the bottom right",
        "on a plain background, on a striped background, on a dotted background",
    ),
    plain={},
    scenes=(
        "{thing} {position}, {background}",
        "a picture of {thing} {position} {background}",
        "{position} there is {thing}, {background}",
        "{background}, {position}: {thing}",
    ),
    edits=("the same, but {}", "the same picture, but now {}", "as before, only now {}"),
    utterances=(
        "can you see {thing} anywhere?",
        "I am looking for {thing}, probably {position}",
        "please draw {thing} {position}",
        "wasn't there {thing} {position} a moment ago?",
        "give me {thing}",
        "it must be {position}: {thing}",
    ),
    then="then",
)
GERMAN = Language(
    "de",
    article="ein",
    phrase="{article} {size} {colour} {shape}",
    second=frozenset({"square", "triangle", "cross"}),
    words=_table(
        "Kreis, Quadrat, Dreieck, Stern, Kreuz, Ring",
        "roter/rotes, orangefarbener/orangefarbenes, gelber/gelbes, grüner/grünes",
        "türkisfarbener/türkisfarbenes, blauer/blaues, violetter/violettes, rosafarbener/rosafarbenes",
        "kleiner/kleines, großer/großes",
        "oben links, oben in der Mitte, oben rechts, links, in der Mitte, rechts",
        "unten links, unten in der Mitte, unten rechts",
        "vor einem einfarbigen Hintergrund, vor einem gestreiften Hintergrund, vor einem gepunkteten Hintergrund",
    ),
    plain={
        **{"red": "rot", "orange": "orangefarben", "yellow": "gelb", "green": "grün", "cyan": "türkisfarben"},
        **{"blue": "blau", "purple": "violett", "pink": "rosafarben", "small": "klein", "large": "groß"},
    },
    scenes=(
        "{thing} {position}, {background}",
        "{position} ist {thing} zu sehen, {background}",
        "{background} steht {position} {thing}",
        "auf dem Bild: {thing}, {position}, {background}",
    ),
    edits=("dasselbe, aber {}", "dasselbe Bild, nur jetzt {}", "alles wie zuvor, nur diesmal {}"),
    utterances=(
        "ist hier irgendwo {thing} zu sehen?",
        "da war doch {thing} {position}",
        "gesucht wird {thing}, wohl {position}",
        "auf dem Bild fehlt noch {thing} {position}",
        "irgendwo sollte {thing} sein",
        "{position} soll {thing} sein",
    ),
    then="dann",
)
SPANISH = Language(
    "es",
    article="un/una",
    phrase="{article} {shape} {colour} {size}",
    second=frozenset({"star", "cross"}),
    words=_table(
        "círculo, cuadrado, triángulo, estrella, cruz, anillo",
        "rojo/roja, naranja, amarillo/amarilla, verde, turquesa, azul, morado/morada, rosa",
        "pequeño/pequeña, grande",
        "arriba a la izquierda, arriba en el centro, arriba a la derecha, a la izquierda, en el centro, a la derecha",
        "abajo a la izquierda, abajo en el centro, abajo a la derecha",
        "sobre un fondo liso, sobre un fondo de rayas, sobre un fondo de puntos",
    ),
    plain={},
    scenes=(
        "{thing} {position}, {background}",
        "{position} hay {thing}, {background}",
        "una imagen con {thing} {position} {background}",
        "{background} se ve {thing} {position}",
    ),
    edits=("lo mismo, pero {}", "la misma imagen, pero ahora {}", "todo igual, solo que ahora {}"),
    utterances=(
        "¿ves {thing} por algún lado?",
        "dibuja {thing} {position}",
        "busco {thing}, creo que {position}",
        "¿no había {thing} {position}?",
        "quiero {thing}, por favor",
        "tiene que estar {position}: {thing}",
    ),
    then="luego",
)
FRENCH = Language(
    "fr",
    article="un/une",
    phrase="{article} {size} {shape} {colour}",
    second=frozenset({"star", "cross"}),
    words=_table(
        "cercle, carré, triangle, étoile, croix, anneau",
        "rouge, orange, jaune, vert/verte, turquoise, bleu/bleue, violet/violette, rose",
        "petit/petite, grand/grande",
        "en haut à gauche, en haut au milieu, en haut à droite, à gauche, au centre, à droite",
        "en bas à gauche, en bas au milieu, en bas à droite",
        "sur un fond uni, sur un fond rayé, sur un fond à pois",
    ),
    plain={},
    scenes=(
        "{thing} {position}, {background}",
        "{position}, il y a {thing} {background}",
        "une image avec {thing} {position} {background}",
        "{background}, on voit {thing} {position}",
    ),
    edits=("la même chose, mais {}", "la même image, mais maintenant {}", "comme avant, mais cette fois {}"),
    utterances=(
        "est-ce que tu vois {thing} quelque part ?",
        "dessine {thing} {position}",
        "je cherche {thing}, sans doute {position}",
        "il n'y avait pas {thing} {position} ?",
        "je voudrais {thing}",
        "ça doit être {position} : {thing}",
    ),
    then="puis",
)
LANGUAGES = (ENGLISH, GERMAN, SPANISH, FRENCH)


def drop_words(text: str, rng: random.Random) -> str:
    """The text with about a third of its words lost, at least one kept."""
    words = text.split()
    return " ".join(word for word in words if rng.random() > 0.33) or rng.choice(words)
