// A small Internet on loopback: servers that count and keep what reaches them, and a DNS server whose
// answers a test decides. Each world has addresses of its own, so that many can live side by side.

import Egress
import Events
import Foundation
import Glibc
import Processes
import Synchronization
import Testing

/// A TCP server: answers HTTP requests in plain text, echoes everything else.
final class Peer: Sendable {
    struct Log {
        var connections = 0
        var received: [UInt8] = []
    }
    let address: String
    let port: UInt16
    let log = Mutex(Log())
    private let listener: CInt
    /// What it says to a request that begins like HTTP.
    private let response: [UInt8]
    /// What it says before anybody else does.
    private let greeting: [UInt8]

    static let plainResponse = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: 9\r\n\r\nok"

    init(
        _ address: String, _ port: UInt16, response: String = plainResponse, greeting: String = ""
    ) throws {
        self.address = address
        self.port = port
        self.response = Array(response.utf8)
        self.greeting = Array(greeting.utf8)
        let isV6 = address.contains(":")
        listener = socket(isV6 ? AF_INET6 : AF_INET, CInt(SOCK_STREAM.rawValue), 0)
        var one: CInt = 1
        unsafe setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, 4)
        let status = bindSocket(listener, address, port)
        try #require(status == 0, "bind \(address):\(port): \(errnoText(errno))")
        try #require(listen(listener, 128) == 0)
        Thread.detachNewThread { [self] in accepting() }
    }
    func close() { shutdown(listener, CInt(SHUT_RDWR)) }
    deinit { Glibc.close(listener) }

    private func accepting() {
        while true {
            let number = accept(listener, nil, nil)
            guard number >= 0 else { return }
            log.withLock { $0.connections += 1 }
            Thread.detachNewThread { [self] in
                serve(Descriptor(number))
            }
        }
    }
    private func serve(_ descriptor: consuming Descriptor) {
        var isHTTP: Bool?
        var seen: [UInt8] = []
        sendBytes(descriptor.number, greeting)
        while let bytes = receiveBytes(descriptor.number) {
            log.withLock { $0.received += $0.received.count < 1 << 20 ? bytes : [] }
            if isHTTP == nil { isHTTP = (0x41...0x5A).contains(bytes[0]) }
            guard isHTTP == true else {
                sendBytes(descriptor.number, bytes)
                continue
            }
            seen += bytes
            if seen.count >= 4, String(decoding: seen, as: UTF8.self).contains("\r\n\r\n") {
                sendBytes(descriptor.number, response)
                return
            }
        }
    }
    var connections: Int { log.withLock { $0.connections } }
    var received: String { log.withLock { String(decoding: $0.received, as: UTF8.self) } }
}

func bindSocket(_ number: CInt, _ address: String, _ port: UInt16) -> CInt {
    guard let parsed = IPAddress(address) else { return -1 }
    if parsed.isV6 {
        var a = sockaddr_in6()
        a.sin6_family = sa_family_t(AF_INET6)
        a.sin6_port = port.bigEndian
        unsafe withUnsafeMutableBytes(of: &a.sin6_addr) { unsafe $0.copyBytes(from: parsed.bytes) }
        return unsafe withUnsafePointer(to: &a) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(number, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
            }
        }
    }
    var a = sockaddr_in()
    a.sin_family = sa_family_t(AF_INET)
    a.sin_port = port.bigEndian
    unsafe withUnsafeMutableBytes(of: &a.sin_addr) { unsafe $0.copyBytes(from: parsed.bytes) }
    return unsafe withUnsafePointer(to: &a) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            unsafe bind(number, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
}
@discardableResult
func sendBytes(_ number: CInt, _ bytes: [UInt8]) -> Bool {
    var rest = bytes[...]
    while !rest.isEmpty {
        let count = unsafe rest.withUnsafeBytes {
            unsafe send(number, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL))
        }
        guard count > 0 else { return false }
        rest = rest.dropFirst(count)
    }
    return true
}
/// What comes next; `nil` at the end, or after ten seconds of silence.
func receiveBytes(_ number: CInt, atMost limit: Int = 65536) -> [UInt8]? {
    var wait = pollfd(fd: number, events: Int16(POLLIN), revents: 0)
    guard unsafe poll(&wait, 1, 10_000) == 1 else { return nil }
    let bytes = unsafe [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
        unsafe count = max(0, recv(number, buffer.baseAddress, limit, 0))
    }
    return bytes.isEmpty ? nil : bytes
}

