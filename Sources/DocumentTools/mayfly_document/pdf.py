"""PDF pages as pdfium sees them: pieces of lines with their boxes and fonts, rules, images."""
import ctypes
import re
import unicodedata

import pypdfium2
import pypdfium2.raw as raw

from .events import Failure

# As addresses, so that a text object is a key.
raw.FPDFText_GetTextObject.restype = ctypes.c_void_p

_MAX_CHARACTERS = 400_000
_MAX_OBJECTS = 20_000
_TINY = 1.5
_RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_FORMS = re.compile("[\ufb00-\ufb06\ufb50-\ufdff\ufe70-\ufefc]")
_LETTER = re.compile(r"[^\W\d_]")
_ITALIC, _MONO, _FORCE_BOLD = 1 << 6, 1, 1 << 18


class Piece:
    """A part of a line without a wide gap; y grows downwards from the page's top."""

    __slots__ = ("text", "x0", "y0", "x1", "y1", "size", "bold", "italic", "mono", "block", "rtl")

    def __init__(self, x0, y0, x1, y1, size=0, bold=False, italic=False, mono=False, text="", block=None):
        self.x0, self.y0, self.x1, self.y1 = x0, y0, x1, y1
        self.size, self.bold, self.italic, self.mono = size, bold, italic, mono
        self.text, self.block, self.rtl = text, block, False


class Page:
    """What was found on one page; lengths in points."""

    def __init__(self, number, width, height):
        self.number, self.width, self.height = number, width, height
        self.pieces, self.horizontal, self.vertical, self.fills = [], [], [], []
        self.image_area, self.hidden, self.hidden_why = 0.0, 0, set()

    @property
    def has_text(self):
        return any(piece.text.strip() for piece in self.pieces)


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

    def __init__(self, page):
        left, bottom, right, top = page.get_bbox()
        self.box, self.rotation = (left, bottom, right, top), page.get_rotation()
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


def read_page(document, index):
    """Page `index` (from 0); None for one that pdfium cannot load."""
    try:
        page = document[index]
    except pypdfium2.PdfiumError:
        return None
    frame = _Frame(page)
    result = Page(index + 1, frame.width, frame.height)
    text_page = None
    try:
        _objects(page.raw, frame, result)
        text_page = raw.FPDFText_LoadPage(page.raw)
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
                    (round(matrix.a, 3), round(matrix.b, 3), round(matrix.c, 3), round(matrix.d, 3),
                     round(matrix.e, 3), round(matrix.f, 3)) == (1, 0, 0, 1, 0, 0)
                )
                if plain:
                    walk(raw.FPDFFormObj_CountObjects(item),
                         lambda n, form=item: raw.FPDFFormObj_GetObject(form, n), depth + 1)
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
    __slots__ = ("size", "bold", "italic", "mono", "hidden", "white", "angle")


def _style(text_page, index, item, styles):
    style = _Style()
    matrix = raw.FS_MATRIX()
    size = raw.FPDFText_GetFontSize(text_page, index)
    if raw.FPDFText_GetMatrix(text_page, index, matrix):
        size *= (matrix.b * matrix.b + matrix.d * matrix.d) ** 0.5 or (
            matrix.a * matrix.a + matrix.c * matrix.c) ** 0.5
    style.size = size
    flags = ctypes.c_int()
    name = ctypes.create_string_buffer(128)
    raw.FPDFText_GetFontInfo(text_page, index, name, 128, flags)
    word = name.value.decode("utf-8", "replace").lower()
    weight = raw.FPDFText_GetFontWeight(text_page, index)
    style.bold = bool(flags.value & _FORCE_BOLD) or weight >= 600 or bool(
        re.search(r"bold|black|heavy|semibold|cmbx", word))
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
    style.angle = raw.FPDFText_GetCharAngle(text_page, index)
    styles[item] = style
    return style


def _pieces(text_page, frame, result):
    count = min(raw.FPDFText_CountChars(text_page), _MAX_CHARACTERS)
    unicode_of, object_of = raw.FPDFText_GetUnicode, raw.FPDFText_GetTextObject
    loose, rect = raw.FPDFText_GetLooseCharBox, raw.FS_RECTF()
    pointer = ctypes.byref(rect)
    styles, scanned = {}, result.image_area > 0.5 * result.width * result.height
    piece, letters, space, high = None, [], False, 0
    for index in range(count):
        code = unicode_of(text_page, index)
        if code in (13, 10, 32, 160, 9) or code == 0:
            if code in (13, 10):
                piece = None
            space = True
            continue
        if 0xD800 <= code < 0xDC00:
            high = code
            continue
        if 0xDC00 <= code < 0xE000 and high:
            code, high = 0x10000 + ((high - 0xD800) << 10) + code - 0xDC00, 0
        item = object_of(text_page, index)
        style = styles.get(item) or _style(text_page, index, item, styles)
        if not loose(text_page, index, pointer):
            continue
        x0, y0, x1, y1 = frame.rect(rect.left, rect.bottom, rect.right, rect.top)
        if _unseen(style, x0, y0, x1, y1, scanned, result):
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
        # What pdfium makes of a hyphen at a line's end.
        letters.append("\u00ad" if code in (2, 0xFFFE) else chr(code))
        piece.rtl = (x0, x1)
        space = False
    for piece in result.pieces:
        piece.text, piece.block = _clean("".join(piece.block)), None
        piece.rtl = bool(_RTL.search(piece.text))


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
    elif style.white and not scanned and result.image_area == 0 and not any(
        a <= x <= c and b <= y <= d for a, b, c, d in result.fills
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
    return "".join(c for c in text if c >= " " or c in "\t\n")
