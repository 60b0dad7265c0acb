"""Words and sentence templates for `scenes` in four languages: one table per language."""

import dataclasses
import random
import re


@dataclasses.dataclass(frozen=True)
class Language:
    """Words and templates of one language. Of two forms "rojo/roja", the gender of the shape chooses."""

    code: str
    article: str
    noun_phrase_template: str  # orders {article}, {size}, {color} and {shape}
    second_form_shapes: frozenset[str]
    words: dict[str, str]  # attribute value -> word, or both forms of an adjective
    predicative: dict[str, str]  # adjectives without a noun, where that is not the first form
    scenes: tuple[str, ...]  # {object} {position} {background}
    edits: tuple[str, ...]  # {}: the new attribute value
    utterances: tuple[str, ...]  # {object} {position}; may leave attributes out
    then: str  # joins two objects in order

    def noun_phrase(self, shape: str, color: str = "", size: str = "") -> str:
        """Make a noun phrase: "a large red star", "une grande étoile rouge"."""

        def agree(forms: str) -> str:
            return forms.split("/")[-1 if shape in self.second_form_shapes else 0]

        color = agree(self.words[color]) if color else ""
        size = agree(self.words[size]) if size else ""
        phrase = self.noun_phrase_template.format(
            article=agree(self.article), size=size, color=color, shape=self.words[shape]
        )
        return re.sub(r"\ba (?=[aeiou])", "an " if self.code == "en" else "a ", " ".join(phrase.split()))

    def edit_phrase(self, value: str) -> str:
        """Phrase an attribute value so that it can follow "the same, but"."""
        if value in SHAPES:
            return self.noun_phrase(value)
        return self.predicative.get(value, self.words[value].split("/")[0])


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
    """Map ATTRIBUTE_VALUES to comma-separated words in the same order."""
    words = [word.strip() for row in rows for word in row.split(",")]
    return dict(zip(ATTRIBUTE_VALUES, words, strict=True))


