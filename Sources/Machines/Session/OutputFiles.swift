// Files out of a machine after its program: which of the listed names are outputs, each fetched
// within its limits. A listing is the guest's word: it is held against the job's own patterns here.

import Events
import Glibc
import Wire

extension AgentSession {
    /// Adds the job's output files to its report.
    ///
    /// A program that has ended keeps its result whatever happens here, as long as its machine is
    /// there and keeps to the protocol: what could not be collected in time becomes a warning.
    func collect(_ job: GuestJob, into report: inout GuestReport) async throws(MachineError) {
        guard !job.outputs.isEmpty else { return }
        let deadline = ContinuousClock.now + transferTimeout
        do throws(MachineError) {
            let wanted = try await list(job, into: &report, deadline)
            try await fetch(wanted, job.limits, into: &report, deadline)
        } catch  where slowness != nil {
            report.warnings.append(.collectionUnfinished)
        }
    }

    private func list(
        _ job: GuestJob, into report: inout GuestReport, _ deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> [ListedFile] {
        _ = try open(
            .list(
                ListRequest(
                    patterns: job.outputs, maximumEntries: UInt16(Limits.listedFiles))))
        let (_, message) = try await message(before: deadline)
        switch message {
        case .listed(let files, let isTruncated):
            if isTruncated { report.warnings.append(.listingTruncated) }
            guard !files.isEmpty else { return [] }
            let listing = Listing(files: files, job: job)
            // A few names and patterns are quicker looked at than handed to another thread.
            if listing.isSmall { return try listing.outputs() }
            return try await offload { () throws(MachineError) in try listing.outputs() }
        case .ack(_, let words):
            report.warnings.append(.listingFailed(words))
            return []
        default: throw MachineError(.protocolViolation, "LIST was not answered with LISTED")
        }
    }

    private func fetch(
        _ wanted: [ListedFile], _ limits: OutputLimits, into report: inout GuestReport,
        _ deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        if wanted.count > limits.fileCount {
            report.limit("\(wanted.count) output files; at most \(limits.fileCount) are kept")
        }
        var total = 0
        for file in wanted.prefix(limits.fileCount) {
            let room = min(limits.file.bytes, limits.allFiles.bytes - total)
            guard file.byteCount <= UInt64(room), let size = Int(exactly: file.byteCount) else {
                report.limit(
                    "the output file \(file.name) has \(file.byteCount) bytes; at most "
                        + "\(limits.file) each and \(limits.allFiles) in all are kept")
                continue
            }
            guard let bytes = try await get(file.name, size, into: &report, deadline) else {
                continue
            }
            total += bytes.count
            let isSmall = bytes.count < GuestJob.smallByteCount
            let digest = isSmall ? SHA256.hex(of: bytes) : await offload { SHA256.hex(of: bytes) }
            report.files.append(OutputFile(name: file.name, bytes: bytes, sha256: digest))
        }
    }

    /// A file of at most the size that it was listed with: everything that could change it is dead.
    private func get(
        _ name: String, _ size: Int, into report: inout GuestReport,
        _ deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> [UInt8]? {
        let stream = try open(.get(GetRequest(name: name, maximumByteCount: UInt64(size))))
        var bytes: [UInt8] = []
        // Once and for all: an array that grows moves everything that it holds.
        bytes.reserveCapacity(size)
        while true {
            let (_, message) = try await message(before: deadline)
            switch message {
            case .file(let chunk, let isFinal):
                guard chunk.count <= size - bytes.count else {
                    throw MachineError(
                        .protocolViolation, "the guest sent more of a file than was asked for")
                }
                bytes += chunk
                try release(chunk.count, of: stream)
                if isFinal { return bytes }
            case .ack(_, let words):
                report.warnings.append(.fileUnreadable(name, words))
                return nil
            default:
                throw MachineError(.protocolViolation, "\(message.type) while a file is read")
            }
        }
    }
}

/// What a guest says that it has, and what the job asked for.
private struct Listing: Sendable {
    let files: [ListedFile]
    let job: GuestJob

    /// Whether it can be looked at within a fraction of a millisecond.
    var isSmall: Bool { files.count * job.outputs.count <= 32 }

    /// The files that are outputs, in their order.
    ///
    /// - Throws: `protocolViolation` when a name is none of the patterns' or comes twice, or when
    ///   the search would have been more than an agent may do: no honest agent lists that.
    func outputs() throws(MachineError) -> [ListedFile] {
        do throws(WireError) {
            var patterns = try GuestPatterns(job.outputs)
            // What the host put there itself is no output, unless the job asked for it by name.
            let asked = Set(job.outputs.map(Bytes.init))
            var given = Set(job.files.map { Bytes($0.name) })
            if let source = job.sourceName { given.insert(Bytes(source)) }
            var seen: Set<Bytes> = []
            var outputs: [ListedFile] = []
            for file in files {
                let name = Bytes(file.name)
                guard try patterns.matches(file.name) else {
                    throw WireError.unexpected("a listed name that no pattern asks for")
                }
                guard seen.insert(name).inserted else {
                    throw WireError.unexpected("a name that is listed twice")
                }
                if !given.contains(name) || asked.contains(name) { outputs.append(file) }
            }
            return outputs
        } catch { throw AgentSession.violation(error) }
    }

    /// A name as Linux compares it; Swift's strings are equal when they only look alike.
    private struct Bytes: Hashable {
        let bytes: [UInt8]
        init(_ name: String) { bytes = Array(name.utf8) }
    }
}
