"""The golden set: what a reader of a document should see, and a score for us and for a peer.

Counted are sentences (in their order), headings (as Markdown headings), cells (in their row, in their
order) and items of lists. The peer is markitdown, in a Python of its own, outside of any image."""

import os
import re
import subprocess
import tempfile

import makers as m

# The share that must be right, of work.md's acceptance.
LEAST = {"sentences": 0.99, "headings": 0.90, "cells": 0.95, "items": 0.90}
WORDS = (
    "The committee met on Monday. It approved the budget for the coming year. Nobody objected to the plan. "
    "A second reading is due in March. The minutes were taken by the clerk."
)


class Golden:
    def __init__(self, name, data, sentences=(), headings=(), rows=(), items=(), via=None):
        self.name, self.data, self.via = name, data, via
        self.sentences, self.headings, self.rows, self.items = sentences, headings, rows, items


def _two_columns(title=None, footer=None, lines=14):
    pdf = m.Pdf()
    left = [f"Left column line {n} speaks of the river and its" for n in range(lines)]
    right = [f"Right column line {n} speaks of the hill and its" for n in range(lines)]
    top = 700
    if title:
        pdf.text(72, 740, 20, title, "F2")
    # As many programs write it: line by line, over both columns.
    for number, (a, b) in enumerate(zip(left, right)):
        pdf.text(60, top - 14 * number, 10, a)
        pdf.text(320, top - 14 * number, 10, b)
    if footer:
        pdf.text(60, top - 14 * lines - 40, 10, footer)
    return pdf.data(), left + right + ([footer] if footer else [])


def _prose(pdf, x, y, size, width=80):
    words, line, out = WORDS.split(), "", []
    for word in words:
        if len(line) + len(word) > width:
            out.append(line.strip())
            line = ""
        line += word + " "
    out.append(line.strip())
    return pdf.lines(x, y, size, out)


def _sentences():
    return [part.strip() + "." for part in WORDS.split(".") if part.strip()]


