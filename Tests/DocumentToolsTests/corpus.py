"""Documents of every type in every direction of writing, what must be read in them, and round trips."""

import makers as m

SENTENCES = {
    "latin": [
        "Größe und Maß stehen im Vertrag.",
        "L'été dernier, naïve façon.",
        "Zażółć gęślą jaźń.",
    ],
    "cyrillic": [
        "Быстрая лиса прыгает через собаку.",
        "Съешь ещё этих мягких булок.",
        "Їжак і ґава.",
    ],
    "arabic": ["مرحبا بالعالم في هذا النص.", "العقد صالح لمدة سنة واحدة.", "السعر مئة دينار."],
    "cjk": ["这份合同有效期为一年。", "東京は日本の首都です。", "계약은 일 년 동안 유효합니다."],
    "emoji": ["Launch 🚀 was fine.", "Status ✅ and ⚠️ seen.", "Family 👩‍👩‍👧 stays."],
}
HEADING = {
    "latin": "Überschrift",
    "cyrillic": "Заголовок",
    "arabic": "عنوان",
    "cjk": "标题",
    "emoji": "Head 🎉",
}


def documents():
    """(name, bytes, texts that must be in it, in this order), for each type and script."""
    for script, lines in SENTENCES.items():
        head = HEADING[script]
        rows = [[head, "n"], [lines[0], 1], [lines[1], 2.5]]
        body = m.paragraph(head, "Heading1") + "".join(m.paragraph(line) for line in lines)
        page = "".join(f"<p>{line}</p>" for line in lines)
        everything = [head, *lines]
        yield f"{script}.docx", m.docx(body), everything
        yield f"{script}.odt", m.odt(head, lines), everything
        yield f"{script}.pptx", m.pptx(head, lines), everything
        yield f"{script}.odp", m.odp(head, lines), everything
        yield f"{script}.epub", m.epub(head, lines), everything
        yield f"{script}.xlsx", m.xlsx(rows), [head, lines[0], "1", lines[1], "2.5"]
        yield f"{script}.ods", m.ods(rows), [head, lines[0], "1", lines[1], "2.5"]
        yield (
            f"{script}.csv",
            ("".join(f'"{a}",{b}\n' for a, b in rows)).encode(),
            [head, lines[0], lines[1]],
        )
        yield (
            f"{script}.html",
            f"<html><head><title>t</title></head><body><h1>{head}</h1>{page}</body></html>".encode(),
            everything,
        )
        yield (
            f"{script}.md",
            f"# {head}\n\n{chr(10).join(line + chr(10) for line in lines)}".encode(),
            everything,
        )
        yield (
            f"{script}.txt",
            "\n\n".join(everything).encode("utf-16" if script == "cjk" else "utf-8"),
            everything,
        )
        yield f"{script}.rtf", m.rtf(everything), everything
        yield f"{script}.eml", m.eml(head, "\n\n".join(lines)), everything
        yield f"{script}.msg", m.msg(head, "\n\n".join(lines)), everything
    for name in ("plain.doc", "plain.ppt", "plain.xls"):
        yield name, m.fixture(name), ["Warm"]
    yield (
        "latin1.txt",
        "Größe und Maß, naïve façon, Ärger über Öl.".encode("cp1252"),
        ["Größe und Maß"],
    )
    yield (
        "old.html",
        "<html><head><meta charset=windows-1251></head><body>Привет мир</body></html>".encode(
            "cp1251"
        ),
        ["Привет мир"],
    )
    yield "fodt.fodt", m.fodt("<text:p>Flat text</text:p>"), ["Flat text"]
    pdf = m.Pdf()
    pdf.text(72, 700, 12, "Naïve façon, Größe.")
    yield "latin.pdf", pdf.data(), ["Naïve façon, Größe."]


# (from, to): the text must survive the conversion and the reading of what it made.
ROUND_TRIPS = [
    ("docx", "pdf"),
    ("docx", "odt"),
    ("docx", "rtf"),
    ("docx", "md"),
    ("docx", "html"),
    ("docx", "txt"),
    ("odt", "docx"),
    ("odt", "pdf"),
    ("rtf", "docx"),
    ("pptx", "pdf"),
    ("odp", "pptx"),
    ("pptx", "odp"),
    ("xlsx", "ods"),
    ("ods", "xlsx"),
    ("xlsx", "csv"),
    ("xlsx", "pdf"),
    ("csv", "xlsx"),
    ("md", "docx"),
    ("md", "odt"),
    ("md", "html"),
    ("md", "pdf"),
    ("html", "md"),
    ("html", "docx"),
    ("epub", "md"),
    ("epub", "pdf"),
    ("eml", "pdf"),
    ("txt", "pdf"),
    ("txt", "docx"),
    ("msg", "md"),
    ("html", "pdf"),
]