ENGLISH = Language(
    "en",
    article="a",
    noun_phrase_template="{article} {size} {color} {shape}",
    second_form_shapes=frozenset(),
    words=_table(
        "circle, square, triangle, star, cross, ring",
        "red, orange, yellow, green, cyan, blue, purple, pink",
        "small, large",
        "at the top left, at the top, at the top right, on the left, in the centre, on the right",
        "at the bottom left, at the bottom, at the bottom right",
        "on a plain background, on a striped background, on a dotted background",
    ),
    predicative={},
    scenes=(
        "{object} {position}, {background}",
        "a picture of {object} {position} {background}",
        "{position} there is {object}, {background}",
        "{background}, {position}: {object}",
    ),
    edits=("the same, but {}", "the same picture, but now {}", "as before, only now {}"),
    utterances=(
        "can you see {object} anywhere?",
        "I am looking for {object}, probably {position}",
        "please draw {object} {position}",
        "wasn't there {object} {position} a moment ago?",
        "give me {object}",
        "it must be {position}: {object}",
    ),
    then="then",
)
GERMAN = Language(
    "de",
    article="ein",
    noun_phrase_template="{article} {size} {color} {shape}",
    second_form_shapes=frozenset({"square", "triangle", "cross"}),
    words=_table(
        "Kreis, Quadrat, Dreieck, Stern, Kreuz, Ring",
        "roter/rotes, orangefarbener/orangefarbenes, gelber/gelbes, grüner/grünes",
        "türkisfarbener/türkisfarbenes, blauer/blaues, violetter/violettes, rosafarbener/rosafarbenes",
        "kleiner/kleines, großer/großes",
        "oben links, oben in der Mitte, oben rechts, links, in der Mitte, rechts",
        "unten links, unten in der Mitte, unten rechts",
        "vor einem einfarbigen Hintergrund, vor einem gestreiften Hintergrund, vor einem gepunkteten Hintergrund",
    ),
    predicative={
        **{"red": "rot", "orange": "orangefarben", "yellow": "gelb", "green": "grün", "cyan": "türkisfarben"},
        **{"blue": "blau", "purple": "violett", "pink": "rosafarben", "small": "klein", "large": "groß"},
    },
    scenes=(
        "{object} {position}, {background}",
        "{position} ist {object} zu sehen, {background}",
        "{background} steht {position} {object}",
        "auf dem Bild: {object}, {position}, {background}",
    ),
    edits=("dasselbe, aber {}", "dasselbe Bild, nur jetzt {}", "alles wie zuvor, nur diesmal {}"),
    utterances=(
        "ist hier irgendwo {object} zu sehen?",
        "da war doch {object} {position}",
        "gesucht wird {object}, wohl {position}",
        "auf dem Bild fehlt noch {object} {position}",
        "irgendwo sollte {object} sein",
        "{position} soll {object} sein",
    ),
    then="dann",
)
SPANISH = Language(
    "es",
    article="un/una",
    noun_phrase_template="{article} {shape} {color} {size}",
    second_form_shapes=frozenset({"star", "cross"}),
    words=_table(
        "círculo, cuadrado, triángulo, estrella, cruz, anillo",
        "rojo/roja, naranja, amarillo/amarilla, verde, turquesa, azul, morado/morada, rosa",
        "pequeño/pequeña, grande",
        "arriba a la izquierda, arriba en el centro, arriba a la derecha, a la izquierda, en el centro, a la derecha",
        "abajo a la izquierda, abajo en el centro, abajo a la derecha",
        "sobre un fondo liso, sobre un fondo de rayas, sobre un fondo de puntos",
    ),
    predicative={},
    scenes=(
        "{object} {position}, {background}",
        "{position} hay {object}, {background}",
        "una imagen con {object} {position} {background}",
        "{background} se ve {object} {position}",
    ),
    edits=("lo mismo, pero {}", "la misma imagen, pero ahora {}", "todo igual, solo que ahora {}"),
    utterances=(
        "¿ves {object} por algún lado?",
        "dibuja {object} {position}",
        "busco {object}, creo que {position}",
        "¿no había {object} {position}?",
        "quiero {object}, por favor",
        "tiene que estar {position}: {object}",
    ),
    then="luego",
)
FRENCH = Language(
    "fr",
    article="un/une",
    noun_phrase_template="{article} {size} {shape} {color}",
    second_form_shapes=frozenset({"star", "cross"}),
    words=_table(
        "cercle, carré, triangle, étoile, croix, anneau",
        "rouge, orange, jaune, vert/verte, turquoise, bleu/bleue, violet/violette, rose",
        "petit/petite, grand/grande",
        "en haut à gauche, en haut au milieu, en haut à droite, à gauche, au centre, à droite",
        "en bas à gauche, en bas au milieu, en bas à droite",
        "sur un fond uni, sur un fond rayé, sur un fond à pois",
    ),
    predicative={},
    scenes=(
        "{object} {position}, {background}",
        "{position}, il y a {object} {background}",
        "une image avec {object} {position} {background}",
        "{background}, on voit {object} {position}",
    ),
    edits=("la même chose, mais {}", "la même image, mais maintenant {}", "comme avant, mais cette fois {}"),
    utterances=(
        "est-ce que tu vois {object} quelque part ?",
        "dessine {object} {position}",
        "je cherche {object}, sans doute {position}",
        "il n'y avait pas {object} {position} ?",
        "je voudrais {object}",
        "ça doit être {position} : {object}",
    ),
    then="puis",
)
LANGUAGES = (ENGLISH, GERMAN, SPANISH, FRENCH)


def drop_words(text: str, rng: random.Random) -> str:
    """Drop about a third of a text's words; keep at least one."""
    words = text.split()
    return " ".join(word for word in words if rng.random() > 0.33) or rng.choice(words)
