"""A documentation page as a small image: the name in large type, a rule, and the first words of the text.

In large type, a letter fills a cell of 8 x 8 pixels. So each letter of the name is one patch of a model with 8-pixel
patches, and a model can read it that was trained on other pages only.
"""

import functools
import io
import pathlib
import textwrap

import matplotlib
from PIL import Image, ImageDraw, ImageFont

CELL = 8
COLUMNS, ROWS = 12, 8
WIDTH, HEIGHT = COLUMNS * CELL, ROWS * CELL
NAME_ROWS = 2
BODY_COLUMNS = 18  # letters of 5 pixels
FONTS = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def title_fits(module: str, name: str) -> bool:
    """Return whether the title has room for the whole module and name."""
    return len(module) <= COLUMNS and len(_name_rows(name)) <= NAME_ROWS


@functools.cache
def render_page(module: str, name: str, body: str) -> bytes:
    """Render a page as PNG, WIDTH x HEIGHT gray pixels: a row of module, rows of name, a rule, the body."""
    page, top = _draw_title(module, name, HEIGHT)
    draw = ImageDraw.Draw(page)
    draw.line((0, top + 1, WIDTH, top + 1), fill=120)
    lines = textwrap.wrap(" ".join(body.split()), BODY_COLUMNS)
    for i in range((HEIGHT - top - 3) // CELL):
        draw.text((1, top + 3 + i * CELL), lines[i] if i < len(lines) else "", fill=40, font=_font("DejaVuSansMono", 8))
    return _encode(page)


def render_title(module: str, name: str) -> bytes:
    """Render the upper part of the page alone, as high as the longest title."""
    return _encode(_draw_title(module, name, (1 + NAME_ROWS) * CELL)[0])


def _draw_title(module: str, name: str, height: int) -> tuple[Image.Image, int]:
    """Draw the title on a white page; return the page and the title's height in pixels."""
    page = Image.new("L", (WIDTH, height), 255)
    rows = [module, *_name_rows(name)]
    for y, row in enumerate(rows):
        for x, letter in enumerate(row):
            page.paste(_large_letter(letter), (x * CELL, y * CELL))
    return page, len(rows) * CELL


def _encode(page: Image.Image) -> bytes:
    file = io.BytesIO()
    page.save(file, "PNG", optimize=False)
    return file.getvalue()


def _name_rows(name: str) -> list[str]:
    """Split a name into rows of COLUMNS letters: class and method on a row each if they fit, else anywhere."""
    head, dot, tail = name.rpartition(".")
    if dot and len(name) > COLUMNS and len(head) < COLUMNS and len(tail) <= COLUMNS:
        return [f"{head}.", tail]
    return [name[i : i + COLUMNS] for i in range(0, len(name), COLUMNS)]


@functools.cache
def _large_letter(letter: str) -> Image.Image:
    """Draw a letter large and resize it to a cell, 8 x 8."""
    size = 48
    cell = Image.new("L", (round(size * 0.602), size), 255)
    ImageDraw.Draw(cell).text((0, size * 0.77), letter, fill=0, font=_font("DejaVuSansMono-Bold", size), anchor="ls")
    return cell.resize((CELL, CELL), Image.Resampling.LANCZOS)


@functools.cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONTS / f"{name}.ttf", size, layout_engine=ImageFont.Layout.BASIC)
