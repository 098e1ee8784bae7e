// The network of jobs the whole way: a payload's list, an operator's ceiling, a worker, a real machine,
// the tools that agents use, and servers of the test on this host's loopback. Parts of the end-to-end
// suite.

import Foundation
import Jobs
import StrictJSON
import Testing

@testable import Mayfly

/// What the tools ask of a package index, a registry, a repository and a mirror, as files of one server.
final class Servers: Sendable {
    static let address = "127.0.0.2"
    let port: Int
    /// The same over TLS, with a certificate of an authority of the test.
    let securePort: Int
    let trust: String
    private let program: Program

    var authority: String { "\(Self.address):\(port)" }
    var secureAuthority: String { "\(Self.address):\(securePort)" }

    private static let maker = """
        import base64, hashlib, http.server, io, json, os, ssl, subprocess, sys, tarfile, threading, zipfile
        root = sys.argv[1]; os.makedirs(root, exist_ok=True); os.chdir(root)
        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/api/whoami":
                    said = ("I got " + self.headers.get("authorization", "nothing")).encode()
                    self.send_response(200); self.send_header("content-length", str(len(said)))
                    self.end_headers(); self.wfile.write(said)
                    return
                if self.path != "/endless": return super().do_GET()
                self.send_response(200); self.end_headers()
                open("endless.begun", "w").write("1")
                try:
                    while True: self.wfile.write(b"x" * 65536)
                except OSError: pass
                open("endless.ended", "a").write("1")
            def log_message(self, *a): pass
        server = http.server.ThreadingHTTPServer(("\(Servers.address)", 0), Handler)
        base = "http://\(Servers.address):%d" % server.server_address[1]
        open("hello", "w").write("hello from the host\\n")
        open("order.html", "w").write('''<!doctype html><title>Order</title><h1>Order</h1>
            <form action="/sent.html"><label>Name <input name=name></label><button>Send</button></form>
            <img src="http://tracker.test/p.png"><p id=stock></p>
            <script>fetch("/stock.json").then(r => r.json()).then(d => { stock.textContent = "stock " + d.n })
            </script>''')
        open("stock.json", "w").write('{"n": 17}')
        open("sent.html", "w").write('''<!doctype html><title>Sent</title><p id=o></p>
            <script>o.textContent = "thanks, " + new URLSearchParams(location.search).get("name")</script>''')
        os.makedirs("simple/tiny")
        wheel = "tiny-1.0-py3-none-any.whl"
        with zipfile.ZipFile("simple/tiny/" + wheel, "w") as z:
            z.writestr("tiny.py", "answer = 42\\n")
            z.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
            z.writestr("tiny-1.0.dist-info/WHEEL",
                "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
            z.writestr("tiny-1.0.dist-info/RECORD", "")
        open("simple/tiny/index.html", "w").write('<a href="%s">%s</a>' % (wheel, wheel))
        os.makedirs("npm")
        blob = io.BytesIO()
        with tarfile.open(fileobj=blob, mode="w:gz") as t:
            for name, text in [("package.json", '{"name": "small", "version": "1.0.0", "main": "index.js"}'),
                    ("index.js", "module.exports = 43")]:
                info = tarfile.TarInfo("package/" + name); info.size = len(text)
                t.addfile(info, io.BytesIO(text.encode()))
        open("npm/small.tgz", "wb").write(blob.getvalue())
        sha = base64.b64encode(hashlib.sha512(blob.getvalue()).digest()).decode()
        open("npm/small", "w").write(json.dumps({"name": "small", "dist-tags": {"latest": "1.0.0"},
            "versions": {"1.0.0": {"name": "small", "version": "1.0.0", "main": "index.js",
            "dist": {"tarball": base + "/npm/small.tgz", "integrity": "sha512-" + sha}}}}))
        def run(*words): subprocess.run(words, check=True, stdout=2)
        run("git", "init", "-q", "work")
        open("work/file", "w").write("cloned\\n")
        run("git", "-C", "work", "add", "file")
        run("git", "-C", "work", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "one")
        run("git", "clone", "-q", "--bare", "work", "repo.git")
        run("git", "-C", "repo.git", "update-server-info")
        os.makedirs("deb/DEBIAN"); os.makedirs("deb/usr/bin"); os.makedirs("apt")
        open("deb/DEBIAN/control", "w").write("Package: little\\nVersion: 1\\nArchitecture: all\\n"
            "Maintainer: t <t@t>\\nDescription: t\\n")
        open("deb/usr/bin/little", "w").write("#!/bin/sh\\necho unpacked\\n")
        open("deb/DEBIAN/postinst", "w").write('#!/bin/sh\\necho configured > "$DPKG_ROOT/usr/note"\\n')
        os.chmod("deb/usr/bin/little", 0o755); os.chmod("deb/DEBIAN/postinst", 0o755)
        run("dpkg-deb", "-b", "--root-owner-group", "deb", "apt/little_1_all.deb")
        data = open("apt/little_1_all.deb", "rb").read()
        open("apt/Packages", "w").write(open("deb/DEBIAN/control").read() +
            "Filename: ./little_1_all.deb\\nSize: %d\\nSHA256: %s\\n\\n"
            % (len(data), hashlib.sha256(data).hexdigest()))
        subprocess.run(['bash', '-ec', '''
            key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
            openssl req -x509 $key -days 2 -keyout ca.key -out ../ca.pem -subj '/CN=Test authority'
            openssl req $key -keyout ../leaf.key -out request.pem -subj "/CN=test"
            printf 'subjectAltName=IP:\(Servers.address)' > names
            openssl x509 -req -in request.pem -CA ../ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names \\
                -out ../leaf.pem; rm ca.key request.pem names
            '''], check=True, stdout=2)
        secure = http.server.ThreadingHTTPServer(("\(Servers.address)", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("../leaf.pem", "../leaf.key")
        secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=secure.serve_forever, daemon=True).start()
        open("port.new", "w").write("%d %d" % (server.server_address[1], secure.server_address[1]))
        os.rename("port.new", "port")
        server.serve_forever()
        """

