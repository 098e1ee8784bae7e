// Whether this host has the memory for another job. Asked by the queue before each claim: what is
// not claimed is there for another host.

import Logging
import Machines
import Synchronization

/// Says once when jobs have to wait for memory, and once when they no longer have to.
final class Admission: Sendable {
    private let host: MachineHost
    private let isShort = Mutex(false)

    init(_ host: MachineHost) { self.host = host }

    /// How many more jobs may be claimed beside `held`.
    func room(held: Int) async -> Int {
        let room = await host.room(beside: held)
        let hasChanged = isShort.withLock { isShort in
            defer { isShort = room == 0 }
            return isShort != (room == 0)
        }
        if hasChanged, room == 0 {
            Logger.current.warning(
                "memory is short: no job is claimed until there is room for another machine",
                metadata: ["running": "\(held)"])
        } else if hasChanged {
            Logger.current.notice("there is room for machines again")
        }
        return room
    }

    /// That there are more slots than machines for which this host has memory, if so.
    static func shortage(_ configuration: Configuration) -> String? {
        let (slots, memory) = (configuration.count(.workerSlots), configuration.size(.imageMemory))
        let room = MachineRoom(memory: memory)
        guard room.most < slots else { return nil }
        return "worker.slots is \(slots), and this host has memory for \(room.most) machines of "
            + "\(memory): no more run at once"
    }
}