def _pdfs():
    rows = [
        ["Name", "Amount", "Note"],
        ["Apples", "12", "fresh"],
        ["Pears", "7", "ripe | soft"],
        ["Plums", "104", "late"],
    ]
    pdf = m.Pdf()
    pdf.text(72, 720, 22, "Annual Report", "F2")
    _prose(pdf, 72, 690, 11)
    pdf.text(72, 580, 16, "Results", "F2")
    pdf.grid(72, 560, [120, 80, 120], 20, rows)
    _prose(pdf, 72, 450, 11)
    yield Golden(
        "report.pdf", pdf.data(), _sentences() + _sentences(), ["Annual Report", "Results"], rows
    )

    data, lines = _two_columns("Two Columns")
    yield Golden("columns.pdf", data, lines, ["Two Columns"])
    data, lines = _two_columns(
        None, "A footer that runs over the whole width of the page, for all to see and read."
    )
    yield Golden("columns-footer.pdf", data, lines)

    pdf = m.Pdf()
    pdf.text(72, 720, 18, "List", "F2")
    for number, item in enumerate(["first thing to do", "second thing to do", "third thing to do"]):
        pdf.text(90, 690 - 18 * number, 11, "\u2022 " + item)
    for number, item in enumerate(["open the lid", "pour the water"], 1):
        pdf.text(90, 600 - 18 * number, 11, f"{number}. {item}")
    yield Golden(
        "list.pdf",
        pdf.data(),
        headings=["List"],
        items=[
            "first thing to do",
            "second thing to do",
            "third thing to do",
            "open the lid",
            "pour the water",
        ],
    )

    pdf = m.Pdf()
    _prose(pdf, 72, 720, 11)
    yield Golden("rotated.pdf", pdf.data(rotate=90), _sentences())

    pdf = m.Pdf()
    pdf.lines(
        72,
        720,
        11,
        [
            "The word is hyphen-",
            "ated at the end of its line, as in every newspa-",
            "per of the town.",
        ],
    )
    yield Golden(
        "hyphen.pdf",
        pdf.data(),
        ["The word is hyphenated at the end of its line, as in every newspaper of the town."],
    )

    pdf = m.Pdf()
    for number in range(3):
        if number:
            pdf.page()
        pdf.text(72, 720, 18, f"Chapter {number + 1}", "F2")
        _prose(pdf, 72, 690, 11)
    yield Golden(
        "chapters.pdf", pdf.data(), _sentences() * 3, ["Chapter 1", "Chapter 2", "Chapter 3"]
    )

    plain = [
        ["City", "2019", "2020"],
        ["Rome", "12.5", "13.1"],
        ["Oslo", "8.4", "9.0"],
        ["Bonn", "3.2", "2.9"],
    ]
    pdf = m.Pdf()
    _prose(pdf, 72, 720, 11)
    for r, row in enumerate(plain):
        for x, cell in zip((72, 250, 350), row):
            pdf.text(x, 580 - 16 * r, 11, cell)
    _prose(pdf, 72, 480, 11)
    yield Golden("aligned.pdf", pdf.data(), _sentences() * 2, rows=plain)

    wide = [["Region", "Q1", "Q2", "Q3", "Q4"]] + [
        [f"Region {n}", *(str(n * 10 + q) for q in range(4))] for n in range(12)
    ]
    pdf = m.Pdf()
    pdf.grid(60, 740, [120, 80, 80, 80, 80], 18, wide)
    yield Golden("grid.pdf", pdf.data(), rows=wide)

    pdf = m.Pdf()
    pdf.text(72, 720, 16, "Code", "F2")
    pdf.lines(72, 690, 10, ["def f(x):", "    return x + 1"], "F3")
    _prose(pdf, 72, 630, 11)
    yield Golden("code.pdf", pdf.data(), ["def f(x):", "return x + 1"] + _sentences(), ["Code"])

    pdf = m.Pdf()
    pdf.text(72, 740, 20, "Mixed", "F2")
    _prose(pdf, 72, 715, 10, 95)
    for number in range(10):
        pdf.text(60, 620 - 13 * number, 10, f"West side row {number} tells about the ships that")
        pdf.text(320, 620 - 13 * number, 10, f"East side row {number} tells about the carts that")
    pdf.grid(72, 470, [100, 100], 18, [["K", "V"], ["a", "1"], ["b", "2"]])
    yield Golden(
        "mixed.pdf",
        pdf.data(),
        _sentences()
        + [f"West side row {n} tells about the ships that" for n in range(10)]
        + [f"East side row {n} tells about the carts that" for n in range(10)],
        ["Mixed"],
        [["K", "V"], ["a", "1"], ["b", "2"]],
    )


