"""PDF pages as pdfium sees them: pieces of lines with their boxes and fonts, rules, images."""

import ctypes
import math
import re
import unicodedata
from collections import Counter

import pypdfium2
import pypdfium2.raw as raw

from ..events import Failure

# As addresses, so that a text object is a key.
raw.FPDFText_GetTextObject.restype = ctypes.c_void_p

_MAX_CHARACTERS = 400_000
_MAX_OBJECTS = 20_000
_TINY = 1.5
_RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
# What pdfium makes of a hyphen at a line's end.
_SOFT = {2: "\u00ad", 0xFFFE: "\u00ad"}
_SPACES = frozenset((0, 9, 10, 13, 32, 160))
_FORMS = re.compile("[\ufb00-\ufb06\ufb50-\ufdff\ufe70-\ufefc]")
_RTL_STOP = re.compile("^([.,:;!?\u060c\u061b\u061f\u2026]+)\\s*(?=[\u0590-\u08ff])(.*)$", re.S)
_ITALIC, _MONO, _FORCE_BOLD = 1 << 6, 1, 1 << 18


class Piece:
    """A part of a line without a wide gap; y grows downwards from the page's top."""

    __slots__ = ("text", "x0", "y0", "x1", "y1", "size", "bold", "italic", "mono", "block", "rtl")

    def __init__(
        self, x0, y0, x1, y1, size=0, bold=False, italic=False, mono=False, text="", block=None
    ):
        self.x0, self.y0, self.x1, self.y1 = x0, y0, x1, y1
        self.size, self.bold, self.italic, self.mono = size, bold, italic, mono
        self.text, self.block, self.rtl = text, block, False


class Page:
    """What was found on one page; lengths in points."""

    def __init__(self, number, width, height):
        self.number, self.width, self.height = number, width, height
        self.pieces, self.horizontal, self.vertical, self.fills = [], [], [], []
        # What stands aslant, such as a watermark or the label of an axis.
        self.tilted = []
        self.image_area, self.hidden, self.hidden_why = 0.0, 0, set()

    @property
    def has_text(self):
        return bool(self.tilted) or any(piece.text.strip() for piece in self.pieces)


def open_document(path, password):
    try:
        return pypdfium2.PdfDocument(path, password=password or None)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == raw.FPDF_ERR_PASSWORD:
            if password:
                raise Failure("wrong_password", "the `password` does not open this PDF")
            raise Failure("document_encrypted", "the PDF is encrypted; give its `password`")
        raise Failure("document_damaged", "pdfium cannot open the PDF")


class _Frame:
    """From the PDF's space to the page as it is seen."""

    def __init__(self, page, text_page):
        left, bottom, right, top = page.get_bbox()
        self.box, self.rotation = (left, bottom, right, top), page.get_rotation()
        # Text that is not upright on its page is read as if it were turned.
        self.angle = _usual_angle(text_page)
        if self.angle is not None:
            self.rotation = self.angle
        wide, high = right - left, top - bottom
        self.width, self.height = (high, wide) if self.rotation in (90, 270) else (wide, high)

    def rect(self, left, bottom, right, top):
        x0, y0, x1, y1 = self.box
        if self.rotation == 90:
            return bottom - y0, left - x0, top - y0, right - x0
        if self.rotation == 180:
            return x1 - right, bottom - y0, x1 - left, top - y0
        if self.rotation == 270:
            return y1 - top, x1 - right, y1 - bottom, x1 - left
        return left - x0, y1 - top, right - x0, y1 - bottom


