# Values, displays and exceptions of a program as data: what notebooks show of an object. Used by
# _mayfly_program.py, in programs that have events. Everything of a program's own is called in Guard only.
import builtins
import os
import sys

import _mayfly_program as program
from _mayfly_program import SIMPLE, TEXT, Unfit, cut, quote
from _mayfly_values import attempt, describe, as_json, table

# A chart with more pixels, or a longer side, is drawn with so many pixels: with fewer dots an inch, as
# long as those draw letters, and on less paper beyond that.
PIXELS = 16_000_000
SIDE = 16_384
SCALED = 4_000_000
DOTS = 20
SHOWS = 100
FILES = 50
DRAWING_SECONDS = 30
# MIME types that objects know, by the method that answers them; files by their ending.
METHODS = (
    ("image/png", "_repr_png_"), ("image/jpeg", "_repr_jpeg_"), ("image/svg+xml", "_repr_svg_"),
    ("text/html", "_repr_html_"), ("text/markdown", "_repr_markdown_"),
    ("text/latex", "_repr_latex_"), ("application/json", "_repr_json_"),
)
ENDINGS = {
    "image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg", "text/html": "html",
    "text/markdown": "md", "text/latex": "tex", "text/plain": "txt", "application/pdf": "pdf",
}
IMAGES = ("image/png", "image/jpeg", "image/svg+xml", "application/pdf")

directory = "/work"
shows = 0
files = 0
dropped = 0
number = 0
last_shown = None


# MARK: Forms


def forms(value):
    """What the object knows to show itself as: MIME types with text, bytes or JSON text."""
    found = {}
    kind = type(value)
    if kind in SIMPLE or kind in (list, tuple, dict, set) or isinstance(value, type):
        return found
    for mime, name in METHODS:
        # Of the class: an object that answers to every name has none of these.
        method = getattr(kind, name, None)
        if method is None:
            continue
        try:
            data = attempt(method, value)
            if type(data) is tuple and data:
                data = data[0]
            if mime == "application/json":
                found[mime] = as_json(data)
            elif type(data) in (str, bytes):
                found[mime] = data
        except Unfit:
            pass
    bundle = getattr(kind, "_repr_mimebundle_", None)
    if bundle is not None:
        try:
            data = attempt(bundle, value)
            data = data[0] if type(data) is tuple and data else data
            if type(data) is dict:
                for mime, item in list(data.items())[:16]:
                    add(found, mime, item)
        except Unfit:
            pass
    figures = sys.modules.get("matplotlib.figure")
    if figures is not None and isinstance(value, figures.Figure):
        try:
            found["image/png"] = attempt(draw, value, memory=512 << 20, seconds=DRAWING_SECONDS)
        except Unfit as reason:
            program.events.warn("figures_dropped", f"a figure's drawing {reason}")
    return found


def add(found, mime, item):
    if type(mime) is not str or len(mime) > 100 or not mime.isascii() or "/" not in mime:
        return
    if mime.endswith("json"):
        try:
            found[mime] = as_json(item)
        except Unfit:
            pass
    elif type(item) in (str, bytes) and mime not in found:
        found[mime] = item


def draw(figure):
    """The figure as PNG, cut to what is on it, in a bounded number of pixels."""
    width, height = (float(side) for side in figure.get_size_inches())
    dots = figure.get_dpi()
    if width * height * dots**2 <= PIXELS and max(width, height) * dots <= SIDE:
        return png(figure, dots, content_box(figure, width, height))
    program.events.warn(
        "figure_scaled",
        f"a figure of {int(width * dots)} × {int(height * dots)} pixels was drawn with fewer",
    )
    fewer = min((SCALED / (width * height)) ** 0.5, SIDE / max(width, height))
    if fewer >= DOTS:
        return png(figure, min(dots, fewer), None)
    figure.set_size_inches(width * fewer / DOTS, height * fewer / DOTS)
    try:
        return png(figure, DOTS, None)
    finally:
        figure.set_size_inches(width, height)


def content_box(figure, width, height):
    """What is on the figure, in inches; `None` for all of it."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    # What stands far outside must not make a picture of the way there.
    if 0 < box.width <= 2 * width and 0 < box.height <= 2 * height:
        return box.padded(0.1)
    return None


def png(figure, dots, box):
    import io

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dots, bbox_inches=box)
    return file.getvalue()


def write_file(data, ending):
    """A new file in the job's directory; `None` when there may be no more."""
    global files, number, dropped
    if type(data) is str:
        data = data.encode("utf-8", "backslashreplace")
    if files >= FILES:
        dropped += 1
        return None
    files += 1
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    for _ in range(1000):
        number += 1
        name = f"display-{number}.{ending}"
        try:
            file = os.open(os.path.join(directory, name), flags, 0o644)
        except FileExistsError:
            continue
        except OSError:
            break
        try:
            with open(file, "wb") as file:
                file.write(data)
        except OSError:
            break
        return name
    dropped += 1
    return None


def emit(source, found):
    """One display: what is small stands in it, what is not becomes a file."""
    global shows, dropped
    if os.getpid() != program.events.process:
        return
    if shows >= SHOWS:
        dropped += 1
        return
    shows += 1
    parts = []
    for mime, data in found.items():
        if mime.endswith("json"):
            if len(data) > program.events.room:
                dropped += 1
                continue
            program.events.room -= len(data)
            text = data
        elif type(data) is bytes or mime in IMAGES or len(data) > min(TEXT, program.events.room):
            name = write_file(data, ENDINGS.get(mime, "bin"))
            if name is None:
                continue
            text = f'{{"file":{quote(name)}}}'
        else:
            program.events.room -= len(data)
            text = quote(data)
        parts.append(f"{quote(mime)}:{text}")
    if parts:
        program.events.send("display", f'{{"source":"{source}","data":{{{",".join(parts)}}}}}')


