// A Unix socket of one Firecracker, and the way through it to a port of the guest. It stands in a
// directory where Firecracker may put what it likes, so what stands there is looked at before it is
// connected to: a guest that has broken out must not choose whom the worker talks to.

import CLinux
import Events
import Glibc
import Processes

@LoopActor
struct FirecrackerSocket {
    private let name: String
    private let directory: MachineDirectory
    private let owner: uid_t

    init(_ name: String, in directory: MachineDirectory, owner: uid_t) {
        self.name = name
        self.directory = directory
        self.owner = owner
    }

    /// A connected descriptor, or `nil` when nobody listens there yet.
    ///
    /// - Throws: `machineLost` when something else than its owner's socket stands there.
    func connect() throws(MachineError) -> CInt? {
        let number = unsafe mayfly_unix_connect(directory.file.number, name, owner)
        if number == -EPERM {
            throw MachineError(
                .machineLost, "\(directory.path)/\(name) is not Firecracker's socket")
        }
        return number >= 0 ? number : nil
    }

    /// A stream to a port of the guest, or `nil` when this try did not succeed.
    ///
    /// Firecracker's OK proves little: right after a restore the stream may still end at once.
    func connect(
        port: UInt32, within patience: Duration
    ) async throws(MachineError) -> ByteStream? {
        guard let number = try connect() else { return nil }
        let stream = ByteStream(Descriptor(number))
        let deadline = ContinuousClock.now + patience
        // In one write: Firecracker drops who sends it in parts.
        let request = Array("CONNECT \(port)\n".utf8)
        guard stream.send(request, from: 0) == request.count else { return nil }
        var answer: [UInt8] = []
        while true {
            switch stream.receive() {
            case .bytes(let bytes):
                answer += bytes
                guard answer.count <= 32,
                    answer.starts(with: Array("OK ".utf8).prefix(answer.count))
                else { return nil }
                // The guest says nothing before our preamble, so this is all.
                if answer.last == UInt8(ascii: "\n") { return stream }
            case .ended: return nil
            case .nothingYet:
                switch await EventLoop.shared.ready([(number, .read)], before: deadline) {
                case .ready: break
                case .timedOut: return nil
                case .cancelled:
                    throw MachineError(.cancelled, "stopped while connecting to the guest")
                }
            }
        }
    }
}