    init(in directory: String) throws {
        let maker = Self.maker
        var request = Program.Request(["python3", "-c", maker, directory])
        request.environment = ["GIT_CONFIG_GLOBAL": "/dev/null"]
        program = try Program.start(request)
        let deadline = ContinuousClock.now + .seconds(60)
        var ports: [Int] = []
        while ports.count < 2, .now < deadline, program.poll() == nil {
            ports =
                (try? String(contentsOfFile: "\(directory)/port", encoding: .utf8))?
                .split(separator: " ").compactMap { Int($0) } ?? []
            usleep(20_000)
        }
        try #require(ports.count == 2, "the servers of the test did not start")
        (port, securePort) = (ports[0], ports[1])
        trust = (directory as NSString).deletingLastPathComponent + "/ca.pem"
    }
    func end() {
        program.signal(SIGKILL)
        _ = program.wait()
    }
}

extension EndToEndTests {
    @Suite("The network of a job, from its payload to its rows", .serialized)
    struct NetworkJobTests {
        private func with(
            _ body: (World, Servers, Worker) async throws -> Void
        ) async throws {
            try await World.with { world in
                let servers = try Servers(in: "\(world.directory)/servers")
                defer { servers.end() }
                try await body(world, servers, try await world.worker(["--slots", "2"]))
            }
        }
        private func allow(_ world: World, _ servers: Servers) throws {
            try world.sql(
                """
                select mayfly.allow_egress('default', '', array['\(servers.authority)'],
                    array['127.0.0.0/8']::cidr[])
                """)
        }
        private func payload(
            _ language: String, _ source: String, _ allow: [String]
        ) -> JSON {
            .object([
                "language": .string(language), "source": .string(source),
                "network": ["allow": .array(allow.map { .string($0) })],
            ])
        }
        private func run(_ world: World, _ payload: JSON) async throws -> JobRow {
            try await world.ended(
                try world.enqueue(payload, ", timeout => '10 min'"), within: .seconds(600))
        }

