#!/usr/bin/env python3
"""The web of the tests: every host is served here, by one process that is server and proxy at once.

It answers the absolute form as a proxy does, and CONNECT with 403, as for what no rule allows. So it
can stand in the guest where the real proxy listens, or behind that one as an ordinary server."""
import gzip
import http.server
import json
import socketserver
import sys
import time
from urllib.parse import parse_qs, urlsplit

DENIED = {"denied.test", "169.254.169.254", "127.0.0.1", "localhost", "[::1]", "10.0.0.1", "2130706433", "0x7f.1", "metadata.test"}

APP = """<!DOCTYPE html><title>App</title><div id=root>Loading</div><nav><a href=/about>About</a></nav><script>
const render = () => { root.textContent = location.pathname === '/about' ? 'About us' : 'Home'; };
document.querySelector('a').onclick = e => { e.preventDefault(); history.pushState({}, '', '/about'); render(); };
fetch('/api').then(r => r.json()).then(d => { render(); root.append(' ' + d.items.join(',')); });</script>"""
SCROLL = """<title>Feed</title><div id=list></div><script>let n = 0; const more = () => { for (let i = 0; i < 10; i++) {
const p = document.createElement('p'); p.style.height = '120px'; p.textContent = 'Item ' + ++n; list.append(p); } };
more(); addEventListener('scroll', () => { if (n < 60 && innerHeight + scrollY > document.body.scrollHeight - 50) more(); });</script>"""
PAGES = {
    "/app": APP,
    "/scroll": SCROLL,
    "/frames": "<title>Outer</title><p>outer words</p><iframe src=/inner></iframe><iframe src=http://other.test/inner></iframe>",
    "/inner": "<p>inner words</p><button onclick=\"this.textContent='pressed'\">Push</button>",
    "/login": "<title>Login</title><form action=/session method=post><input name=user><input name=password type=password><button>Sign in</button></form>",
    "/images": "<title>Pictures</title><img src=/a.png alt=first><img src=http://denied.test/x.png alt=second>",
    "/late": "<title>Late</title><p id=a>waiting</p><script>setTimeout(() => { a.textContent = 'arrived'; }, 700)</script>",
    "/popup": "<title>Opener</title><button onclick=\"window.open('/inner')\">Open</button>",
    "/blank": "<title>Opener</title><a href=/inner target=_blank>There</a>",
    "/downloads": "<title>Files</title><a href=/report.csv download>CSV</a>",
    "/worker": "<title>Worker</title><p id=a></p><script>navigator.serviceWorker && navigator.serviceWorker.register('/sw.js').then(() => a.textContent = 'yes', e => a.textContent = 'no');</script>",
    "/article": "<html><head><title>News</title><meta name=description content=short><link rel=canonical href=/article></head><body><nav><a href=/>Home</a> <a href=/x>Sport</a></nav><article><h1>The Comet</h1>"
    + "<p>Astronomers watched the comet pass on Tuesday night, and many people saw it without a telescope in clear skies.</p>" * 6 + "</article><footer>Imprint</footer></body></html>",
    "/denied-parts": "<title>Parts</title><p>here</p><script src=http://denied.test/a.js></script><script>fetch('https://denied.test/api').catch(() => document.body.append('refused'));</script>",
    "/down-part": "<p>here</p><script>fetch('https://down.test/api').catch(() => document.body.append('failed'))</script>",
    "/socket": "<title>Socket</title><p id=a></p><script>const w = new WebSocket('ws://denied.test/'); w.onerror = () => a.textContent = 'closed';</script>",
    "/refresh": "<title>Refresh</title><meta http-equiv=refresh content='0; url=/inner'>",
    "/metarefresh-loop": "<title>Round</title><meta http-equiv=refresh content='0; url=/metarefresh-loop'>",
    "/reload-loop": "<title>Round</title><script>location.reload()</script>",
    "/beacon": "<title>Beacon</title><p>kept</p><script>navigator.sendBeacon('http://denied.test/b', 'x')</script><link rel=prefetch href=http://denied.test/p><link rel=preconnect href=https://denied.test>",
    "/rebind": "<title>Inner</title><p id=a></p><script>Promise.allSettled(['http://127.0.0.1:3128/', 'http://localhost:22/', 'http://169.254.169.254/latest/', 'http://2130706433/', 'http://0x7f.1/', 'http://[::1]:80/', 'http://10.0.0.1/'].map(u => fetch(u, {mode: 'no-cors'}).then(r => u, e => 'x'))).then(all => a.textContent = 'reached ' + all.filter(r => r.value !== 'x').length);</script>",
    "/cookie": "<title>Cookie</title><p id=a></p><script>a.textContent = document.cookie</script>",
    "/storage": "<title>Storage</title><p id=a></p><script>a.textContent = 'before ' + localStorage.getItem('k'); localStorage.setItem('k', 'kept'); document.cookie = 'c=1'</script>",
    "/history": "<title>History</title><p>steady</p><script>for (let i = 0; i < 300; i++) history.pushState({}, '', '?' + i)</script>",
    "/slow-image": "<title>Slow</title><p>text is there</p><img src=/never>",
    "/gone": None,
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass

    def log_message(self, *_):
        pass

    def do_CONNECT(self):
        if self.path == "down.test:443":
            return self.refuse(502, "connect_failed")
        self.refuse()

    def refuse(self, status=403, reason="not_allowed"):
        self.answer(status, b"", {"X-Mayfly-Reason": reason}, "text/plain", "mayfly: " + reason)

    def answer(self, status, body, headers=None, type="text/html; charset=utf-8", phrase=None):
        self.send_response(status, phrase)
        self.send_header("Content-Type", type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        self.posted = self.rfile.read(min(size, 1 << 24))
        self.do_GET()

    def do_GET(self):
        parts = urlsplit(self.path)
        host = (parts.netloc or self.headers.get("Host") or "").rsplit("@")[-1]
        name = host if host.startswith("[") else host.split(":")[0]
        if name in DENIED:
            return self.refuse()
        page = PAGES.get(parts.path)
        if page is not None:
            return self.answer(200, page.encode())
        handler = getattr(self, "path_" + parts.path.strip("/").replace("-", "_").replace(".", "_").replace("/", "__"), None)
        if handler:
            return handler(parse_qs(parts.query))
        return self.answer(404, b"<title>404</title><p>no such page</p>")

    def path_api(self, _):
        self.answer(200, json.dumps({"items": ["one", "two"]}).encode(), {"Access-Control-Allow-Origin": "*"}, "application/json")

    def path_session(self, _):
        fields = parse_qs(self.posted.decode())
        if fields.get("password") != ["secret-word"]:
            return self.answer(403, b"<title>No</title>wrong")
        self.answer(302, b"", {"Location": "/account", "Set-Cookie": "session=abc; HttpOnly"})

    def path_account(self, _):
        is_in = "session=abc" in (self.headers.get("Cookie") or "")
        self.answer(200, b"<title>Account</title><p>welcome back</p>" if is_in else b"<p>who are you</p>")

    def path_echo(self, _):
        wanted = {name.lower(): value for name, value in self.headers.items()}
        self.answer(200, ("<title>Echo</title><pre>" + json.dumps(wanted) + "</pre>").encode())

    def path_auth(self, _):
        if self.headers.get("Authorization") == "Basic YW5uOnNlY3JldC13b3Jk":
            return self.answer(200, b"<p>inside</p>")
        self.answer(401, b"<p>outside</p>", {"WWW-Authenticate": "Basic realm=x"})

    def path_hop(self, query):
        left = int(query.get("n", ["0"])[0])
        self.answer(302, b"", {"Location": f"/hop?n={left - 1}" if left else "/inner"})

    def path_loop(self, _):
        self.answer(302, b"", {"Location": "/loop"})

    def path_to_file(self, _):
        self.answer(302, b"", {"Location": "file:///etc/passwd"})

    def path_to_denied(self, _):
        self.answer(302, b"", {"Location": "http://169.254.169.254/latest/meta-data/"})

    def path_a_png(self, _):
        self.answer(200, bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000" + "1f15c4890000000d49444154789c6360f8cf50" + "0f000305017f" + "9bd1f6d10000000049454e44ae426082"), None, "image/png")

    def path_report_csv(self, _):
        self.answer(200, b"a,b\n1,2\n", {"Content-Disposition": "attachment; filename=\"../../etc/report.csv\""}, "text/csv")

    def path_paper_pdf(self, _):
        self.answer(200, b"%PDF-1.4\n%%EOF\n", None, "application/pdf")

    def path_endless_bin(self, _):
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(1 << 20))
        except OSError:
            self.close_connection = True

    def path_busy(self, _):
        self.answer(200, b"<p id=p>begun</p><script>const end = Date.now() + 1500; while (Date.now() < end);"
            b"fetch('/echo').then(r => { p.textContent = 'fetched ' + r.status })</script>")

    def path_never(self, _):
        time.sleep(60)
        self.close_connection = True

    def path_drip(self, _):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self.wfile.write(b"<title>Drip</title><p>first words</p>")
            for _ in range(300):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(1)
        except OSError:
            pass
        self.close_connection = True

    def path_bomb(self, _):
        body = gzip.compress(b"<p>" + b"a" * (60 << 20))
        self.answer(200, body, {"Content-Encoding": "gzip"})

    def path_teapot(self, _):
        self.answer(418, b"<title>Teapot</title><p>short and stout</p>")

    def path_many_cookies(self, _):
        self.send_response(200)
        for number in range(500):
            self.send_header("Set-Cookie", f"c{number}={'x' * 100}")
        self.send_header("Content-Length", "9")
        self.end_headers()
        self.wfile.write(b"<p>ok</p>")

    def path_empty(self, _):
        self.close_connection = True


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


def serve(port, address="127.0.0.1"):
    return Server((address, port), Handler)


def answer_names(socket, address):
    """A name server for which every name is the one address: asked by the host's own resolver."""
    while True:
        query, asker = socket.recvfrom(512)
        end = query.index(0, 12) + 5
        is_a = query[end - 4:end - 2] == b"\0\1"
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes(map(int, address.split("."))) if is_a else b""
        socket.sendto(query[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + bytes(4) + query[12:end] + answer, asker)


if __name__ == "__main__":
    serve(int(sys.argv[1]) if len(sys.argv) > 1 else 3128).serve_forever()
