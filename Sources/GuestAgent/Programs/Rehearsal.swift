// REHEARSE: the agent plays a job's way once, by itself, in a machine that shall wait for a job.
// Whatever runs for the first time is slow: pages are not there yet, and under emulation no code is
// translated. The programs are the agent's own; nothing of a host's is ever run here.

import Glibc
import Wire

/// One step of the way: what a host would say, and what must be the last answer.
private struct Scene {
    var messages: [HostMessage]
    var isDone: (GuestMessage) -> Bool
}

extension Agent {
    /// A machine in which this takes longer is of no use.
    private static let rehearsalTimeout: Int64 = 30_000_000

    /// Walks the way, leaves nothing behind, and has the next program's process forked ahead.
    mutating func rehearse() throws(WireError) {
        var failure = ""
        let deadline = monotonicMicroseconds() + Self.rehearsalTimeout
        do throws(WireError) {
            try play(before: deadline)
            try forkAhead(before: deadline)
            measureMemory()
        } catch {
            failure = error.description
            program = nil
        }
        try connection.send(.ack(failure.isEmpty ? .ok : .failed, message: failure))
    }

    /// Plays every scene over a connection that leads to nobody.
    private mutating func play(before deadline: Int64) throws(WireError) {
        var stage = GuestConnection(rehearsing: options.agent)
        swap(&stage, &connection)
        isRehearsing = true
        defer {
            isRehearsing = false
            swap(&stage, &connection)
        }
        var decoder = FrameDecoder(from: .guest)
        var stream: UInt32 = 1
        for scene in scenes {
            try play(scene, on: stream, &decoder, before: deadline)
            stream += 2
        }
        forgetSession()
        interpreters.python.forgetPrograms()
    }

    private var scenes: [Scene] {
        let isStored = { (message: GuestMessage) in message == .ack(.ok, message: "") }
        let hasEnded = { (message: GuestMessage) in
            if case .exit(let report) = message { report.ending == .code(0) } else { false }
        }
        let python = Array("import sys, json\nprint(json.dumps([6 * 7]))\n[6 * 7]\n".utf8)
        let shell = Array("echo $((6 * 7)) | cat\necho 42\n".utf8)
        var scenes = [
            Scene(
                messages: [
                    .put(PutRequest(name: "main.py", byteCount: UInt64(python.count))),
                    .file(python, isFinal: true),
                ], isDone: isStored),
            Scene(
                messages: [
                    .put(PutRequest(name: "main.sh", byteCount: UInt64(shell.count))),
                    .file(shell, isFinal: true),
                ], isDone: isStored),
        ]
        if interpreters.python.isReady {
            let request = ExecRequest(
                program: .python, arguments: [], sourceName: "main.py", hasEvents: true,
                reportsValues: true)
            scenes.append(Scene(messages: [.exec(request)], isDone: hasEnded))
        }
        if unsafe access("/bin/bash", X_OK) == 0 {
            let request = ExecRequest(program: .command, arguments: ["/bin/bash", "main.sh"])
            scenes.append(Scene(messages: [.exec(request)], isDone: hasEnded))
        }
        scenes += [
            Scene(messages: [.list(ListRequest(patterns: ["**"], maximumEntries: 9))]) {
                if case .listed(let files, _) = $0 { files.count == 2 } else { false }
            },
            Scene(messages: [.get(GetRequest(name: "main.py", maximumByteCount: 1 << 20))]) {
                if case .file(_, isFinal: true) = $0 { true } else { false }
            },
        ]
        return scenes
    }

    private mutating func play(
        _ scene: Scene, on stream: UInt32, _ decoder: inout FrameDecoder, before deadline: Int64
    ) throws(WireError) {
        var bytes: [UInt8] = []
        for message in scene.messages { try message.encode(stream: stream, into: &bytes) }
        connection.receive(bytes)
        while let event = try connection.next() { try handle(event) }
        while true {
            decoder.feed(connection.takeOutput())
            while let frame = try decoder.next() {
                let message = try GuestMessage(decoding: frame)
                switch message {
                case .exit, .ack, .listed, .file(_, isFinal: true):
                    guard frame.stream == stream, scene.isDone(message) else {
                        throw .unexpected("'\(message.type)' in the rehearsal: \(message)")
                    }
                    return
                default: break
                }
            }
            try step(before: deadline)
        }
    }

    /// A turn of the agent's loop without a host.
    private mutating func step(before deadline: Int64) throws(WireError) {
        guard monotonicMicroseconds() < deadline else {
            throw .unexpected("the rehearsal takes too long")
        }
        set.removeAll()
        set.add(childSignal, POLLIN)
        addInterest()
        let milliseconds = timeout()
        set.wait(milliseconds: milliseconds < 0 ? 1000 : min(milliseconds, 1000))
        if set.has(childSignal) { reap() }
        try advance()
    }

    private mutating func forkAhead(before deadline: Int64) throws(WireError) {
        guard interpreters.python.isReady else { return }
        do throws(SystemError) { try interpreters.python.forkAhead() } catch {
            throw .unexpected(error.description)
        }
        while !interpreters.python.isAhead {
            guard interpreters.python.isReady else { throw .unexpected("the parked python ended") }
            try step(before: deadline)
        }
    }
}