        @Test func `reaches what its list and its ceiling have, and nothing else`() async throws {
            try await with { world, servers, _ in
                try allow(world, servers)
                let job = try await run(
                    world,
                    payload(
                        "bash",
                        """
                        curl -sS http://\(servers.authority)/hello
                        curl -sS -o denied -w '%{http_code}\\n' http://one.test/; cat denied
                        curl -sS -o above -w '%{http_code}\\n' http://192.0.2.1/; cat above
                        exit 3
                        """, [servers.authority, "192.0.2.1:80"]))
                let stdout = try #require(job.stdout)
                #expect(stdout.hasPrefix("hello from the host\n403\n"), "\(stdout)")
                #expect(stdout.contains("\"one.test:80\" to network.allow"), "\(stdout)")
                #expect(job.errorReason == "exit_nonzero")
                #expect(
                    job.errorMessage?.contains("add \"one.test:80\" to network.allow") == true,
                    "\(job.errorMessage ?? "")")
                let network = try #require(job.resultJSON["network"])
                #expect(network["connections"]?.int == 1)
                #expect(network["bytes_received"]?.int ?? 0 >= 20)
                let denied = network["denied"]?.elements ?? []
                #expect(
                    Set(denied.map { $0["reason"]?.string }) == ["not_allowed", "above_ceiling"],
                    "\(network.text)")
                let shown = try await world.mayfly(["egress", "\(job.id)", "--json"])
                #expect(shown.status == 0, "\(shown.errors)")
                let rows = try JSON(parsing: shown.output).elements
                #expect(rows.count == 3, "\(shown.output)")
                let good = try #require(rows.first { $0["verdict"]?.string == "allowed" })
                #expect(good["host"]?.string == Servers.address)
                #expect(good["port"]?.int == servers.port)
                #expect(good["bytes_received"]?.int ?? 0 >= 20)
            }
        }

        @Test func `is none without a ceiling, and the job says what would raise it`() async throws
        {
            try await with { world, servers, _ in
                let job = try await run(
                    world,
                    payload(
                        "python",
                        "import urllib.request as u; u.urlopen('http://\(servers.authority)/hello')",
                        [servers.authority]))
                #expect(job.state == "failed")
                #expect(
                    job.errorMessage?.contains(
                        "select mayfly.allow_egress('default', '', array['\(servers.authority)'])")
                        == true, "\(job.errorMessage ?? "")")
                // Allowed by name, the address is still one of this host's own.
                try world.sql(
                    "select mayfly.allow_egress('default', '', array['\(servers.authority)'])")
                let inside = try await run(
                    world,
                    payload(
                        "bash", "curl -sS http://\(servers.authority)/hello",
                        [servers.authority]))
                #expect(
                    inside.resultJSON["network"]?["denied"]?.elements.first?["reason"]?.string
                        == "address_not_public", "\(inside.result ?? "")")
            }
        }

        @Test func `lets pip, npm, git and apt work unchanged`() async throws {
            try await with { world, servers, _ in
                try allow(world, servers)
                let base = "http://\(servers.authority)"
                let pip = try await run(
                    world,
                    .object([
                        "steps": [
                            [
                                "language": "bash",
                                "source": .string(
                                    "pip install -q --index-url \(base)/simple "
                                        + "--trusted-host \(Servers.address) tiny"),
                            ],
                            [
                                "language": "python", "source": "import tiny; print(tiny.answer)",
                                "interpreter": "fresh",
                            ],
                        ],
                        "network": ["allow": [.string(servers.authority)]],
                    ]))
                #expect(pip.stdout == "42\n", "\(pip.result ?? "") \(pip.error ?? "")")
                for (name, source, expected) in [
                    (
                        "npm",
                        "npm install --silent --registry \(base)/npm/ small >&2 "
                            + "&& node -e 'console.log(require(\"small\"))'", "43\n"
                    ),
                    ("git", "git clone -q \(base)/repo.git got && cat got/file", "cloned\n"),
                    (
                        "apt",
                        """
                        top=/work/.apt/root state=/work/.apt/root/var/lib/dpkg
                        mkdir -p .apt/lists/partial .apt/archives/partial $state
                        cp -r /var/lib/dpkg/. $state
                        echo "deb [trusted=yes] \(base)/apt ./" > .apt/sources
                        apt="apt-get -qy -o Dir::Etc::SourceList=/work/.apt/sources \\
                            -o Dir::State=/work/.apt -o Dir::Cache=/work/.apt -o Dir::Log=/work/.apt \\
                            -o Dir::State::status=$state/status -o Debug::NoLocking=1 \\
                            -o DPkg::Options::=--root=$top -o DPkg::Options::=--log=/work/.apt/log \\
                            -o DPkg::Options::=--force-not-root,script-chrootless"
                        $apt update >&2 && $apt install little >&2 && $top/usr/bin/little
                        cat $top/usr/note; dpkg --root=$top -l little | grep -o '^ii  little'
                        """, "unpacked\nconfigured\nii  little\n"
                    ),
                ] {
                    let job = try await run(world, payload("bash", source, [servers.authority]))
                    #expect(
                        job.stdout == expected, "\(name): \(job.result ?? "") \(job.error ?? "")")
                }
            }
        }

        @Test func `leaves nothing of a worker that is killed in the middle`() async throws {
            try await with { world, servers, worker in
                try allow(world, servers)
                let id = try world.enqueue(
                    payload(
                        "bash", "curl -sS http://\(servers.authority)/endless > /dev/null",
                        [servers.authority]))
                _ = try await world.until(id) { $0.state == "running" }
                let deadline = ContinuousClock.now + .seconds(120)
                let ended = "\(world.directory)/servers/endless.ended"
                let begun = "\(world.directory)/servers/endless.begun"
                while !FileManager.default.fileExists(atPath: begun), .now < deadline {
                    try await Task.sleep(for: .milliseconds(20))
                }
                #expect(!FileManager.default.fileExists(atPath: ended))
                await worker.kill()
                while !FileManager.default.fileExists(atPath: ended), .now < deadline {
                    try await Task.sleep(for: .milliseconds(20))
                }
                #expect(FileManager.default.fileExists(atPath: ended))
                // The kernel ends them with their worker, a moment later.
                while !worker.machines.isEmpty, .now < deadline {
                    try await Task.sleep(for: .milliseconds(20))
                }
                #expect(worker.machines.isEmpty)
            }
        }

        @Test(.enabled(if: TestState.hasBrowser, TestState.noBrowser))
        func `shows a browser the page on its list: the script runs, the form is sent`()
            async throws
        {
            try await World.with { world in
                let servers = try Servers(in: "\(world.directory)/servers")
                defer { servers.end() }
                _ = try await world.worker(["--slots", "1", "--set", "worker.kinds=browse"])
                try allow(world, servers)
                let payload: JSON = [
                    "url": .string("http://\(servers.authority)/order.html"),
                    "actions": [
                        ["wait": ["text": "stock 17"]],
                        ["type": ["input[name=name]", "Ada"]],
                        ["click": "role=button[name=\"Send\"]"],
                        ["wait": ["text": "thanks, Ada"]],
                    ],
                    "return": ["title", "text", "markdown", "screenshot"],
                    "network": ["allow": [.string(servers.authority)]],
                ]
                let id = try world.number(
                    """
                    select mayfly.enqueue('browse', $payload$\(payload.text)$payload$,
                        timeout => '10 min')
                    """)
                let job = try await world.ended(id, within: .seconds(600))
                #expect(job.state == "succeeded", "\(job.error ?? "")")
                let result = JSON.stored(job.result)
                #expect(result["value"]?["title"] == "Sent")
                #expect(result["value"]?["text"] == "thanks, Ada")
                #expect(result["value"]?["markdown"] == "thanks, Ada")
                #expect(result["files"]?.elements.map { $0["name"] } == ["screenshot.png"])
                #expect(result["network"]?["denied"]?.elements.first?["rule"] == "tracker.test:80")
                #expect(result["warnings"]?.elements.map { $0["code"] } == ["requests_blocked"])
                let rows = """
                    select count(*) from mayfly.egress
                    where id = \(id) and verdict = 'allowed' and host = '\(Servers.address)'
                    """
                #expect(try world.number(rows) > 0)
                #expect(
                    try world.number(
                        """
                        select count(*) from mayfly.egress where id = \(id)
                            and verdict = 'denied' and host = 'tracker.test'
                        """) == 1)
            }
        }

        @Test func `of a worker paused beyond its lease ends, and the next attempt has its own`()
            async throws
        {
            try await with { world, servers, worker in
                try allow(world, servers)
                let program = """
                    if curl -sS http://\(servers.authority)/once -o first -w '%{http_code}' \
                        | grep -q 404; then curl -sS http://\(servers.authority)/endless -o /dev/null
                    else cat first; fi
                    """
                let id = try world.enqueue(
                    payload("bash", program, [servers.authority]), ", timeout => '10 min'")
                let begun = "\(world.directory)/servers/endless.begun"
                let deadline = ContinuousClock.now + .seconds(120)
                while !FileManager.default.fileExists(atPath: begun), .now < deadline {
                    try await Task.sleep(for: .milliseconds(50))
                }
                // What the second attempt finds: it needs no endless one.
                try Data("served once\n".utf8).write(
                    to: URL(fileURLWithPath: "\(world.directory)/servers/once"))
                worker.program.signal(SIGSTOP)
                while try world.number(
                    """
                    select count(*) from mayfly.worker
                    where lease_until < clock_timestamp() - interval '1 s'
                    """) == 0, .now < deadline
                { try await Task.sleep(for: .milliseconds(50)) }
                worker.program.signal(SIGCONT)
                let job = try await world.ended(id, within: .seconds(300))
                #expect(job.state == "succeeded", "\(job.error ?? "")")
                #expect(job.stdout == "served once\n")
                let attempts = try await world.attempts(id)
                #expect(attempts.map(\.outcome) == ["lost", "succeeded"], "\(attempts)")
                // The server of the first attempt's transfer was hung up on.
                let ended = "\(world.directory)/servers/endless.ended"
                while !FileManager.default.fileExists(atPath: ended), .now < deadline {
                    try await Task.sleep(for: .milliseconds(50))
                }
                #expect(FileManager.default.fileExists(atPath: ended))
                #expect(
                    try world.number(
                        "select count(*) from mayfly.egress where id = \(id) and attempt = 2") > 0)
            }
        }

        @Test func `comes from the command line, too`() async throws {
            try await World.with { world in
                let servers = try Servers(in: "\(world.directory)/servers")
                defer { servers.end() }
                let run = try await world.mayfly([
                    "run", "--language", "bash", "--source",
                    "curl -sS http://\(servers.authority)/hello", "--allow", servers.authority,
                    "--network", "127.0.0.0/8",
                ])
                #expect(run.output == "hello from the host\n", "\(run.errors)")
                let bad = try await world.mayfly([
                    "run", "--language", "bash", "--source", "true", "--allow", "https://a.test/",
                ])
                #expect(bad.status == 2 && bad.errors.contains("host:port"), "\(bad.errors)")
                for words in [
                    ["allow", "a.test:443", "--network", "10.0.0.0/8"], ["list"],
                    ["deny", "a.test:443"], ["deny"],
                ] {
                    let ended = try await world.mayfly(["egress"] + words)
                    #expect(ended.status == 0, "\(words): \(ended.errors)")
                    if words == ["list"] { #expect(ended.output.contains("a.test:443")) }
                }
                let gone = try await world.mayfly(["egress", "deny"])
                #expect(gone.status == 1)
            }
        }
    }
}
