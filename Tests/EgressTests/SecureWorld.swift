// Servers that speak TLS, and a client that says within it whatever a test wants, each a program of its
// own: what is tested has no part in what tests it.

import Egress
import Foundation
import Glibc
import Processes
import Testing

/// What a guest's agent does: each connection to a port of loopback becomes a stream.
final class Entrance: Sendable {
    let address: String
    private let listener: CInt
    init(_ address: String, _ gateway: EgressGateway) throws {
        self.address = address
        listener = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
        var one: CInt = 1
        unsafe setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, 4)
        try #require(bindSocket(listener, address, 3128) == 0 && listen(listener, 16) == 0)
        Thread.detachNewThread { [listener] in
            while true {
                let number = accept(listener, nil, nil)
                guard number >= 0 else { return }
                Task { await gateway.serve(Descriptor(number), as: .proxy) }
            }
        }
    }
    func close() { shutdown(listener, CInt(SHUT_RDWR)) }
    deinit { Glibc.close(listener) }
}

/// A server of TLS on the good address of a world, with a certificate of a test authority; it keeps
/// what reaches it.
final class SecurePeer: Sendable {
    enum Certificate: String {
        /// For the host, of the authority.
        case good
        /// For another host; of nobody; of days that are over.
        case wrong, own, expired
    }
    let directory: String
    private let serving: Task<Void, Never>
    var authority: String { "\(directory)/ca.pem" }
    /// Requests, each as it came.
    var received: [String] {
        let text =
            (try? String(contentsOfFile: "\(directory)/received", encoding: .isoLatin1)) ?? ""
        return text.split(separator: "\u{1}").map(String.init)
    }

