"""The `value` of text, Markdown and tables: what stands in it, and what becomes a file."""

import json
import os

from . import blocks as writing
from .events import PAGE_TEXT_BYTES

BLOCKS_BYTES = 128 << 10
TABLES_BYTES = 192 << 10


class Text:
    """Collects pages as they come: events, the file with the whole, the inline text."""

    def __init__(self, job, as_markdown):
        self.job, self.as_markdown = job, as_markdown
        self.render = writing.markdown if as_markdown else writing.text
        self.name = "text.md" if as_markdown else "text.txt"
        self.file = open(job.output(self.name), "w", encoding="utf-8", errors="replace")
        self.inline, self.size, self.whole, self.cut = [], 0, 0, False
        self.event_size, self.per_page, self.blocks, self.tables = 0, [], [], []

    def add(self, number, page_blocks, width=None, height=None, source="text", confidence=None):
        """A page, or with `number` None a part of a document that has no pages."""
        content = self.render(page_blocks)
        size = len(content.encode("utf-8", "replace"))
        if content:
            if self.whole:
                self.file.write("\n\n")
            self.file.write(content)
            self.whole += size + 2
        if not self.cut and self.size + size + 2 <= self.job.limits.inline_text:
            if content:
                self.inline.append(content)
                self.size += size + 2
        else:
            self._cut(number, content)
        if self.job.request.get("layout"):
            self.blocks += [block.described() for block in page_blocks]
        if number is None:
            return
        entry = {"page": number, "text": content, "source": source}
        if width is not None:
            entry.update(width=round(width, 1), height=round(height, 1))
        if confidence is not None:
            entry["confidence"] = round(confidence, 3)
        self.per_page.append(entry)
        self._event(entry, size)

    def _event(self, entry, size):
        if self.event_size + size > PAGE_TEXT_BYTES:
            entry = {**entry, "text": None}
        else:
            self.event_size += size
        self.job.events.page(entry)

    def _cut(self, number, content):
        """The first page that does not fit ends the inline text; a huge first one is cut itself."""
        if not self.cut and not self.inline:
            limit = self.job.limits.inline_text
            text = content.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")
            border = text.rfind("\n\n")
            self.inline.append(text[:border] if border > limit // 2 else text)
        self.cut = True

    def value(self, count):
        self.file.close()
        out = {"pages": count, "pages_done": [entry["page"] for entry in self.per_page]}
        out["text"] = "\n\n".join(self.inline)
        out["text_file"] = self.name if self.cut else None
        if not self.cut:
            os.unlink(self.file.name)
        if self.per_page and self.job.request.get("per_page", True):
            out["per_page"] = self._bounded_pages()
        if self.job.request.get("layout"):
            out.update(bounded(self.job, "blocks", self.blocks, BLOCKS_BYTES))
        return out

    def _bounded_pages(self):
        size, out = 0, []
        for entry in self.per_page:
            size += len(entry["text"].encode("utf-8", "replace"))
            out.append(entry if size <= self.job.limits.inline_text else {**entry, "text": None})
        return out


def bounded(job, name, items, limit):
    """A list in the value as far as it fits; else its whole is a file beside it."""
    encoded = [json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in items]
    size = 0
    for number, text in enumerate(encoded):
        size += len(text.encode("utf-8", "replace"))
        if size > limit:
            with open(job.output(f"{name}.json"), "w", encoding="utf-8", errors="replace") as file:
                file.write("[" + ",\n".join(encoded) + "]\n")
            return {name: items[:number], f"{name}_file": f"{name}.json"}
    return {name: items}