def all_forms(value):
    found = {"text/plain": value if type(value) is str else describe(value)}
    found["text/plain"] = cut(found["text/plain"])
    found.update(forms(value))
    try:
        rows = attempt(table, value)
        if rows is not None:
            found["application/json"] = rows[0]
    except Unfit:
        pass
    return found


# MARK: What programs and the end of a program call


def display(*objects, include=None, exclude=None, metadata=None, display_id=None, raw=False, **more):
    """Shows objects as a notebook does: what they know to show themselves as."""
    for value in objects:
        if raw and type(value) is dict:
            found = {}
            for mime, item in list(value.items())[:16]:
                add(found, mime, item)
        else:
            found = all_forms(value)
        emit("display", found)


def last(value):
    """The value of the last expression."""
    kind = type(value)
    name = getattr(kind, "__qualname__", None)
    parts = [f'"type":{quote(cut(name if type(name) is str else "object", 200))}']
    text = describe(value)
    parts.append(f'"text":{quote(text)}')
    try:
        rows = attempt(table, value)
        if rows is not None:
            parts.append(f'"json":{rows[0]},"rows":{rows[1]}')
        else:
            parts.append(f'"json":{attempt(as_json, value)}')
    except (Unfit, RecursionError):
        pass
    program.events.send("value", f"{{{','.join(parts)}}}")
    found = forms(value)
    if found:
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None and "image/png" in found:
            close(pyplot, value)
        emit("last", {"text/plain": text, **found})


def close(pyplot, figure):
    """A figure that was shown is not shown again at the end."""
    try:
        if isinstance(figure, pyplot.Figure):
            pyplot.close(figure)
    except Exception:
        pass


def failed(error, path):
    """The exception that ended the program."""
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    known = None
    if type(error) in (SyntaxError, IndentationError, TabError) and error.filename == path:
        # Its text names the line once more.
        line, known = error.lineno, error.msg
    try:
        text = attempt(traceback_text, error)
    except Unfit as reason:
        text = f"its traceback {reason}"
    try:
        message = known or attempt(str, error)
        message = message if type(message) is str else str.__str__(message)
    except Unfit as reason:
        message = f"its text {reason}"
    number = line if type(line) is int else "null"
    program.events.send(
        "exception",
        f'{{"type":{quote(cut(type(error).__name__, 200))},"message":{quote(cut(message, 8192))},'
        f'"line":{number},"traceback":{quote(cut(text))}}}',
    )


def traceback_text(error):
    import traceback

    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def show(*arguments, **more):
    """In the place of pyplot's, which shows nothing without a screen: every open figure is a display,
    and is closed, as its window would be."""
    pyplot = sys.modules["matplotlib.pyplot"]
    global last_shown
    for figure in open_figures(pyplot):
        show_figure(figure)
        last_shown = figure
    pyplot.close("all")


def open_figures(pyplot):
    return [manager.canvas.figure for manager in pyplot._pylab_helpers.Gcf.get_all_fig_managers()]


def show_figure(figure):
    try:
        if not figure.axes and not figure.texts and not figure.images:
            return
        size = figure.get_size_inches() * figure.get_dpi()
        picture = attempt(draw, figure, memory=512 << 20, seconds=DRAWING_SECONDS)
        found = {"image/png": picture}
        found["text/plain"] = f"<Figure size {int(size[0])}x{int(size[1])} with {len(figure.axes)} Axes>"
        emit("show", found)
    except Unfit as reason:
        program.events.warn("figures_dropped", f"a figure's drawing {reason}")


def save_shown(*arguments, **more):
    """pyplot's savefig; after show(), when no figure is open, of the figure that was shown last."""
    pyplot = sys.modules["matplotlib.pyplot"]
    if last_shown is not None and not pyplot.get_fignums():
        return last_shown.savefig(*arguments, **more)
    return pyplot_savefig(*arguments, **more)


pyplot_savefig = None


def prepare_pyplot(pyplot):
    global pyplot_savefig
    pyplot_savefig = pyplot.savefig
    for function in (show, save_shown):
        function.__module__ = "matplotlib.pyplot"
    save_shown.__name__ = save_shown.__qualname__ = "savefig"
    pyplot.show, pyplot.savefig = show, save_shown


class Finder:
    """Prepares pyplot when the program imports it."""

    def find_spec(self, name, path=None, target=None):
        if name != "matplotlib.pyplot":
            return None
        sys.meta_path.remove(self)
        import importlib.util

        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                prepare_pyplot(module)

            spec.loader.exec_module = exec_module
        return spec


class Notebook:
    """Looks for IPython when nobody else has it."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != "IPython":
            return None
        here = os.path.dirname(__file__)
        sys.path.append(here)
        try:
            import _mayfly_notebook
        finally:
            sys.path.remove(here)
        return _mayfly_notebook.Finder().find_spec(name)


def start(path):
    """Before the program's first line."""
    global directory
    directory = path
    builtins.display = display
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        prepare_pyplot(pyplot)
    else:
        os.environ.setdefault("MPLBACKEND", "Agg")
        sys.meta_path.insert(0, Finder())
    sys.meta_path.append(Notebook())


def end():
    """After the program's last line, whatever that was."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None and os.getpid() == program.events.process:
        try:
            for figure in open_figures(pyplot):
                show_figure(figure)
        except BaseException:
            pass
    if dropped:
        program.events.warn(
            "displays_dropped", f"{dropped} displays or files of them are more than are kept")