def _offices():
    rows = [["Name", "Amount"], ["Käse | Brot", "12"], ["Wein\u00a0rot", "7"]]
    body = (
        m.paragraph("Title One", "Heading1")
        + "".join(m.paragraph(s) for s in _sentences())
        + m.paragraph("Part Two", "Heading2")
        + m.table(rows)
        + "".join(m.paragraph(t, number=(1, 0)) for t in ("alpha item", "beta item"))
        + m.paragraph("nested item", number=(1, 1))
        + "".join(m.paragraph(t, number=(2, 0)) for t in ("step one", "step two"))
    )
    items = ["alpha item", "beta item", "nested item", "step one", "step two"]
    data = m.docx(body)
    flat = [[cell.replace("\u00a0", " ") for cell in row] for row in rows]
    yield Golden("full.docx", data, _sentences(), ["Title One", "Part Two"], flat, items)
    yield Golden(
        "full-docx.pdf",
        data,
        _sentences(),
        ["Title One", "Part Two"],
        flat,
        items,
        via=("full.docx", "pdf"),
    )
    yield Golden(
        "full-docx.odt",
        data,
        _sentences(),
        ["Title One", "Part Two"],
        flat,
        items,
        via=("full.docx", "odt"),
    )
    yield Golden("full-docx.rtf", data, _sentences(), [], flat, items, via=("full.docx", "rtf"))
    note = '<w:p><w:r><w:t>Text with a note</w:t></w:r><w:r><w:footnoteReference w:id="2"/></w:r></w:p>'
    notes = (
        '<?xml version="1.0"?><w:footnotes xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
        f'<w:footnote w:id="2">{m.paragraph("The note itself is here.")}</w:footnote></w:footnotes>'
    )
    yield Golden(
        "notes.docx",
        m.docx(note, extra=[("word/footnotes.xml", notes)], links=[("footnotes", "footnotes.xml")]),
        ["Text with a note", "The note itself is here."],
    )
    russian = ["Первое предложение здесь.", "Второе предложение тоже."]
    cyrillic = m.docx(
        m.paragraph("Отчёт", "Heading1")
        + "".join(map(m.paragraph, russian))
        + m.table([["Имя", "Сумма"], ["Яблоки", "12"]])
    )
    yield Golden("russian.docx", cyrillic, russian, ["Отчёт"], [["Имя", "Сумма"], ["Яблоки", "12"]])
    yield Golden(
        "russian-docx.pdf",
        cyrillic,
        russian,
        ["Отчёт"],
        [["Имя", "Сумма"], ["Яблоки", "12"]],
        via=("russian.docx", "pdf"),
    )
    chinese = m.docx(
        m.paragraph("报告", "Heading1")
        + m.paragraph("这份合同有效期为一年。")
        + m.table([["名称", "金额"], ["苹果", "12"]])
    )
    yield Golden(
        "chinese-docx.pdf",
        chinese,
        ["这份合同有效期为一年。"],
        ["报告"],
        [["名称", "金额"], ["苹果", "12"]],
        via=("chinese.docx", "pdf"),
    )
    sheet = [["Item", "Count", "Good"], ["bolt", 12, True], ["nut", 2.5, False]]
    text = [["Item", "Count", "Good"], ["bolt", "12", "TRUE"], ["nut", "2.5", "FALSE"]]
    yield Golden("sheet.xlsx", m.xlsx(sheet, "Stock"), headings=["Sheet1"], rows=text)
    yield Golden(
        "sheet.ods",
        m.ods([["Item", "Count"], ["bolt", 12]]),
        headings=["Sheet1"],
        rows=[["Item", "Count"], ["bolt", "12"]],
    )
    yield Golden(
        "sheet.csv",
        b'Item;Count\nbolt;12\n"a;b";3\n',
        rows=[["Item", "Count"], ["bolt", "12"], ["a;b", "3"]],
    )
    yield Golden(
        "slides.pptx",
        m.pptx("The Plan", ["first goal", "second goal"]),
        headings=["The Plan"],
        items=["first goal", "second goal"],
    )


def _markup():
    page = (
        "<html><head><title>t</title><style>p{}</style></head><body><h1>Main</h1><p>"
        + WORDS.replace(". ", ".</p><p>", 2)
        + "</p><h2>Sub</h2><ul><li>one thing</li><li>two things<ul><li>deep thing</li></ul></li></ul><ol><li>go</li></ol><table><tr><th>A</th>"
        "<th>B</th></tr><tr><td>x|y</td><td>1</td></tr></table><script>var x</script></body></html>"
    ).encode()
    yield Golden(
        "page.html",
        page,
        _sentences(),
        ["Main", "Sub"],
        [["A", "B"], ["x|y", "1"]],
        ["one thing", "two things", "deep thing", "go"],
    )
    yield Golden("book.epub", m.epub("The Book", _sentences()), _sentences(), ["The Book"])
    mail = m.eml(
        "The Subject",
        "plain",
        html=f"<h2>Offer</h2><p>{WORDS}</p><table><tr><td>k</td><td>v</td></tr></table>",
    )
    yield Golden("mail.eml", mail, _sentences(), ["The Subject", "Offer"], [["k", "v"]])
    yield Golden("mail.msg", m.msg("The Subject", WORDS), _sentences(), ["The Subject"])
    yield Golden(
        "notes.md",
        f"# Top\n\n{WORDS}\n\n- point a\n- point b\n\n| a | b |\n|---|---|\n| 1 | x\\|y |\n".encode(),
        _sentences(),
        ["Top"],
        [["a", "b"], ["1", "x|y"]],
        ["point a", "point b"],
    )


def documents():
    yield from _pdfs()
    yield from _offices()
    yield from _markup()


