# A Python of the job's own that reports its value, displays and exception: started by the guest agent
# as `python3 fresh.py main.py …` for a program with events, in the place of `python3 main.py …`.
import os
import sys

here = os.path.dirname(__file__)
sys.path.insert(0, here)
import _mayfly_program as program

program.take_events()
# The program is what the interpreter rewrites: no finder may look here for the job's own modules.
sys.path.remove(here)
if program.events is not None:
    sys.path.insert(0, here)
    import _mayfly_rich

    sys.path.remove(here)
sys.path_importer_cache.pop(here, None)
del sys.argv[0]
sys.orig_argv[:] = [sys.executable] + sys.argv


def finish(main, code):
    if code != "interrupt":
        return code
    import atexit
    import signal
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in sys.stdout, sys.stderr:
        try:
            stream.flush()
        except Exception:
            pass
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    return 130


sys.exit(program.run(os.path.join(os.getcwd(), sys.argv[0]), finish))
