// What a running job has printed so far, for whoever looks while it runs. AgentSession shows it the
// streams of the program that runs now; a kind's job carries it, and a worker reads from it. Nobody
// looks: nothing is copied.

import Events

/// The streams of one program while they grow.
@LoopActor
final class ProgramOutput {
    var stdout: OutputCapture
    var stderr: OutputCapture
    var events: OutputCapture

    init(_ limits: OutputLimits) {
        stdout = OutputCapture(kept: limits.kept)
        stderr = OutputCapture(kept: limits.kept)
        events = OutputCapture(kept: limits.keptEvents)
    }
}

/// A look at a job's output while it runs; one job's, made before it begins.
@LoopActor
package final class OutputView {
    package enum Stream: String, Sendable, CaseIterable {
        case stdout
        case stderr
        case events
    }

    /// Some bytes of a stream.
    package struct Piece: Sendable {
        /// How many bytes of the stream came before; more than was asked for when those between are
        /// not kept.
        package let offset: Int
        package let bytes: [UInt8]
    }

    /// How many programs of the job have begun.
    package private(set) var programCount = 0
    private var current: ProgramOutput?
    /// That of the program before, whose end may not have been seen yet.
    private var previous: ProgramOutput?

    package nonisolated init() {}

    /// The next program of the job begins.
    func show(_ output: ProgramOutput) {
        (previous, current) = (current, output)
        programCount += 1
    }

    /// What a program wrote to a stream from `offset` on, as far as it is kept.
    ///
    /// - Parameters:
    ///   - program: from 0; only the last two can be looked at.
    ///   - backlog: what lies further back than this from the stream's end is left out.
    /// - Returns: `nil` when there is nothing, or not yet.
    package func piece(
        of stream: Stream, program: Int, from offset: Int, backlog: Int, atMost count: Int
    ) -> Piece? {
        let output: ProgramOutput? =
            switch programCount - program {
            case 1: current
            case 2: previous
            default: nil
            }
        guard let capture = output?[stream] else { return nil }
        return capture.piece(from: max(offset, capture.total - backlog), atMost: count)
    }
}

extension ProgramOutput {
    fileprivate subscript(stream: OutputView.Stream) -> OutputCapture {
        switch stream {
        case .stdout: stdout
        case .stderr: stderr
        case .events: events
        }
    }
}