/// A DNS server on loopback.
final class NameServer: Sendable {
    enum Answer: Sendable {
        case addresses([String])
        /// A chain of names, then the addresses of the last.
        case alias([String], [String])
        case code(UInt8)
        case silence
        /// Bytes that are no message, behind the query's id.
        case garbage([UInt8])
        /// Says that there is more over TCP, where nobody is.
        case truncated
    }
    struct State {
        var zone: [String: [Answer]] = [:]
        /// Every question that came.
        var asked: [String] = []
        var rounds: [String: Int] = [:]
    }
    let state = Mutex(State())
    let port: UInt16
    let address: String
    private let number: CInt

    init(_ address: String) throws {
        self.address = address
        let number = socket(AF_INET, CInt(SOCK_DGRAM.rawValue), 0)
        self.number = number
        try #require(bindSocket(number, address, 0) == 0)
        var a = sockaddr_in()
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let status = unsafe withUnsafeMutablePointer(to: &a) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe getsockname(number, $0, &size)
            }
        }
        try #require(status == 0)
        port = UInt16(bigEndian: a.sin_port)
        Thread.detachNewThread { [self] in serving() }
    }
    func close() { shutdown(number, CInt(SHUT_RDWR)) }
    deinit { Glibc.close(number) }

    /// Answers for a name: one for each question for A (and the AAAA beside it), the last for all after.
    func set(_ name: String, _ answers: Answer...) {
        state.withLock { $0.zone[name] = answers }
    }
    var asked: [String] { state.withLock { $0.asked } }

    private func serving() {
        var peer = sockaddr_storage()
        var buffer = [UInt8](repeating: 0, count: 2048)
        while true {
            var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let count = unsafe withUnsafeMutablePointer(to: &peer) { pointer in
                unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    unsafe recvfrom(number, &buffer, buffer.count, 0, $0, &size)
                }
            }
            guard count > 0 else { return }
            guard let reply = reply(Array(buffer[..<count])) else { continue }
            _ = unsafe withUnsafePointer(to: &peer) { pointer in
                unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    unsafe sendto(number, reply, reply.count, 0, $0, size)
                }
            }
        }
    }
    private func reply(_ query: [UInt8]) -> [UInt8]? {
        var labels: [String] = []
        var place = 12
        while place < query.count, query[place] != 0 {
            labels.append(
                String(
                    decoding: query[(place + 1)..<(place + 1 + Int(query[place]))], as: UTF8.self))
            place += 1 + Int(query[place])
        }
        let question = Array(query[12..<(place + 5)])
        let type = query[place + 2]
        let name = labels.joined(separator: ".").lowercased()
        let answer = state.withLock { state in
            state.asked.append(name)
            guard let answers = state.zone[name] else { return Answer.code(3) }
            let key = "\(name)/\(type)"
            let round = state.rounds[key, default: 0]
            state.rounds[key] = round + 1
            return answers[min(round, answers.count - 1)]
        }
        func head(_ code: UInt8, _ count: Int, truncated: Bool = false) -> [UInt8] {
            Array(query[0..<2]) + [0x81 | (truncated ? 2 : 0), 0x80 | code, 0, 1]
                + [0, UInt8(count), 0, 0, 0, 0] + question
        }
        switch answer {
        case .code(let code): return head(code, 0)
        case .silence: return nil
        case .garbage(let bytes): return Array(query[0..<2]) + bytes
        case .truncated: return head(0, 0, truncated: true)
        case .addresses(let texts): return records(of: texts, type, owner: [0xC0, 12], head)
        case .alias(let names, let texts):
            var owner: [UInt8] = [0xC0, 12]
            var records: [UInt8] = []
            for name in names {
                let target = Self.encoded(name)
                records += owner + [0, 5, 0, 1, 0, 0, 0, 0, 0, UInt8(target.count)] + target
                owner = target
            }
            let last = self.records(of: texts, type, owner: owner, { _, _, _ in [] })
            let fitting = Self.fitting(texts, type).count
            return head(0, names.count + fitting) + records + last
        }
    }
    private static func fitting(_ texts: [String], _ type: UInt8) -> [IPAddress] {
        texts.compactMap { IPAddress($0) }.filter { $0.isV6 == (type == 28) }
    }
    private func records(
        of texts: [String], _ type: UInt8, owner: [UInt8], _ head: (UInt8, Int, Bool) -> [UInt8]
    ) -> [UInt8] {
        let addresses = Self.fitting(texts, type)
        return addresses.reduce(into: head(0, addresses.count, false)) { message, address in
            message += owner + [0, type, 0, 1, 0, 0, 0, 0, 0, UInt8(address.bytes.count)]
            message += address.bytes
        }
    }
    static func encoded(_ name: String) -> [UInt8] {
        name.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0]
    }
}

