// Whether this host has the memory and the processors for another job. Asked by the queue before
// each claim: what is not claimed is there for another host.

import Logging
import Machines
import Synchronization

/// Says when jobs have had to wait for room for a while, and when they no longer have to.
final class Admission: Sendable {
    /// Slots that are all at work are no shortage, nor is one that lasts as long as a job.
    private static let patience = Duration.seconds(30)

    private enum State {
        case enough
        case short(since: ContinuousClock.Instant)
        /// And said so.
        case long
    }
    private let host: MachineHost
    private let state = Mutex(State.enough)

    init(_ host: MachineHost) { self.host = host }

    /// How many more jobs may be claimed beside `held`.
    func room(held: Int) async -> Int {
        let room = await host.room(beside: held)
        let change = state.withLock { Self.next(&$0, room.count) }
        switch (change, room.bound) {
        case (.becameShort?, .memory):
            Logger.current.warning(
                "memory is short: no job is claimed until there is room for another machine",
                metadata: ["running": "\(held)"])
        case (.becameShort?, .processors):
            Logger.current.notice(
                "the machines want more than all processors: no job is claimed until they do not",
                metadata: ["running": "\(held)"])
        case (.becameEnough?, _):
            Logger.current.notice("there is room for machines again")
        case (nil, _): break
        }
        return room.count
    }

    private enum Change { case becameShort, becameEnough }
    private static func next(_ state: inout State, _ room: Int) -> Change? {
        switch state {
        case .enough:
            if room == 0 { state = .short(since: .now) }
        case .short(let since):
            if room > 0 {
                state = .enough
            } else if since + patience < .now {
                state = .long
                return .becameShort
            }
        case .long:
            guard room > 0 else { return nil }
            state = .enough
            return .becameEnough
        }
        return nil
    }

    /// - Throws: when there is no memory for a single machine, whatever else ends.
    static func check(
        _ configuration: Configuration, images: [String]
    ) throws(ConfigurationError) {
        guard let (image, memory) = largest(configuration, images) else { return }
        guard MachineRoom(memory: memory).most == 0 else { return }
        throw ConfigurationError(
            "a machine of \(memory) does not fit into this host's memory; "
                + "lower image.\(image).memory and build the image again")
    }

    /// That there are more slots than machines for which this host has memory, if so.
    static func shortage(_ configuration: Configuration, images: [String]) -> String? {
        guard let (_, memory) = largest(configuration, images) else { return nil }
        let slots = configuration.count(.workerSlots)
        let room = MachineRoom(memory: memory)
        guard room.most < slots else { return nil }
        return "worker.slots is \(slots), and this host has memory for \(room.most) machines of "
            + "\(memory): no more run at once"
    }

    /// Any of them may be the next one: room is measured by the largest.
    private static func largest(
        _ configuration: Configuration, _ images: [String]
    ) -> (image: String, memory: ByteCount)? {
        images.map { ($0, configuration.size(.image($0, .memory))) }.max { $0.1 < $1.1 }
    }
}
