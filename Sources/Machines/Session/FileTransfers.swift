// One file into a machine or out of it, over a session: never more of it in memory than a part or
// two, whatever its size. Which files is GuestRun's and OutputFiles' business.

import Events
import Glibc
import Wire

extension AgentSession {
    /// How long files of so many bytes may take: 4 MiB/s is slow even for emulation.
    func transferDeadline(_ byteCount: Int) -> ContinuousClock.Instant {
        .now + transferTimeout + .milliseconds(byteCount >> 12)
    }

    // MARK: In

    /// Why the guest did not store a file.
    struct Refusal {
        let file: GuestFile
        let status: AckStatus
        /// The guest's.
        let words: String

        /// For a file that every job's machine could take.
        var error: MachineError {
            status == .noSpace
                ? MachineError(
                    .diskFull,
                    "the machine's disk has no room for \(file.name) "
                        + "(\(ByteCount(bytes: file.byteCount)))")
                : MachineError(.machineLost, "the guest could not store \(file.name): \(words)")
        }
    }

    /// Puts a file into the job's directory.
    ///
    /// - Throws: `inputUnavailable` when its bytes are not there any more or are others than they
    ///   should be, `storageFailed` when they could not be read.
    func put(
        _ file: GuestFile, _ deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> Refusal? {
        let stream = try open(.put(PutRequest(name: file.name, byteCount: UInt64(file.byteCount))))
        switch file.content {
        case .bytes(let bytes): try await sendPart(bytes, on: stream, isLast: true, deadline)
        case .stream(let source): try await send(source, of: file.name, on: stream, deadline)
        }
        guard case .ack(let status, let words) = try await message(before: deadline).1 else {
            throw MachineError(.protocolViolation, "a file was not answered with ACK")
        }
        return status == .ok ? nil : Refusal(file: file, status: status, words: words)
    }

    /// Reads a part ahead while the one before it is sent, and lets the last one go only when the
    /// digest of them all is right.
    private func send(
        _ source: ByteSource, of name: String, on stream: UInt32,
        _ deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        let hash = SHA256()
        var part = await source.result(at: 0)
        var end = 0
        while true {
            let bytes: [UInt8]
            do throws(TransferError) { bytes = try part.get() } catch {
                throw MachineError(error, "the input file \(name)")
            }
            end += bytes.count
            let isLast = end == source.byteCount
            guard isLast || (!bytes.isEmpty && end < source.byteCount) else {
                throw MachineError(
                    .inputUnavailable, "the input file \(name) has not the size it should have")
            }
            hash.update(bytes)
            if isLast { break }
            async let next = source.result(at: end)
            try await sendPart(bytes, on: stream, isLast: false, deadline)
            part = await next
        }
        guard hexText(hash.finish()) == source.sha256 else {
            throw MachineError(
                .inputUnavailable, "the bytes of the input file \(name) are not \(source.sha256)")
        }
        try await sendPart((try? part.get()) ?? [], on: stream, isLast: true, deadline)
    }

    /// No more at a time than the stream's credit.
    private func sendPart(
        _ bytes: [UInt8], on stream: UInt32, isLast: Bool, _ deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        var sent = 0
        while true {
            while sent < bytes.count, capacity(of: stream) > 0 {
                let end = min(bytes.count, sent + capacity(of: stream))
                try sendData(bytes[sent..<end], on: stream, isFinal: isLast && end == bytes.count)
                sent = end
            }
            if sent == bytes.count { break }
            guard try await messageOrCredit(before: deadline, sendingOn: stream) == nil else {
                throw MachineError(.protocolViolation, "a file was answered before its end")
            }
        }
        if bytes.isEmpty, isLast { try sendData(bytes[...], on: stream, isFinal: true) }
        try flush()
    }

    // MARK: Out

    /// A file of at most the size that it was listed with: everything that could change it is dead.
    ///
    /// - Parameter sink: where it goes part by part; `nil`: it is held in memory.
    /// - Returns: `nil` when it could not be read, which the report says.
    func get(
        _ listed: ListedFile, size: Int, to sink: ByteSink?, into report: inout GuestReport,
        _ deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> OutputFile? {
        let stream = try open(.get(GetRequest(name: listed.name, maximumByteCount: UInt64(size))))
        var file = Incoming(name: listed.name, limit: size, sink: sink)
        while true {
            let (_, message) = try await message(before: deadline)
            switch message {
            case .file(let chunk, let isFinal):
                guard chunk.count <= size - file.byteCount else {
                    throw MachineError(
                        .protocolViolation, "the guest sent more of a file than was asked for")
                }
                file.take(chunk)
                try await file.store(isFinal: isFinal)
                try release(chunk.count, of: stream)
                if isFinal { return file.finish() }
            case .ack(_, let words):
                report.warnings.append(.fileUnreadable(listed.name, words))
                return nil
            default:
                throw MachineError(.protocolViolation, "\(message.type) while a file is read")
            }
        }
    }
}

/// A file that is coming out of a machine.
private struct Incoming: ~Copyable {
    private let name: String
    private let limit: Int
    private let sink: ByteSink?
    private let hash = SHA256()
    private var bytes: [UInt8] = []
    private var storedByteCount = 0
    private var number: Int64?

    init(name: String, limit: Int, sink: ByteSink?) {
        self.name = name
        self.limit = limit
        self.sink = sink
        // Once and for all: an array that grows moves everything that it holds.
        let held = ByteSink.partByteCount + Limits.payloadByteCount
        bytes.reserveCapacity(sink == nil ? limit : held)
    }

    var byteCount: Int { storedByteCount + bytes.count }

    /// At most a frame, so it is hashed at once.
    mutating func take(_ chunk: [UInt8]) {
        hash.update(chunk)
        bytes += chunk
    }

    /// Stores whole parts, and the rest when nothing more comes.
    @LoopActor
    mutating func store(isFinal: Bool) async throws(MachineError) {
        guard let sink else { return }
        while bytes.count >= ByteSink.partByteCount || (isFinal && !bytes.isEmpty) {
            let part = Array(bytes.prefix(ByteSink.partByteCount))
            bytes.removeFirst(part.count)
            do throws(TransferError) {
                number = try await sink.append(part, storedByteCount, limit, number)
            } catch { throw MachineError(error, "the output file \(name)") }
            storedByteCount += part.count
        }
    }

    consuming func finish() -> OutputFile {
        let (name, count, bytes) = (name, byteCount, bytes)
        let content = number.map(OutputFile.Content.stored) ?? .bytes(bytes)
        return OutputFile(
            name: name, byteCount: count, sha256: hexText(hash.finish()), content: content)
    }
}

extension MachineError {
    fileprivate init(_ error: TransferError, _ what: String) {
        switch error {
        case .gone(let words): self.init(.inputUnavailable, "\(what): \(words)")
        case .failed(let words): self.init(.storageFailed, "\(what): \(words)")
        }
    }
}