/// Servers, a DNS server and a resolver that asks it.
final class World: Sendable {
    /// The first three numbers of this world's addresses.
    let prefix: String
    let names: NameServer
    let good: [Peer]
    let forbidden: [Peer]
    let resolver: Resolver

    private static let count = Mutex(0)

    init() async throws {
        let number = Self.count.withLock { count in
            count += 1
            return Int(getpid()) &* 131 &+ count &* 7
        }
        prefix = "127.\(64 + number / 250 % 150).\(1 + number % 250)"
        names = try NameServer("\(prefix).53")
        let address = "\(prefix).1"
        good = try [80, 443, 2222].map { try Peer(address, $0) }
        // The same ports on an address of loopback that is not permitted.
        forbidden = try [80, 443, 2222].map { [prefix] in
            try Peer("127.\(32 + number % 30).\(prefix.split(separator: ".")[2]).9", $0)
        }
        resolver = try await Resolver(
            servers: ["\(names.address):\(names.port)"], timeout: .milliseconds(300), tries: 2)
        names.set("good.test", .addresses([address]))
        names.set("a.wild.test", .addresses([address]))
        names.set("b.a.wild.test", .addresses([address]))
        names.set("wild.test", .addresses([address]))
    }
    /// Ends every server.
    func close() {
        names.close()
        for peer in good + forbidden { peer.close() }
    }
    var goodAddress: String { "\(prefix).1" }
    var forbiddenAddress: String { forbidden[0].address }

    func policy(
        _ rules: [String], ceiling: [String]? = nil,
        ech: EgressPolicy.EncryptedHello = .refused
    ) throws -> EgressPolicy {
        EgressPolicy(
            rules: try rules.map { try EgressRule($0) },
            ceiling: try (ceiling ?? rules).map { try EgressRule($0) },
            permittedNetworks: [try IPNetwork("\(prefix).0/24")], encryptedHello: ech)
    }
    func gateway(
        _ rules: [String] = ["*", "*:2222"], ceiling: [String]? = nil,
        ech: EgressPolicy.EncryptedHello = .refused,
        _ change: (inout EgressLimits) -> Void = { _ in }
    ) async throws -> EgressGateway {
        var limits = EgressLimits()
        change(&limits)
        return await EgressGateway(
            policy: try policy(rules, ceiling: ceiling, ech: ech), resolver: resolver,
            limits: limits)
    }
}