def _usual_angle(text_page):
    """The direction of most of the text, in degrees, from some of its letters; None without text."""
    count = raw.FPDFText_CountChars(text_page) if text_page else 0
    seen = Counter()
    for index in range(0, count, max(1, count // 64)):
        if raw.FPDFText_GetUnicode(text_page, index) > 32:
            angle = math.degrees(raw.FPDFText_GetCharAngle(text_page, index)) % 360
            seen[round(angle / 90) % 4 * 90] += 1
    return max(seen.items(), key=lambda item: (item[1], -item[0]))[0] if seen else None


def read_page(document, index):
    """Page `index` (from 0); None for one that pdfium cannot load."""
    try:
        page = document[index]
    except pypdfium2.PdfiumError:
        return None
    text_page = raw.FPDFText_LoadPage(page.raw)
    try:
        frame = _Frame(page, text_page)
        result = Page(index + 1, frame.width, frame.height)
        _objects(page.raw, frame, result)
        if text_page:
            _pieces(text_page, frame, result)
    finally:
        if text_page:
            raw.FPDFText_ClosePage(text_page)
        page.close()
    return result


def _objects(page, frame, result):
    from .ruled import path_rules

    def walk(count, get, depth):
        for number in range(min(count, _MAX_OBJECTS)):
            item = get(number)
            kind = raw.FPDFPageObj_GetType(item)
            if kind == raw.FPDF_PAGEOBJ_PATH:
                path_rules(item, frame, result)
            elif kind == raw.FPDF_PAGEOBJ_IMAGE:
                bounds = [ctypes.c_float() for _ in range(4)]
                if raw.FPDFPageObj_GetBounds(item, *bounds):
                    x0, y0, x1, y1 = frame.rect(*(value.value for value in bounds))
                    wide = min(x1, result.width) - max(x0, 0)
                    high = min(y1, result.height) - max(y0, 0)
                    result.image_area += max(wide, 0) * max(high, 0)
            elif kind == raw.FPDF_PAGEOBJ_FORM and depth < 3:
                # The objects in a form are placed by its matrix; rules of unplaced ones are no use.
                matrix = raw.FS_MATRIX()
                plain = raw.FPDFPageObj_GetMatrix(item, matrix) and (
                    (
                        round(matrix.a, 3),
                        round(matrix.b, 3),
                        round(matrix.c, 3),
                        round(matrix.d, 3),
                        round(matrix.e, 3),
                        round(matrix.f, 3),
                    )
                    == (1, 0, 0, 1, 0, 0)
                )
                if plain:
                    walk(
                        raw.FPDFFormObj_CountObjects(item),
                        lambda n, form=item: raw.FPDFFormObj_GetObject(form, n),
                        depth + 1,
                    )
                else:
                    _images_only(item, frame, result)

    walk(raw.FPDFPage_CountObjects(page), lambda n: raw.FPDFPage_GetObject(page, n), 0)


def _images_only(form, frame, result):
    for number in range(min(raw.FPDFFormObj_CountObjects(form), 100)):
        item = raw.FPDFFormObj_GetObject(form, number)
        if raw.FPDFPageObj_GetType(item) == raw.FPDF_PAGEOBJ_IMAGE:
            bounds = [ctypes.c_float() for _ in range(4)]
            if raw.FPDFPageObj_GetBounds(form, *bounds):
                x0, y0, x1, y1 = frame.rect(*(value.value for value in bounds))
                result.image_area += max(x1 - x0, 0) * max(y1 - y0, 0)
            return


class _Style:
    __slots__ = (
        "size",
        "bold",
        "italic",
        "mono",
        "hidden",
        "white",
        "tilted",
        "plain",
        "near",
        "wide",
        "far",
    )


def _style(text_page, index, item, styles, usual):
    style = _Style()
    matrix = raw.FS_MATRIX()
    size = raw.FPDFText_GetFontSize(text_page, index)
    if raw.FPDFText_GetMatrix(text_page, index, matrix):
        size *= (matrix.b * matrix.b + matrix.d * matrix.d) ** 0.5 or (
            matrix.a * matrix.a + matrix.c * matrix.c
        ) ** 0.5
    style.size = size
    flags = ctypes.c_int()
    name = ctypes.create_string_buffer(128)
    raw.FPDFText_GetFontInfo(text_page, index, name, 128, flags)
    word = name.value.decode("utf-8", "replace").lower()
    weight = raw.FPDFText_GetFontWeight(text_page, index)
    style.bold = (
        bool(flags.value & _FORCE_BOLD)
        or weight >= 600
        or bool(re.search(r"bold|black|heavy|semibold|cmbx", word))
    )
    style.italic = bool(flags.value & _ITALIC) or "italic" in word or "oblique" in word
    style.mono = bool(flags.value & _MONO) or bool(re.search(r"mono|courier|consol|cmtt", word))
    pointer = ctypes.cast(item, raw.FPDF_PAGEOBJECT) if item else None
    style.hidden = bool(pointer) and raw.FPDFTextObj_GetTextRenderMode(pointer) == 3
    style.white = False
    if pointer:
        colors = [ctypes.c_uint() for _ in range(4)]
        if raw.FPDFPageObj_GetFillColor(pointer, *colors):
            red, green, blue, alpha = (color.value for color in colors)
            style.white = alpha == 0 or min(red, green, blue) >= 250
    angle = math.degrees(raw.FPDFText_GetCharAngle(text_page, index)) - (usual or 0)
    style.tilted = 3 < angle % 360 < 357
    style.plain = not (style.hidden or style.white or style.tilted) and style.size >= _TINY
    style.near, style.wide, style.far = 0.1 * style.size, 0.25 * style.size, 0.9 * style.size
    styles[item] = style
    return style


def _pieces(text_page, frame, result):
    count = min(raw.FPDFText_CountChars(text_page), _MAX_CHARACTERS)
    codes, object_of = _codes(text_page, count), raw.FPDFText_GetTextObject
    loose, rect = raw.FPDFText_GetLooseCharBox, raw.FS_RECTF()
    pointer, upright = ctypes.byref(rect), frame.rotation == 0
    left, top, width, height = frame.box[0], frame.box[3], result.width, result.height
    styles, tilted, last_item = {}, {}, None
    scanned = result.image_area > 0.5 * result.width * result.height
    piece, letters, space, ruled = None, [], False, bool(result.vertical)
    for index, code in enumerate(codes):
        if code in _SPACES:
            if code in (13, 10):
                piece = None
            space = True
            continue
        item = object_of(text_page, index)
        style = styles.get(item) or _style(text_page, index, item, styles, frame.angle)
        if code > 0x10FFFF or not loose(text_page, index, pointer):
            continue
        if upright:
            x0, y0, x1, y1 = rect.left - left, top - rect.top, rect.right - left, top - rect.bottom
        else:
            x0, y0, x1, y1 = frame.rect(rect.left, rect.bottom, rect.right, rect.top)
        if item == last_item and piece is not None and style.plain and 0 <= x0 and x1 <= width:
            # The next letter of the same word, as most are.
            gap = x0 - piece.rtl[1]
            if (
                -1 < gap < (style.near if ruled else style.far)
                and abs(y0 - piece.y0) < 0.5
                and 0 <= y0
                and y1 <= height
            ):
                if space or gap > style.wide:
                    letters.append(" ")
                letters.append(_SOFT.get(code) or chr(code))
                piece.x1, piece.rtl, space = max(piece.x1, x1), (x0, x1), False
                continue
        last_item = item
        if _unseen(style, x0, y0, x1, y1, scanned, result):
            continue
        if style.tilted:
            tilted.setdefault(item, []).append((" " if space else "") + chr(code))
            piece, space = None, False
            continue
        if piece is None or not _follows(piece, style, x0, y0, x1, y1, result):
            piece = Piece(x0, y0, x1, y1, style.size, style.bold, style.italic, style.mono)
            letters = []
            result.pieces.append(piece)
            piece.block = letters
        else:
            if space or _gap(piece, x0, x1) > 0.25 * style.size:
                letters.append(" ")
            piece.x0, piece.x1 = min(piece.x0, x0), max(piece.x1, x1)
            piece.y0, piece.y1 = min(piece.y0, y0), max(piece.y1, y1)
            piece.bold = piece.bold and style.bold
            piece.mono = piece.mono and style.mono
            piece.size = max(piece.size, style.size)
        letters.append(_SOFT.get(code) or chr(code))
        piece.rtl = (x0, x1)
        space = False
    result.tilted = [
        text for text in (_clean("".join(part)).strip() for part in tilted.values()) if text
    ]
    for piece in result.pieces:
        piece.text, piece.block = _clean("".join(piece.block)), None
        piece.rtl = bool(_RTL.search(piece.text))


def _codes(text_page, count):
    """The page's characters, one for each of pdfium's indices."""
    units = (ctypes.c_ushort * (count + 1))()
    if raw.FPDFText_GetText(text_page, 0, count, units) == count + 1:
        codes = units[:count]
        if not any(0xD800 <= code < 0xE000 for code in codes):
            return codes
    # pdfium leaves out what it has no character for, or a character is two units.
    codes = [raw.FPDFText_GetUnicode(text_page, index) for index in range(count)]
    for index, code in enumerate(codes):
        if 0xD800 <= code < 0xDC00 and index + 1 < count and 0xDC00 <= codes[index + 1] < 0xE000:
            codes[index + 1] = 0x10000 + ((code - 0xD800) << 10) + codes[index + 1] - 0xDC00
            codes[index] = 0
    return codes


def _gap(piece, x0, x1):
    """Between the last character of a piece and the next one, in either direction."""
    last0, last1 = piece.rtl
    return max(x0 - last1, last0 - x1, 0)


def _follows(piece, style, x0, y0, x1, y1, result):
    overlap = min(piece.y1, y1) - max(piece.y0, y0)
    if overlap < 0.4 * min(piece.y1 - piece.y0, y1 - y0):
        return False
    gap, size = _gap(piece, x0, x1), max(style.size, 4)
    if gap > 1.2 * size or (style.bold != piece.bold and gap > 0.9 * size):
        return False
    if gap > 0.1 * size and result.vertical:
        last0, last1 = piece.rtl
        left, right = min(last1, x1), max(last0, x0)
        middle = (y0 + y1) / 2
        return not any(
            left - 1 <= x <= right + 1 and top <= middle <= bottom
            for x, top, bottom in result.vertical
        )
    return True


def _unseen(style, x0, y0, x1, y1, scanned, result):
    why = None
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    if style.hidden and not scanned:
        why = "invisible"
    elif style.size < _TINY:
        why = "tiny"
    elif not (-2 <= x <= result.width + 2 and -2 <= y <= result.height + 2):
        why = "off the page"
    elif (
        style.white
        and not scanned
        and result.image_area == 0
        and not any(a <= x <= c and b <= y <= d for a, b, c, d in result.fills)
    ):
        why = "white on white"
    if why is None:
        return False
    result.hidden += 1
    result.hidden_why.add(why)
    return True


def _clean(text):
    if _FORMS.search(text):
        text = _FORMS.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text)
    text = text.replace("\uf0b7", "•").replace("\ue00c", "•")
    # pdfium takes every line as one from the left: the stop at a right-to-left line's end comes first.
    text = _RTL_STOP.sub(r"\2\1", text)
    return "".join(c for c in text if c >= " " or c in "\t\n")