def _plain(line):
    """A line of Markdown without its marks."""
    return re.sub(r"\\([\\`*_\[\]<>#|&+\-.])", r"\1", re.sub(r"\*\*|__|~~", "", line)).strip()


def _rows(markdown):
    out = []
    for line in markdown.splitlines():
        if line.strip().startswith("|"):
            out.append(
                [
                    " ".join(_plain(cell).split())
                    for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]
                ]
            )
    return out


def score(golden, markdown):
    """(right, wanted) for each of the four measures."""
    flat = _plain(" ".join(markdown.split()))
    at, sentences = 0, 0
    for sentence in golden.sentences:
        found = flat.find(" ".join(sentence.split()), at)
        if found >= 0:
            sentences, at = sentences + 1, found + len(sentence)
    lines = markdown.splitlines()
    headings = [_plain(line.lstrip("#")) for line in lines if line.startswith("#")]
    items = [
        _plain(re.sub(r"^\s*([-*+•]|\d+[.)])\s+", "", line))
        for line in lines
        if re.match(r"\s*([-*+•]|\d+[.)])\s", line)
    ]
    cells, rows = 0, _rows(markdown)
    for row in golden.rows:
        best = max((sum(a == b for a, b in zip(row, other)) for other in rows), default=0)
        cells += best
    return {
        "sentences": (sentences, len(golden.sentences)),
        "headings": (sum(1 for h in golden.headings if h in headings), len(golden.headings)),
        "cells": (cells, sum(len(row) for row in golden.rows)),
        "items": (sum(1 for item in golden.items if item in items), len(golden.items)),
    }


_PEER = r"""
import json, sys
from markitdown import MarkItDown
reader, out = MarkItDown(), {}
for path in sys.argv[1:]:
    try:
        out[path] = reader.convert(path).text_content
    except Exception as error:
        out[path] = ""
print(json.dumps(out))
"""


def peer_texts(python, items):
    import json

    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for golden, data in items:
            paths.append(os.path.join(folder, golden.name))
            with open(paths[-1], "wb") as file:
                file.write(data)
        said = subprocess.run([python, "-c", _PEER, *paths], capture_output=True, check=True).stdout
        texts = json.loads(said.splitlines()[-1])
        return [texts[path] for path in paths]


def check(runner, report, peer=None):
    """Reads all of it, prints the scores, and checks the shares of LEAST."""
    goldens = list(documents())
    made = iter(
        runner.execute_many(
            [
                ({"operation": "convert", "to": g.via[1]}, [(g.via[0], g.data)], 120)
                for g in goldens
                if g.via
            ]
        )
    )
    items = [(g, next(made).files[f"converted.{g.via[1]}"] if g.via else g.data) for g in goldens]
    ends = runner.execute_many(
        [({"operation": "markdown"}, [(g.name, data)], 120) for g, data in items]
    )
    texts = [ended.text() for ended in ends]
    ours = [score(g, text) for g, text in zip(goldens, texts)]
    theirs = [score(g, text) for g, text in zip(goldens, peer_texts(peer, items))] if peer else None
    for golden, one, text in zip(goldens, ours, texts):
        worst = [f"{name} {a}/{b}" for name, (a, b) in one.items() if a < b]
        if worst:
            print(f"  {golden.name}: {', '.join(worst)}")
            if os.environ.get("GOLDEN_SHOW"):
                print(text)
    for name, least in LEAST.items():
        right, wanted = (sum(one[name][place] for one in ours) for place in (0, 1))
        line = f"{name:10} {right / wanted:6.1%} of {wanted}"
        if theirs:
            line += f"   markitdown {sum(one[name][0] for one in theirs) / wanted:6.1%}"
        print(line)
        report.check(
            f"golden {name}",
            [f"{right / wanted:.1%}, at least {least:.0%}"] if right / wanted < least else [],
        )
    times = sorted((ended.seconds, g.name) for g, ended in zip(goldens, ends))
    print(
        f"{len(goldens)} documents; median {times[len(times) // 2][0] * 1000:.0f} ms, slowest {times[-1][1]} {times[-1][0] * 1000:.0f} ms"
    )
