"""EML and MSG: headers, the body, attachments as files, messages in messages."""

import email
import email.header
import email.policy
import email.utils
import re

from ..blocks import Block
from ..events import Failure
from . import markup

_HEADERS = ("From", "To", "Cc", "Date")
_HEADER_BYTES = 4096
_MAX_PARTS = 1000
_MAX_DEPTH = 40


class Message:
    """What is shown of a message, whatever file it came from."""

    def __init__(self):
        self.headers, self.subject, self.plain, self.html = {}, "", None, None
        self.attachments, self.messages = [], []


class Attachment:
    def __init__(self, name, type, data):
        self.name, self.type, self.data = clean_name(name), type, data


def clean_name(name):
    """A name to be shown: one line, no directory, no mark that turns the reading direction."""
    name = re.sub(r"[\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]", "", name or "")
    return name.replace("\\", "/").rsplit("/", 1)[-1][:255] or "unnamed"


def _decoded(value):
    """A header's text; what is not decodable stays as it is."""
    if value is None:
        return ""
    text = str(value)[:_HEADER_BYTES]
    try:
        text = str(email.header.make_header(email.header.decode_header(text)))
    except (ValueError, LookupError, UnicodeError, email.errors.HeaderParseError):
        pass
    return " ".join(text.split())


def _content(part):
    data = part.get_payload(decode=True) or b""
    charset = part.get_content_charset() or "utf-8"
    try:
        return data.decode(charset, "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def parse_eml(data, limits, depth=0):
    """A Message from bytes; deep nesting is refused before the parser recurses into it."""
    if len(re.findall(rb"(?im)^content-type:\s*multipart/", data)) > _MAX_PARTS // 4:
        raise Failure("expansion_limit", "the message has too many multiparts")
    try:
        parsed = email.message_from_bytes(data, policy=email.policy.compat32)
    except RecursionError:
        raise Failure("expansion_limit", "the message nests too deep")
    return _message(parsed, limits, depth)


def _message(parsed, limits, depth):
    out = Message()
    out.subject = _decoded(parsed.get("Subject"))
    for name in _HEADERS:
        text = _decoded(parsed.get(name))
        if text:
            out.headers[name] = text
    count = [0]
    _walk(parsed, out, limits, depth, 0, count)
    return out


def _walk(part, out, limits, depth, level, count):
    count[0] += 1
    if count[0] > _MAX_PARTS or level > _MAX_DEPTH:
        raise Failure(
            "expansion_limit", f"the message has more than {_MAX_PARTS} parts or nests too deep"
        )
    kind = part.get_content_type()
    if kind == "message/rfc822" and part.is_multipart():
        if depth + 1 > limits.mail_nesting:
            raise Failure(
                "expansion_limit", f"messages are nested deeper than {limits.mail_nesting}"
            )
        out.messages.append(_message(part.get_payload(0), limits, depth + 1))
        return
    if part.is_multipart():
        for child in part.get_payload():
            _walk(child, out, limits, depth, level + 1, count)
        return
    name = part.get_filename()
    attached = part.get_content_disposition() == "attachment" or name is not None
    if not attached and kind == "text/plain":
        out.plain = (out.plain + "\n\n" if out.plain else "") + _content(part)
    elif not attached and kind == "text/html" and out.html is None:
        out.html = _content(part)
    elif attached or not kind.startswith("text/"):
        data = part.get_payload(decode=True) or b""
        out.attachments.append(
            Attachment(_decoded(name) if name else f"{kind.replace('/', '.')}", kind, data)
        )


class _Msg:
    """The properties of an Outlook message, in one storage of its file."""

    def __init__(self, ole, prefix, top):
        self.ole, self.prefix, self.top = ole, prefix, top

    def data(self, tag):
        path = self.prefix + [f"__substg1.0_{tag}"]
        return self.ole.openstream(path).read() if self.ole.exists(path) else None

    def text(self, tag):
        data = self.data(tag + "001F")
        if data is not None:
            return data.decode("utf-16-le", "replace").rstrip("\0")
        data = self.data(tag + "001E")
        return data.decode("cp1252", "replace").rstrip("\0") if data is not None else ""

    def date(self):
        """The time at which it was sent, from the fixed properties."""
        path = self.prefix + ["__properties_version1.0"]
        if not self.ole.exists(path):
            return ""
        data = self.ole.openstream(path).read()
        head = 32 if self.top else 24
        for at in range(head, len(data) - 15, 16):
            if int.from_bytes(data[at : at + 4], "little") in (0x00390040, 0x0E060040):
                import datetime

                ticks = int.from_bytes(data[at + 8 : at + 16], "little")
                try:
                    moment = datetime.datetime(1601, 1, 1) + datetime.timedelta(
                        microseconds=ticks // 10
                    )
                except OverflowError:
                    return ""
                return moment.isoformat(timespec="seconds") + "Z"
        return ""


def parse_msg(path, limits):
    import olefile

    with olefile.OleFileIO(path) as ole:
        return _msg(ole, [], limits, 0)


def _msg(ole, prefix, limits, depth):
    if depth > limits.mail_nesting:
        raise Failure("expansion_limit", f"messages are nested deeper than {limits.mail_nesting}")
    item, out = _Msg(ole, prefix, not prefix), Message()
    out.subject = item.text("0037")
    address = item.text("5D01") or item.text("0C1F")
    sender = item.text("0C1A")
    out.headers = {
        "From": f"{sender} <{address}>" if address and address != sender else sender,
        "To": item.text("0E04"),
        "Cc": item.text("0E03"),
        "Date": item.date(),
    }
    out.headers = {key: " ".join(value.split()) for key, value in out.headers.items() if value}
    out.plain = item.text("1000") or None
    markup_bytes = item.data("10130102")
    out.html = (
        markup_bytes.decode("utf-8", "replace") if markup_bytes else item.text("1013") or None
    )
    names = sorted(
        {
            entry[len(prefix)]
            for entry in ole.listdir(streams=True, storages=True)
            if len(entry) > len(prefix)
            and entry[: len(prefix)] == prefix
            and entry[len(prefix)].startswith("__attach_version1.0_")
        }
    )
    for name in names[:_MAX_PARTS]:
        attached = _Msg(ole, prefix + [name], False)
        inner = prefix + [name, "__substg1.0_3701000D"]
        if ole.exists(inner):
            out.messages.append(_msg(ole, inner, limits, depth + 1))
            continue
        data = attached.data("37010102") or b""
        kind = attached.text("370E") or "application/octet-stream"
        out.attachments.append(
            Attachment(attached.text("3707") or attached.text("3704"), kind, data)
        )
    return out


def message_of(job, path, kind):
    if kind == "msg":
        return parse_msg(path, job.limits)
    with open(path, "rb") as file:
        return parse_eml(file.read(), job.limits)


def read(job, path, kind):
    """The message's blocks; attachments are listed, and files if they were asked for."""
    message = message_of(job, path, kind)
    blocks = list(_blocks(message, job, 1))
    return blocks, None


def _blocks(message, job, level):
    if message.subject:
        yield Block("heading", message.subject, level=level)
    lines = [f"{name}: {value}" for name, value in message.headers.items()]
    if lines:
        yield Block("paragraph", "\n".join(lines))
    wants_html = job.operation != "text" or job.to == "md"
    if message.html and (wants_html or not (message.plain or "").strip()):
        for block in markup.read_html(message.html, job.events):
            if block.type == "heading":
                block.level = min(block.level + level, 6)
            yield block
    elif message.plain:
        yield from markup.read_plain(message.plain)
    for attachment in message.attachments:
        job.attach(attachment.name, attachment.type, attachment.data)
    for inner in message.messages:
        yield from _blocks(inner, job, min(level + 1, 6))
