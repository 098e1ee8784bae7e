// Servers for a job's streams, each on a thread of its own: what stands in a worker behind the other
// end of a stream, in a few lines.

import Foundation
import Processes
import Synchronization
import Wire

@testable import Machines

/// What one job opened, and how it is answered.
final class TestNetwork: Sendable {
    enum Server: Sendable {
        /// One answer of HTTP to a request: so many bytes as its path says, and the end.
        case http
        /// What comes goes back, until the end.
        case echo
        /// Reads nothing and says nothing, for as long as this object lives.
        case silent
        /// Closes at once.
        case closed
        /// Sends zeros without end, and reads nothing.
        case flood
    }

    private let server: Server
    private let streams = Mutex<(opened: [NetworkService], open: Int, most: Int)>(([], 0, 0))
    private let held = Mutex<[CInt]>([])

    init(_ server: Server) { self.server = server }
    deinit { for number in held.withLock({ $0 }) { close(number) } }

    var opened: [NetworkService] { streams.withLock { $0.opened } }
    var openCount: Int { streams.withLock { $0.open } }
    var mostOpen: Int { streams.withLock { $0.most } }

    /// For a job; a stream is served until its end.
    var handler: NetworkHandler {
        { [self] descriptor, service in
            // Blocking, on a thread that owns it.
            let number = dup(descriptor.number)
            _ = fcntl(number, F_SETFL, fcntl(number, F_GETFL) & ~O_NONBLOCK)
            streams.withLock {
                $0.opened.append(service)
                $0.open += 1
                $0.most = max($0.most, $0.open)
            }
            if server == .silent {
                held.withLock { $0.append(number) }
                return
            }
            Thread.detachNewThread { [self] in
                if service == .names { answerNames(number) } else { serve(number) }
                close(number)
                streams.withLock { $0.open -= 1 }
            }
        }
    }

    private func serve(_ number: CInt) {
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        switch server {
        case .http:
            guard var request = head(number, &buffer) else { return }
            if request.starts(with: Array("CONNECT ".utf8)) {
                send(Array("HTTP/1.1 200 OK\r\n\r\n".utf8), number)
                guard let inner = head(number, &buffer) else { return }
                request = inner
            }
            let path = String(decoding: request, as: UTF8.self).split(separator: " ").dropFirst()
                .first?.split(separator: "/").last
            let size = path.flatMap { Int($0) } ?? 0
            send(
                Array(
                    "HTTP/1.1 200 OK\r\nContent-Length: \(size)\r\nConnection: close\r\n\r\n".utf8),
                number)
            var left = size
            let piece = [UInt8](repeating: 0x61, count: 256 << 10)
            while left > 0, send(Array(piece.prefix(left)), number) { left -= piece.count }
        case .echo:
            while true {
                let count = unsafe read(number, &buffer, buffer.count)
                guard count > 0, send(Array(buffer[..<count]), number) else { return }
            }
        case .flood: while send(buffer, number) {}
        case .silent, .closed: return
        }
    }
    private func head(_ number: CInt, _ buffer: inout [UInt8]) -> [UInt8]? {
        var head: [UInt8] = []
        while head.suffix(4) != [13, 10, 13, 10] {
            let count = unsafe read(number, &buffer, buffer.count)
            guard count > 0 else { return nil }
            head += buffer[..<count]
        }
        return head
    }
    /// Each question: its name has the address 192.0.2.7.
    private func answerNames(_ number: CInt) {
        var pending: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            while pending.count > 2 {
                let length = Int(pending[0]) << 8 | Int(pending[1])
                guard pending.count >= 2 + length, length > 16 else { break }
                let question = Array(pending[2..<2 + length])
                pending.removeFirst(2 + length)
                let answer = Self.answer(question)
                guard send([UInt8(answer.count >> 8), UInt8(answer.count & 255)] + answer, number)
                else { return }
            }
            let count = unsafe read(number, &buffer, buffer.count)
            guard count > 0 else { return }
            pending += buffer[..<count]
        }
    }
    private static func answer(_ question: [UInt8]) -> [UInt8] {
        var end = 12
        while end < question.count, question[end] != 0 { end += Int(question[end]) + 1 }
        let asked = Array(question[12..<min(end + 5, question.count)])
        let isFour = asked.count > 3 && asked[asked.count - 3] == 1
        var answer =
            Array(question[..<2]) + [0x81, 0x80, 0, 1, 0, isFour ? 1 : 0, 0, 0, 0, 0] + asked
        if isFour { answer += [0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7] }
        return answer
    }
    @discardableResult
    private func send(_ bytes: [UInt8], _ number: CInt) -> Bool {
        var start = 0
        while start < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe Glibc.send(
                    number, $0.baseAddress?.advanced(by: start), $0.count - start,
                    CInt(MSG_NOSIGNAL))
            }
            guard count > 0 else { return false }
            start += count
        }
        return true
    }
}