    private static let program = #"""
        import os, socket, ssl, subprocess, sys, threading
        directory, address, port, host, kind = sys.argv[1:]
        os.chdir(directory)
        subprocess.run(["bash", "-ec", """
            key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
            openssl req -x509 $key -days 2 -keyout test.key -out test.pem -subj '/CN=Test authority'
            name=$0; [ $1 != wrong ] || name=other.test
            days=2; [ $1 != expired ] || days=-1
            openssl req $key -keyout leaf.key -out request.pem -subj "/CN=$name"
            printf "subjectAltName=DNS:$name" > names
            by='-CA test.pem -CAkey test.key -CAcreateserial'; [ $1 != own ] || by='-signkey leaf.key'
            openssl x509 -req -in request.pem $by -days $days -extfile names -out leaf.pem
            """, host, kind], check=True, stderr=subprocess.DEVNULL)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("leaf.pem", "leaf.key")
        lock = threading.Lock()
        def read(stream):
            data = b""
            while b"\r\n\r\n" not in data:
                more = stream.recv(65536)
                if not more: return data
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            lower = head.lower()
            if b"\r\ntransfer-encoding: chunked" in lower:
                while not body.endswith(b"0\r\n\r\n"):
                    more = stream.recv(65536)
                    if not more: break
                    body += more
            elif b"\r\ncontent-length: " in lower:
                length = int(lower.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
                while len(body) < length:
                    more = stream.recv(65536)
                    if not more: break
                    body += more
            return head + b"\r\n\r\n" + body
        def serve(plain):
            try:
                stream = context.wrap_socket(plain, server_side=True)
                request = read(stream)
                with lock, open("received", "ab") as file: file.write(request + b"\x01")
                path = request.split(b" ")[1].split(b"?")[0].decode().rsplit("/", 1)[-1]
                ends = True
                def say(text): stream.sendall(text if isinstance(text, bytes) else text.encode())
                whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request) + request
                if path == "chunked":
                    say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for place in range(0, len(request), 3):
                        piece = request[place:place + 3]
                        say(b"%x\r\n" % len(piece) + piece + b"\r\n")
                    say("0\r\nX-Trailer: " + request.decode("latin1").split("\r\n")[1] + "\r\n\r\n")
                elif path == "close": say(b"HTTP/1.0 200 OK\r\n\r\n" + request)
                elif path == "cut":
                    say(b"HTTP/1.0 200 OK\r\n\r\nhalf of it")
                    ends = False
                elif path == "short": say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfew")
                elif path == "redirect":
                    say("HTTP/1.1 302 Found\r\nLocation: https://other.test/\r\nContent-Length: 0\r\n\r\n")
                elif path == "gzip":
                    say("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx")
                elif path == "two": say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + whole)
                elif path == "ends":
                    say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok")
                elif path == "switch": say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
                elif path == "bare": say("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
                elif path == "field":
                    say(b"HTTP/1.1 200 OK\r\nX-Echo: " + request.split(b"authorization: ")[-1]
                        .split(b"\r\n")[0] + b"\r\nContent-Length: 0\r\n\r\n")
                elif path == "silent": stream.recv(1)
                else: say(whole)
                if ends: stream.unwrap()
            except (OSError, ValueError, IndexError): pass
            finally:
                plain.close()
        listener = socket.create_server((address, int(port)), backlog=64)
        os.rename("test.pem", "ca.pem")
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=serve, args=(plain,), daemon=True).start()
        """#

    /// Ready when this returns.
    init(
        _ address: String, port: UInt16 = 8443, for host: String = "secure.test",
        _ certificate: Certificate = .good
    ) async throws {
        let directory =
            FileManager.default.temporaryDirectory.path + "/mayfly-secure-\(UUID().uuidString)"
        self.directory = directory
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        serving = Task {
            _ = try? await runProgram(
                ProgramRequest([
                    "python3", "-c", Self.program, directory, address, "\(port)", host,
                    certificate.rawValue,
                ]))
        }
        let deadline = ContinuousClock.now + .seconds(30)
        while !FileManager.default.fileExists(atPath: authority) {
            try #require(.now < deadline, "the server did not start")
            try await Task.sleep(for: .milliseconds(20))
        }
    }
    func close() async {
        serving.cancel()
        await serving.value
        try? FileManager.default.removeItem(atPath: directory)
    }
}

/// What a client says, and what it hears.
struct Conversation: Sendable {
    /// Each is sent when what came before it has been answered, or at once.
    var said: [String]
    /// What answers a message ends so: the next is sent then.
    var waitsFor = ""
    var name = "secure.test"

    init(_ said: String...) { self.said = said }

    private static let program = #"""
        import json, socket, ssl, sys
        address, authority, target = sys.argv[1:]
        answers = []
        for talk in json.load(sys.stdin):
            heard, error = b"", ""
            try:
                plain = socket.create_connection((address, 3128), 10)
                plain.sendall(("CONNECT %s HTTP/1.1\r\n\r\n" % target).encode())
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    byte = plain.recv(1)
                    if not byte: break
                    head += byte
                if not head.startswith(b"HTTP/1.1 200"): heard = head + plain.recv(65536)
                else:
                    context = ssl.create_default_context(cafile=authority or None)
                    context.check_hostname = talk["name"] == target.split(":")[0]
                    context.set_alpn_protocols(["h2", "http/1.1"])
                    stream = context.wrap_socket(plain, server_hostname=talk["name"])
                    stream.settimeout(10)
                    def hear(until):
                        global heard
                        begin = len(heard)
                        while not until or until not in heard[begin:]:
                            more = stream.recv(65536)
                            if not more: return
                            heard += more
                    for message in talk["said"][:-1]:
                        stream.sendall(message.encode("latin1"))
                        if talk["until"]: hear(talk["until"].encode("latin1"))
                    stream.sendall(talk["said"][-1].encode("latin1"))
                    hear(b"")
            except (OSError, ssl.SSLError) as problem: error = repr(problem)
            answers.append([heard.decode("latin1"), error])
        json.dump(answers, sys.stdout)
        """#

    struct Answer: Sendable, CustomStringConvertible {
        let heard: String
        let error: String
        var status: Int? { heard.split(separator: " ").dropFirst().first.flatMap { Int($0) } }
        var reason: String? {
            heard.split(separator: "\r\n").first { $0.hasPrefix("x-mayfly-reason: ") }.map {
                String($0.dropFirst(17))
            }
        }
        var description: String { "\(heard.debugDescription) \(error)" }
    }
    /// Each on a connection of its own, one after the other.
    static func run(
        _ talks: [Conversation], at entrance: Entrance, trusting authority: String,
        with target: String = "secure.test:8443"
    ) async throws -> [Answer] {
        var request = ProgramRequest([
            "python3", "-c", program, entrance.address, authority, target,
        ])
        let list = talks.map {
            ["said": $0.said, "until": $0.waitsFor, "name": $0.name] as [String: Any]
        }
        request.input = [UInt8](try JSONSerialization.data(withJSONObject: list))
        let ended = try await runProgram(request)
        let answers =
            try JSONSerialization.jsonObject(with: Data(ended.output.utf8)) as? [[String]]
        return try #require(answers, "\(ended)").map { Answer(heard: $0[0], error: $0[1]) }
    }
}

extension World {
    /// A gateway that speaks TLS, and its entrance.
    func secureGateway(
        _ rules: [String], ceiling: [String]? = nil, trusting authority: String,
        capabilities: [EgressCapability] = [], _ change: (inout EgressLimits) -> Void = { _ in }
    ) async throws -> (gateway: EgressGateway, tls: EgressTLS, entrance: Entrance) {
        names.set("secure.test", .addresses([goodAddress]))
        var limits = EgressLimits()
        change(&limits)
        var policy = try policy(rules, ceiling: ceiling)
        policy.capabilities = capabilities
        let tls = try await EgressTLS(authorities: authority)
        let gateway = await EgressGateway(
            policy: policy, resolver: resolver, limits: limits, tls: tls)
        return (gateway, tls, try Entrance("\(prefix).200", gateway))
    }
}
