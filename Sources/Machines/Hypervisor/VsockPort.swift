// AF_VSOCK on the host: a context id taken race-free for one machine, and the connection to the
// agent's port. Only where /dev/vhost-vsock is.

import CLinux
import Events
import Glibc
import Processes

/// A taken context id; free again when dropped and no process holds the device any more.
final class VsockContext: Sendable {
    /// The way to the kernel's half of every machine's vsock.
    static let device = "/dev/vhost-vsock"

    let id: UInt32
    /// Handed to the hypervisor; the id is taken while anybody has it open.
    let descriptor: Descriptor

    private init(id: UInt32, descriptor: consuming Descriptor) {
        self.id = id
        self.descriptor = descriptor
    }

    /// Takes a free id.
    ///
    /// The kernel refuses one that is in use anywhere on this host, so random ones are tried until
    /// it agrees: no table, no race.
    static func take() throws(MachineError) -> VsockContext {
        for _ in 0..<100 {
            let random = randomBytes(4).reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            // 0…2 have meanings of their own; the top bit stays clear of VMADDR_CID_ANY.
            if let taken = try take(max(3, random & 0x7FFF_FFFF)) { return taken }
        }
        throw MachineError(.hostUnfit, "no free vsock context id found in 100 tries")
    }
    /// Takes this id, or answers `nil` when a machine has it.
    static func take(_ id: UInt32) throws(MachineError) -> VsockContext? {
        let descriptor = try attempting(Descriptor.open(device, O_RDWR))
        let status = mayfly_vhost_vsock_set_cid(descriptor.number, UInt64(id))
        if status == 0 { return VsockContext(id: id, descriptor: descriptor) }
        if status == -EADDRINUSE { return nil }
        throw MachineError(.hostUnfit, "\(device) refuses a context id: \(errnoText(-status))")
    }
}

/// Whether machines can have a vsock device here.
enum VsockProbe {
    /// Takes a context id as a machine would, and gives it back.
    static func obstacle(_ qemu: QEMUFeatures) -> Obstacle? {
        if let obstacle = qemu.vsockObstacle { return obstacle }
        let remedy = "load the module (modprobe vhost_vsock) and let the worker open the device"
        guard unsafe access(VsockContext.device, F_OK) == 0 else {
            return Obstacle(found: "there is no \(VsockContext.device)", remedy: remedy)
        }
        do throws(MachineError) {
            let context = try VsockContext.take()
            // Nobody listens there; only a kernel without the address family says this.
            let socket = mayfly_vsock_connect(context.id, 1024)
            if socket >= 0 { close(socket) }
            guard socket == -EAFNOSUPPORT else { return nil }
            return Obstacle(found: "this kernel has no AF_VSOCK", remedy: "modprobe vsock")
        } catch { return Obstacle(found: error.description, remedy: remedy) }
    }
}

/// The way to the agent's listener.
enum VsockPort {
    /// Right after a resume a request is answered with the snapshot's stale context id and would
    /// hang for the kernel's two seconds.
    static let firstTry = Duration.milliseconds(5)
    /// Long enough for a guest that is slow rather than stale.
    static let longestTry = Duration.seconds(1)
    /// For the answer to HELLO over the first connection; doubles with every one that has none.
    static let firstGreeting = Duration.seconds(2)

    /// Between two tries: a guest needs a moment until it listens.
    static let firstPause = Duration.milliseconds(1)
    static let longestPause = Duration.milliseconds(8)

    /// One connected stream, or `nil` when this try did not succeed.
    @LoopActor
    static func connect(
        _ contextID: UInt32, port: UInt32, within patience: Duration
    ) async throws(MachineError) -> ByteStream? {
        let number = mayfly_vsock_connect(contextID, port)
        guard number >= 0 else { return nil }
        let descriptor = Descriptor(number)
        let readiness = await EventLoop.shared.ready(
            [(descriptor.number, .write)], before: .now + patience)
        switch readiness {
        case .cancelled: throw MachineError(.cancelled, "stopped while connecting to the guest")
        case .timedOut: return nil
        case .ready:
            guard mayfly_socket_error(descriptor.number) == 0 else { return nil }
            return ByteStream(descriptor)
        }
    }
}
