// What the database hears of an attempt while it runs: how far it has come, what it does on the
// network, and its output for as long as somebody follows it. Called by attempt(), beside the
// machine; cancelled with its end.

import Jobs
import Machines
import Secrets
import StrictJSON

/// Reports until it is cancelled.
///
/// Between two looks it sleeps; nothing is copied or stored of a job that nobody follows and that
/// reports no progress.
func report(
    _ view: OutputView, _ mask: SecretMask, _ network: JobNetwork, to reports: JobReports
) async {
    var progress = ProgressReader(mask: mask)
    var follower = OutputFollower(mask: mask)
    var lastProgress = ContinuousClock.now
    var lastEgress = ContinuousClock.now
    while !Task.isCancelled {
        await reports.wait(atMost: reports.isFollowed ? .milliseconds(250) : .seconds(1))
        if Task.isCancelled { return }
        if ContinuousClock.now - lastProgress >= .seconds(1) {
            let latest: String?
            (latest, progress) = await besideTheLoop { [progress] in
                var progress = progress
                return (await progress.latest(in: view), progress)
            }
            if let latest {
                lastProgress = .now
                await reports.report(progress: latest)
            }
        }
        if ContinuousClock.now - lastEgress >= JobNetwork.reportInterval {
            lastEgress = .now
            let rows = await network.takeRows()
            if !rows.isEmpty, await !reports.report(rows) { await network.giveBack(rows) }
        }
        if reports.isFollowed {
            follower = await besideTheLoop { [follower] in
                var follower = follower
                await follower.pass(view, to: reports)
                return follower
            }
        }
    }
}

/// Finds the last progress among the events that came since it last looked.
struct ProgressReader {
    private enum Bounds {
        /// Of the newest events, at each look.
        static let byteCount = 64 << 10
        static let textByteCount = 1024
    }
    /// The job's secrets, which are stored nowhere.
    private let mask: SecretMask
    private var program = 0
    private var offset = 0

    init(mask: SecretMask = SecretMask()) { self.mask = mask }

    /// JSON text; `nil`: nothing new.
    mutating func latest(in view: OutputView) async -> String? {
        let current = await view.programCount - 1
        if current > program { (program, offset) = (current, 0) }
        guard
            let piece = await view.piece(
                of: .events, program: program, from: offset, backlog: Bounds.byteCount,
                atMost: Bounds.byteCount),
            let end = piece.bytes.lastIndex(of: 0x0A)
        else { return nil }
        // What follows the last line's end is read again when it is whole.
        offset = piece.offset + end + 1
        for line in piece.bytes[..<end].split(separator: 0x0A).reversed() {
            if let text = progress(line) { return text }
        }
        return nil
    }

    private func progress(_ line: ArraySlice<UInt8>) -> String? {
        guard line.starts(with: Array("{\"progress\"".utf8)),
            let parsed = try? JSON(parsing: Array(line)), case .object(let members) = parsed,
            members.count == 1, let value = members.first?.value.storable,
            case let text = mask.masked(value, isFree: true).text,
            text.utf8.count <= Bounds.textByteCount
        else { return nil }
        return text
    }
}

/// Passes on what a job printed since the last look: the newest, and never much of it.
struct OutputFollower {
    private enum Bounds {
        /// What came before somebody looked, or faster than it can be passed on, is left out beyond
        /// this.
        static let backlogByteCount = 128 << 10
        static let piecesAtOnce = 4
    }
    /// The job's secrets, which are stored nowhere.
    private let mask: SecretMask
    private var program = 0
    private var offsets: [OutputView.Stream: Int] = [:]
    private var count = 0

    init(mask: SecretMask = SecretMask()) { self.mask = mask }

    mutating func pass(_ view: OutputView, to reports: JobReports) async {
        let current = await view.programCount - 1
        // The end of the program before comes first; those before that one are only in the result.
        for program in max(program, current - 1)...max(program, current) {
            if program != self.program { (self.program, offsets) = (program, [:]) }
            // Events hold secrets in more spellings than one: such a job's are in its result only.
            for stream in OutputView.Stream.allCases where stream != .events || mask.isEmpty {
                for _ in 0..<Bounds.piecesAtOnce {
                    guard let piece = await next(of: stream, in: view) else { break }
                    count += 1
                    await reports.report(piece, count: count)
                    if Task.isCancelled || !reports.isFollowed { return }
                }
            }
        }
    }

    private mutating func next(
        of stream: OutputView.Stream, in view: OutputView
    ) async -> OutputPiece? {
        let asked = offsets[stream] ?? 0
        let piece = await view.piece(
            of: stream, program: program, from: asked, backlog: Bounds.backlogByteCount,
            atMost: JobReports.pieceByteCount)
        guard let piece else { return nil }
        let covered = mask.covered(piece.bytes, followsGap: piece.offset != asked)
        let whole = Array(covered.bytes.prefix(covered.whole)).wholeCharacters
        guard !whole.isEmpty else { return nil }
        offsets[stream] = piece.offset + whole.count
        return OutputPiece(
            stream: stream.rawValue, step: program, offset: piece.offset, bytes: whole)
    }
}

extension [UInt8] {
    /// Without the beginning of a UTF-8 character at the end, whose rest is still to come.
    var wholeCharacters: ArraySlice<UInt8> {
        for back in 1...3 where back <= count {
            let byte = self[count - back]
            if byte & 0b1100_0000 == 0b1000_0000 { continue }
            let length = byte >= 0b1111_0000 ? 4 : byte >= 0b1110_0000 ? 3 : byte >= 0xC0 ? 2 : 1
            return length > back ? dropLast(back) : self[...]
        }
        return self[...]
    }
}
