"""LibreOffice: a hardened profile, one process that listens on loopback, and a small UNO client.

It is started by the image's warm-up and is part of the snapshot; a job that finds it dead starts it
once more, cold. It has a home and a temporary directory of its own, because /tmp is emptied."""

import os
import resource
import socket
import subprocess
import time

from ..events import Failure, log
from ..limits import MIB, confine, kill_group

HOME = "/var/lib/mayfly-office"
PORT = 2002
PROGRAM = "/usr/lib/libreoffice/program/soffice.bin"
# It maps 1 GiB after a few documents; what remains of this is for the job's.
MEMORY = 1700 * MIB
# The first start only makes the profile, and asks for another one.
RESTART = 81

_ITEM = """<item oor:path="{}"><prop oor:name="{}" oor:op="fuse"><value>{}</value></prop></item>"""
_SCRIPTING = "/org.openoffice.Office.Common/Security/Scripting"
_SETTINGS = [
    (_SCRIPTING, "BlockUntrustedRefererLinks", "true"),
    (_SCRIPTING, "DisableMacrosExecution", "true"),
    (_SCRIPTING, "DisableActiveContent", "true"),
    (_SCRIPTING, "MacroSecurityLevel", "3"),
    (_SCRIPTING, "DisablePythonRuntime", "true"),
    ("/org.openoffice.Office.Calc/Content/Update", "Link", "2"),
    ("/org.openoffice.Office.Writer/Content/Update", "Link", "0"),
    ("/org.openoffice.Office.Writer/Content/Update", "Field", "false"),
    ("/org.openoffice.Office.Writer/Content/Update", "Chart", "false"),
    ("/org.openoffice.Office.Calc/Formula/Load", "OOXMLRecalcMode", "1"),
    ("/org.openoffice.Office.Calc/Formula/Load", "ODFRecalcMode", "1"),
    ("/org.openoffice.Office.Common/Misc", "FirstRun", "false"),
    ("/org.openoffice.Office.Common/Misc", "UseOpenCL", "false"),
    ("/org.openoffice.Office.Common/Save/Document", "CreateBackup", "false"),
    ("/org.openoffice.Office.Recovery/AutoSave", "Enabled", "false"),
    ("/org.openoffice.Office.Recovery/RecoveryInfo", "Enabled", "false"),
    ("/org.openoffice.Office.Jobs", "Enabled", "false"),
    ("/org.openoffice.Setup/Office", "ooSetupInstCompleted", "true"),
]

# What a type is read by; nothing is left to LibreOffice's own guess, so it never reads HTML.
READERS = {
    "docx": "MS Word 2007 XML",
    "doc": "MS Word 97",
    "odt": "writer8",
    "rtf": "Rich Text Format",
    "fodt": "OpenDocument Text Flat XML",
    "xlsx": "Calc MS Excel 2007 XML",
    "xls": "MS Excel 97",
    "ods": "calc8",
    "csv": "Text - txt - csv (StarCalc)",
    "pptx": "Impress MS PowerPoint 2007 XML",
    "ppt": "MS PowerPoint 97",
    "odp": "impress8",
    "txt": "Text (encoded)",
}
FAMILY = {
    "docx": "writer",
    "doc": "writer",
    "odt": "writer",
    "rtf": "writer",
    "fodt": "writer",
    "txt": "writer",
    "xlsx": "calc",
    "xls": "calc",
    "ods": "calc",
    "csv": "calc",
    "pptx": "impress",
    "ppt": "impress",
    "odp": "impress",
}
WRITERS = {
    ("writer", "docx"): "MS Word 2007 XML",
    ("writer", "odt"): "writer8",
    ("writer", "rtf"): "Rich Text Format",
    ("writer", "txt"): "Text (encoded)",
    ("calc", "xlsx"): "Calc MS Excel 2007 XML",
    ("calc", "ods"): "calc8",
    ("calc", "csv"): "Text - txt - csv (StarCalc)",
    ("impress", "pptx"): "Impress MS PowerPoint 2007 XML",
    ("impress", "odp"): "impress8",
    ("writer", "pdf"): "writer_pdf_Export",
    ("calc", "pdf"): "calc_pdf_Export",
    ("impress", "pdf"): "impress_pdf_Export",
}


def write_profile():
    path = os.path.join(HOME, "profile", "user")
    os.makedirs(path, mode=0o700, exist_ok=True)
    for name in ("tmp", "home"):
        os.makedirs(os.path.join(HOME, name), mode=0o700, exist_ok=True)
    items = "".join(_ITEM.format(*setting) for setting in _SETTINGS)
    with open(os.path.join(path, "registrymodifications.xcu"), "w") as file:
        file.write(
            '<?xml version="1.0" encoding="UTF-8"?><oor:items '
            'xmlns:oor="http://openoffice.org/2001/registry" '
            'xmlns:xs="http://www.w3.org/2001/XMLSchema" '
            f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">{items}</oor:items>'
        )


def is_listening():
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


def _spawn():
    environment = {
        "HOME": f"{HOME}/home",
        "TMPDIR": f"{HOME}/tmp",
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "SAL_USE_VCLPLUGIN": "svp",
    }
    log_file = open(f"{HOME}/office.log", "ab")
    process = subprocess.Popen(
        [
            PROGRAM,
            f"-env:UserInstallation=file://{HOME}/profile",
            "--headless",
            "--invisible",
            "--norestore",
            "--nologo",
            "--nodefault",
            "--nolockcheck",
            "--nofirststartwizard",
            f"--accept=socket,host=127.0.0.1,port={PORT},tcpNoDelay=1;urp;",
        ],
        stdin=subprocess.DEVNULL,
        stdout=log_file,
        stderr=log_file,
        env=environment,
        cwd=HOME,
        preexec_fn=lambda: confine(MEMORY, None, 1024 * MIB),
    )
    log_file.close()
    with open(f"{HOME}/pid", "w") as file:
        file.write(str(process.pid))
    return process