/// The guest's end of one stream.
final class Client: Sendable {
    let number: CInt
    init(_ gateway: EgressGateway, _ service: EgressService = .proxy) async throws {
        let pair = try SocketPair()
        let ours = dup(pair.theirs.number)
        number = ours
        await gateway.serve(pair.take(), as: service)
    }
    deinit { close(number) }
    func send(_ bytes: [UInt8]) async { await offload { [number] in _ = sendBytes(number, bytes) } }
    func send(_ text: String) async { await send(Array(text.utf8)) }
    func receive(atMost limit: Int = 65536) async -> [UInt8]? {
        await offload { [number] in receiveBytes(number, atMost: limit) }
    }
    /// Everything up to the end.
    func receiveAll() async -> [UInt8] {
        var all: [UInt8] = []
        while let bytes = await receive() { all += bytes }
        return all
    }
    /// Exactly so many bytes, fewer at the end.
    func receive(exactly count: Int) async -> [UInt8] {
        var all: [UInt8] = []
        while all.count < count, let bytes = await receive(atMost: count - all.count) {
            all += bytes
        }
        return all
    }
    func endWriting() { shutdown(number, CInt(SHUT_WR)) }
    /// Asks for a tunnel and gives what the proxy says up to its empty line.
    func connect(_ authority: String) async -> String {
        await send("CONNECT \(authority) HTTP/1.1\r\nHost: \(authority)\r\n\r\n")
        var head: [UInt8] = []
        while !head.suffix(4).elementsEqual("\r\n\r\n".utf8), let byte = await receive(atMost: 1) {
            head += byte
        }
        return String(decoding: head, as: UTF8.self)
    }
}

/// Records of streams that have ended; waits for them.
func records(of gateway: EgressGateway, count: Int = 1) async -> [EgressRecord] {
    var all: [EgressRecord] = []
    let deadline = ContinuousClock.now + .seconds(20)
    while all.count < count, .now < deadline {
        all += await gateway.takeRecords()
        await EventLoop.shared.yield()
    }
    return all
}

/// A ClientHello, as a client would send it, or would not.
struct Hello {
    var name: String? = "good.test"
    var ech = false
    /// Bytes of each record; the whole in one by default.
    var recordSize = 16384
    var padding = 0
    /// The extension of the server name, instead of a proper one.
    var rawName: [UInt8]?
    var isTwice = false

    var message: [UInt8] {
        func vector(_ bytes: [UInt8], _ count: Int) -> [UInt8] {
            (0..<count).reversed().map { UInt8(truncatingIfNeeded: bytes.count >> ($0 * 8)) }
                + bytes
        }
        func part(_ type: UInt16, _ bytes: [UInt8]) -> [UInt8] {
            [UInt8(type >> 8), UInt8(type & 0xFF)] + vector(bytes, 2)
        }
        var parts = part(0x1A1A, [])  // GREASE
        if let rawName {
            parts += part(0, rawName)
        } else if let name {
            parts += part(0, vector([0] + vector(Array(name.utf8), 2), 2))
        }
        if isTwice { parts += part(0, vector([0] + vector(Array("other.test".utf8), 2), 2)) }
        if ech { parts += part(0xFE0D, [0, 0, 1, 0, 1, 7, 0, 0, 0, 0]) }
        parts += part(21, [UInt8](repeating: 0, count: padding))
        let body =
            [3, 3] + [UInt8](repeating: 9, count: 32) + vector([UInt8](repeating: 4, count: 32), 1)
            + vector([0x13, 1], 2) + vector([0], 1) + vector(parts, 2)
        return [1] + vector(body, 3)
    }
    var bytes: [UInt8] {
        stride(from: 0, to: message.count, by: recordSize).flatMap { start -> [UInt8] in
            let piece = message[start..<min(message.count, start + recordSize)]
            return [22, 3, 1, UInt8(piece.count >> 8), UInt8(piece.count & 0xFF)] + piece
        }
    }
}
