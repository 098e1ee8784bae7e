// A web server for the demo's browse job: two pages and what one of them fetches, on loopback. One
// request a connection, one connection after the other; what is too slow or too long gets no
// answer.

import Events
import Glibc
import Processes

/// Serves until it goes away.
@LoopActor
final class DemoServer {
    private enum Bounds {
        static let head = 16 << 10
        static let time = Duration.seconds(5)
    }
    /// `127.0.0.1:PORT`, as an allow-list has it.
    nonisolated let authority: String
    private let listener: LoopbackListener
    private var serving: Task<Void, Never>?

    init() throws(SystemError) {
        listener = try LoopbackListener(isBlocking: false)
        authority = "127.0.0.1:\(listener.port)"
    }

    func start() { serving = Task { @LoopActor in await serve() } }
    func end() async {
        serving?.cancel()
        await serving?.value
    }

    private func serve() async {
        while !Task.isCancelled {
            _ = await EventLoop.shared.ready([(listener.descriptor.number, .read)], before: nil)
            let number = accept(listener.descriptor.number, nil, nil)
            guard number >= 0 else { continue }
            let client = Descriptor(number)
            guard fcntl(number, F_SETFD, FD_CLOEXEC) == 0, fcntl(number, F_SETFL, O_NONBLOCK) == 0
            else { continue }
            await answer(client)
        }
    }

    private func answer(_ client: consuming Descriptor) async {
        let number = client.number
        let deadline = ContinuousClock.now + Bounds.time
        var head: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 4096)
        while !head.suffix(4).elementsEqual("\r\n\r\n".utf8) {
            guard head.count < Bounds.head, await isReady(number, .read, deadline) else { return }
            let count = unsafe recv(number, &block, block.count, 0)
            guard count > 0 else { return }
            head += block[..<count]
        }
        // The method, the path with its query, and the version.
        let target = head.split(separator: UInt8(ascii: " "), maxSplits: 2).dropFirst().first ?? []
        let path = target.prefix { $0 != UInt8(ascii: "?") }
        let page = Self.pages.first { path.elementsEqual($0.path.utf8) }
        var left = Self.response(page)[...]
        while !left.isEmpty {
            guard await isReady(number, .write, deadline) else { return }
            let count = unsafe Array(left).withUnsafeBytes {
                unsafe send(number, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL))
            }
            guard count > 0 else { return }
            left = left.dropFirst(count)
        }
    }
    private func isReady(
        _ number: CInt, _ interest: EventLoop.Interest, _ deadline: ContinuousClock.Instant
    ) async -> Bool {
        if case .ready = await EventLoop.shared.ready([(number, interest)], before: deadline) {
            return true
        }
        return false
    }

    // MARK: Pages

    private struct Page {
        var path: String
        var type = "text/html; charset=utf-8"
        var body: String
    }
    private static func response(_ page: Page?) -> [UInt8] {
        let body = Array((page?.body ?? "there is no such page\n").utf8)
        return Array(
            """
            HTTP/1.1 \(page == nil ? "404 Not Found" : "200 OK")\r
            Content-Type: \(page?.type ?? "text/plain")\r
            Content-Length: \(body.count)\r
            Connection: close\r
            \r

            """.utf8) + body
    }
    private static let pages = [
        Page(
            path: "/order",
            body: """
                <!doctype html><title>Order</title>
                <style>body { font: 16px sans-serif; margin: 2em }</style>
                <h1>Order</h1><p id=stock>no script has run</p>
                <form action="/thanks"><label>Name <input name=name></label>
                <button>Send</button></form>
                <img alt="a tracker's picture" src="http://tracker.example/p.png">
                <script>
                fetch("/stock").then(r => r.json()).then(d => {
                    stock.textContent = `${d.left} left`;
                });
                </script>
                """),
        Page(path: "/stock", type: "application/json", body: #"{"left": 17}"#),
        Page(
            path: "/thanks",
            body: """
                <!doctype html><title>Thanks</title>
                <style>body { font: 16px sans-serif; margin: 2em }</style>
                <h1>Thanks</h1><p id=who></p>
                <table><tr><th>Item<th>Price</tr><tr><td>Tea<td>4.50</tr></table>
                <script>who.textContent = new URLSearchParams(location.search).get("name");</script>
                """),
    ]
}