def start(seconds):
    """Starts it, over the restart that a new profile asks for, until it listens."""
    end = time.monotonic() + seconds
    process = _spawn()
    restarts = 0
    while time.monotonic() < end:
        status = process.poll()
        if status is not None:
            restarts += 1
            if restarts > 3:
                raise OSError(f"LibreOffice does not start: exit status {status}")
            process = _spawn()
        elif is_listening():
            return process
        time.sleep(0.05)
    kill_group(process.pid)
    raise OSError(f"LibreOffice does not listen after {seconds} s")


def pid():
    try:
        with open(f"{HOME}/pid") as file:
            number = int(file.read())
        with open(f"/proc/{number}/cmdline", "rb") as file:
            return number if b"soffice" in file.read() else None
    except (OSError, ValueError):
        return None


def stop():
    number = pid()
    if number is not None:
        kill_group(number)
        try:
            os.waitpid(number, 0)
        except ChildProcessError:
            pass


def restart(limits):
    """In the job's first process, which no limit confines: the dead one's place is taken."""
    log("LibreOffice of the snapshot is gone; a cold one is started")
    stop()
    try:
        write_profile()
        start(limits.cpu(60))
    except OSError as error:
        log(str(error))


def ensure(limits, events):
    """The process of the snapshot, or a cold one; it gets this job's share of CPU time."""
    if pid() is None or not is_listening():
        events.send("office", "restart")
        end = time.monotonic() + limits.cpu(65)
        while pid() is None or not is_listening():
            if time.monotonic() > end:
                raise Failure("converter_crashed", "LibreOffice does not start")
            time.sleep(0.1)
    number = pid()
    with open(f"/proc/{number}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    used = (int(fields[11]) + int(fields[12])) // os.sysconf("SC_CLK_TCK")
    hard = resource.prlimit(number, resource.RLIMIT_CPU)[1]
    resource.prlimit(number, resource.RLIMIT_CPU, (used + limits.cpu(), hard))


def _property(name, value):
    import uno

    item = uno.createUnoStruct("com.sun.star.beans.PropertyValue")
    item.Name, item.Value = name, value
    return item


def _connect():
    import uno

    local = uno.getComponentContext()
    resolver = local.ServiceManager.createInstanceWithContext(
        "com.sun.star.bridge.UnoUrlResolver", local
    )
    remote = resolver.resolve(
        f"uno:socket,host=127.0.0.1,port={PORT},tcpNoDelay=1;urp;StarOffice.ComponentContext"
    )
    return remote.ServiceManager.createInstanceWithContext("com.sun.star.frame.Desktop", remote)


def _load_options(source, password):
    options = {
        "Hidden": True,
        "ReadOnly": True,
        "MacroExecutionMode": 0,
        "UpdateDocMode": 0,
        "FilterName": READERS[source],
    }
    if source == "csv":
        # Comma, quote, UTF-8, from line 1, every column as text or number, quoted ones as text.
        options["FilterOptions"] = "44,34,76,1,,0,true,true,false"
    if source == "txt":
        options["FilterOptions"] = "UTF8,LF,,,"
    if password:
        options["Password"] = password
    return options


def _export_options(family, to, settings):
    import uno

    options = {"FilterName": WRITERS[(family, to)]}
    if to == "csv":
        options["FilterOptions"] = "44,34,76,1,,0,false,true,false,false,false,-1"
    if to == "txt":
        options["FilterOptions"] = "UTF8,LF,,,"
    if to == "pdf":
        data = [_property("UseTaggedPDF", True), _property("ExportBookmarks", True)]
        if settings.get("pages"):
            data.append(_property("PageRange", settings["pages"]))
        if settings.get("single_page_sheets"):
            data.append(_property("SinglePageSheets", True))
        if settings.get("pdfa"):
            part = {"1": 1, "2": 2, "3": 3}[str(settings["pdfa"])[0]]
            data.append(_property("SelectPdfVersion", part))
        options["FilterData"] = uno.Any("[]com.sun.star.beans.PropertyValue", tuple(data))
    return options


def _landscape(document):
    for family in ("PageStyles",):
        styles = document.StyleFamilies.getByName(family)
        for name in styles.ElementNames:
            style = styles.getByName(name)
            if not style.IsLandscape:
                width, height = style.Width, style.Height
                style.IsLandscape = True
                style.Width, style.Height = height, width


def convert(source, input_path, to, output_path, password=None, settings=None):
    """In the process of the caller: it may hang, so the caller is a child with an alarm.

    Answers None, or the word for what LibreOffice could not do."""
    import uno

    # First: a process has no UNO classes before its context, whoever imported the module.
    desktop = _connect()
    from com.sun.star.uno import Exception as UnoException

    settings = settings or {}

    def properties(options):
        return tuple(_property(name, value) for name, value in options.items())

    try:
        document = desktop.loadComponentFromURL(
            uno.systemPathToFileUrl(input_path),
            "_blank",
            0,
            properties(_load_options(source, password)),
        )
    except UnoException as error:
        return f"load: {type(error).__name__}"
    if document is None:
        return "load"
    try:
        if settings.get("landscape") and hasattr(document, "StyleFamilies"):
            _landscape(document)
        options = _export_options(FAMILY[source], to, settings)
        document.storeToURL(uno.systemPathToFileUrl(output_path), properties(options))
    except UnoException as error:
        return f"store: {type(error).__name__}"
    finally:
        try:
            document.close(True)
        except UnoException:
            pass
    return None
