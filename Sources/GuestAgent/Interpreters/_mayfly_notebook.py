# What programs written for notebooks import from IPython, in an image that does not have it: display()
# and the classes whose objects it shows. Used by _mayfly_rich.py when a program imports IPython.
import builtins
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

NAMES = ("IPython", "IPython.core", "IPython.core.display", "IPython.display")


class Shown:
    """Text or bytes with one MIME type; from `data`, or read from the file `filename`."""

    method = mode = None

    def __init__(self, data=None, url=None, filename=None, metadata=None, **more):
        if data is None and filename is None:
            raise ValueError("give data or filename: a job has no network")
        if filename is None and self.mode == "rb" and isinstance(data, str):
            filename, data = data, None
        if data is None:
            with open(filename, self.mode, encoding=None if self.mode == "rb" else "utf-8") as file:
                data = file.read()
        self.data, self.filename, self.metadata = data, filename, metadata

    def __repr__(self):
        return f"<IPython.core.display.{type(self).__name__} object>"


def shown(name, method, mode="r"):
    return type(
        name, (Shown,), {method: lambda self: self.data, "mode": mode, "__module__": NAMES[2]})


HTML = shown("HTML", "_repr_html_")
Markdown = shown("Markdown", "_repr_markdown_")
SVG = shown("SVG", "_repr_svg_")
Latex = shown("Latex", "_repr_latex_")
Math = type("Math", (Latex,), {"_repr_latex_": lambda self: f"$\\displaystyle {self.data}$"})
JSON = shown("JSON", "_repr_json_")


class Image(Shown):
    mode = "rb"

    def _repr_mimebundle_(self, include=None, exclude=None):
        kind = "image/jpeg" if self.data[:2] == b"\xff\xd8" else "image/png"
        return {kind: self.data}


def clear_output(wait=False):
    """What was shown is on its way already."""


class Finder:
    """Stands last in sys.meta_path: a real IPython is found before it."""

    def find_spec(self, name, path=None, target=None):
        if name in NAMES:
            return ModuleSpec(name, self, is_package=name in NAMES[:2])
        return None

    def create_module(self, spec):
        return ModuleType(spec.name)

    def exec_module(self, module):
        if module.__name__ == "IPython":
            module.get_ipython = lambda: None
            module.display = sys.modules.get("IPython.display")
        for kind in (HTML, Markdown, SVG, Latex, Math, JSON, Image):
            setattr(module, kind.__name__, kind)
        if module.__name__ not in NAMES[:2]:
            module.display, module.clear_output = builtins.display, clear_output
