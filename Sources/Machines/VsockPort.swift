// AF_VSOCK on the host: a context id taken race-free for one machine, and the connection to the
// agent's port. Only where /dev/vhost-vsock is.

import CLinux
import Events
import Glibc

/// A taken context id; free again when dropped and no process holds the device any more.
final class VsockContext: Sendable {
    let id: UInt32
    let device: Descriptor

    private init(id: UInt32, device: consuming Descriptor) {
        self.id = id
        self.device = device
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
        let device = try Descriptor.open("/dev/vhost-vsock", O_RDWR)
        let status = mayfly_vhost_vsock_set_cid(device.number, UInt64(id))
        if status == 0 { return VsockContext(id: id, device: device) }
        if status == -EADDRINUSE { return nil }
        throw MachineError(
            .hostUnfit, "/dev/vhost-vsock refuses a context id: \(errnoText(-status))")
    }
}

enum VsockPort {
    /// Where the agent listens.
    static let number: UInt32 = 1024
    /// One try; short, because right after a resume a request is answered with the snapshot's
    /// stale context id and would hang for the kernel's two seconds.
    static let tryDuration = Duration.milliseconds(100)

    /// One connected channel, or `nil` when this try did not succeed.
    @LoopActor
    static func connect(_ contextID: UInt32) async throws(MachineError) -> Channel? {
        let number = mayfly_vsock_connect(contextID, Self.number)
        guard number >= 0 else { return nil }
        let descriptor = Descriptor(number)
        let readiness = await EventLoop.shared.ready(
            [(descriptor.number, .write)], before: .now + tryDuration)
        switch readiness {
        case .cancelled: throw MachineError(.cancelled, "stopped while connecting to the guest")
        case .timedOut: return nil
        case .ready:
            guard mayfly_socket_error(descriptor.number) == 0 else { return nil }
            return Channel(descriptor)
        }
    }
}
