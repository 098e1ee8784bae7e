"""Inside a machine, or on a host: jobs one after the other, each answered as JSON. Arguments: where
the jobs stand, and where a directory for each is made."""
import json
import os
import shutil
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def serve_the_web():
    """Where nobody is yet who gives pages a network."""
    import web

    try:
        server = web.serve(3128)
    except OSError:
        return None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def run(items, root):
    from mayfly_browse import job

    for number, request in enumerate(items):
        place = os.path.join(root, str(number))
        os.makedirs(place, exist_ok=True)
        for path, text in request.pop("files", {}).items():
            target = os.path.join(place, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "w") as file:
                file.write(text)
        lines = []
        whole = job.ask(request, place, lambda line: lines.append(line.decode()))
        shutil.rmtree(os.path.join(place, "input"), ignore_errors=True)
        with open(os.path.join(place, "events"), "w") as file:
            file.writelines(lines)
            if not whole:
                file.write(json.dumps({"failure": {"reason": "browser_gone", "message": ""}}) + "\n")


if __name__ == "__main__":
    server = serve_the_web()
    with open(sys.argv[1]) as file:
        items = json.load(file)
    run(items, sys.argv[2])
