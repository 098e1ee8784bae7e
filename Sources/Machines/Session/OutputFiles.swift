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
        // What was shown was said in events.
        let isNothingShown = report.steps.isEmpty && report.events.total.bytes == 0
        guard !job.outputs.isEmpty || job.collectsChanges || !isNothingShown,
            !job.listing.patterns.isEmpty
        else { return }
        let deadline = ContinuousClock.now + transferTimeout
        do throws(MachineError) {
            let wanted = try await list(job, into: &report, deadline)
            try await fetch(wanted, job, into: &report)
        } catch  where slowness != nil {
            report.warnings.append(.collectionUnfinished)
        }
    }

    private func list(
        _ job: GuestJob, into report: inout GuestReport, _ deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> [WantedFile] {
        _ = try open(.list(job.listing))
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

    /// Gets the files that are within the limits, each as far as it goes.
    private func fetch(
        _ wanted: [WantedFile], _ job: GuestJob, into report: inout GuestReport
    ) async throws(MachineError) {
        let limits = job.limits
        let asked = wanted.count { $0.isAsked }
        if asked > limits.fileCount {
            report.limit("\(asked) output files; at most \(limits.fileCount) are kept")
        }
        // What it says that it has; no more than that is waited for.
        let listed = wanted.reduce(0) { sum, wanted in
            min(limits.allFiles.bytes, sum + Int(clamping: wanted.file.byteCount))
        }
        let deadline = transferDeadline(listed)
        var (total, held) = (0, 0)
        for (index, wanted) in wanted.enumerated() {
            let file = wanted.file
            if let reason = limits.reason(against: file, index: index, total: total) {
                if !wanted.isAsked {
                    report.skippedFiles.append(
                        SkippedFile(name: file.name, size: file.byteCount, reason: reason))
                } else if reason != .count {
                    report.limit(
                        "the output file \(file.name) has \(file.byteCount) bytes; at most "
                            + "\(limits.file) each and \(limits.allFiles) in all are kept")
                }
                continue
            }
            let size = Int(file.byteCount)
            let isHeld = size <= ByteSink.partByteCount && held + size <= ByteSink.heldByteCount
            guard
                var output = try await get(
                    file, size: size, to: isHeld ? nil : job.sink, into: &report, deadline)
            else { continue }
            output.status = wanted.status
            total += output.byteCount
            if isHeld { held += output.byteCount }
            report.files.append(output)
        }
    }
}

extension OutputLimits {
    /// Why a file is not kept, `nil` when it is.
    ///
    /// - Parameters:
    ///   - index: its place among all that were listed.
    ///   - total: bytes kept so far.
    fileprivate func reason(against file: ListedFile, index: Int, total: Int) -> SkippedFile.Reason?
    {
        if index >= fileCount { return .count }
        if file.byteCount > UInt64(self.file.bytes) { return .file }
        return file.byteCount > UInt64(allFiles.bytes - total) ? .total : nil
    }
}

extension GuestJob {
    /// Where the harness leaves what a program shows.
    private static let displays = "display-*"

    /// What the agent is asked for.
    fileprivate var listing: ListRequest {
        ListRequest(
            patterns: outputs + (collectsChanges ? ["**"] : reportsValues ? [Self.displays] : []),
            maximumEntries: UInt16(Limits.listedFiles),
            changesOnly: collectsChanges && outputs.isEmpty)
    }
}

/// A listed file that shall come back.
private struct WantedFile: Sendable {
    let file: ListedFile
    let status: OutputFile.Status
    /// By a pattern of the job's; a limit that it does not fit fails the job.
    let isAsked: Bool

    var isShown: Bool { !isAsked && file.name.utf8.starts(with: "display-".utf8) }
}

/// What a guest says that it has, and what the job asked for.
private struct Listing: Sendable {
    let files: [ListedFile]
    let job: GuestJob

    /// Whether it can be looked at within a fraction of a millisecond.
    var isSmall: Bool { files.count * job.listing.patterns.count <= 32 }

    /// The files that are outputs, in their order; what the program showed comes first.
    ///
    /// - Throws: `protocolViolation` when a name is none of the patterns' or comes twice, or when
    ///   the search would have been more than an agent may do: no honest agent lists that.
    func outputs() throws(MachineError) -> [WantedFile] {
        do throws(WireError) {
            var patterns = try GuestPatterns(job.listing.patterns)
            var askedPatterns = try GuestPatterns(job.outputs)
            // What the host put there itself is no output, unless the job asked for it by name.
            let asked = Set(job.outputs.map(Bytes.init))
            var given = Set(job.files.map { Bytes($0.name) })
            let sources = Set(job.sourceNames.map(Bytes.init))
            given.formUnion(sources)
            var seen: Set<Bytes> = []
            var outputs: [WantedFile] = []
            for file in files {
                let name = Bytes(file.name)
                guard try patterns.matches(file.name) else {
                    throw WireError.unexpected("a listed name that no pattern asks for")
                }
                guard seen.insert(name).inserted else {
                    throw WireError.unexpected("a name that is listed twice")
                }
                let isGiven = given.contains(name)
                if isGiven, !asked.contains(name), !job.collectsChanges || sources.contains(name) {
                    continue
                }
                let isAsked = try askedPatterns.matches(file.name)
                outputs.append(
                    WantedFile(
                        file: file,
                        status: !isGiven ? .new : job.listing.changesOnly ? .changed : .given,
                        isAsked: isAsked))
            }
            return outputs.filter(\.isShown) + outputs.filter { !$0.isShown }
        } catch { throw AgentSession.violation(error) }
    }

    /// A name as Linux compares it; Swift's strings are equal when they only look alike.
    private struct Bytes: Hashable {
        let bytes: [UInt8]
        init(_ name: String) { bytes = Array(name.utf8) }
    }
}
