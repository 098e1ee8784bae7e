// Everything that can go wrong with a machine and is not the job's own failure.

import Glibc
import Processes

/// Our failure, as a sentence that says what, where and what to do.
package struct MachineError: Error, Sendable, CustomStringConvertible {
    /// What went wrong; what a job's `error.reason` says of it is Mayfly's to choose.
    package enum Reason: String, Sendable {
        case machineLost = "machine_lost"
        /// Its hypervisor wanted more memory than one may take.
        case hypervisorMemory = "hypervisor_memory"
        case restoreFailed = "restore_failed"
        case imageMissing = "image_missing"
        case imageRefused = "image_refused"
        case protocolViolation = "guest_protocol_violation"
        case hostUnfit = "host_unfit"
        case buildFailed = "build_failed"
        /// A guest whose agent did not answer after a boot.
        case bootFailed = "boot_failed"
        case cancelled = "cancelled"
        /// An input file's bytes went away while they were read, or are wrong.
        case inputUnavailable = "input_unavailable"
        /// Whoever stores the job's files did not take them, or did not give them.
        case storageFailed = "storage_failed"
        /// An input file does not fit the machine.
        case diskFull = "disk_full"
    }
    package let reason: Reason
    package let description: String
    /// The machine that it happened to, once there was one.
    package let machine: MachineIdentity?

    package init(_ reason: Reason, _ description: String, _ machine: MachineIdentity? = nil) {
        self.reason = reason
        self.description = description
        self.machine = machine
    }
    /// The same, of this machine.
    func of(_ machine: MachineIdentity) -> MachineError {
        MachineError(reason, description, machine)
    }
}

extension MachineError {
    init(_ error: SystemError, _ reason: Reason = .hostUnfit) {
        self.init(reason, error.description)
    }
    init(_ error: ProgramError) {
        if case .cancelled = error {
            self.init(.cancelled, error.description)
        } else {
            self.init(.hostUnfit, error.description)
        }
    }
}

/// The value of a system call; its failure is ours: this host is unfit, or whatever `reason` says.
///
/// Not for every noncopyable value: when a generic function has returned one of several parts and
/// no `deinit`, Swift 6.3 drops it without ending its parts. Those have their own below.
func attempting<Value>(
    _ call: @autoclosure () throws(SystemError) -> Value,
    as reason: MachineError.Reason = .hostUnfit
) throws(MachineError) -> Value {
    do throws(SystemError) { return try call() } catch { throw MachineError(error, reason) }
}
func attempting(
    _ call: @autoclosure () throws(SystemError) -> Descriptor,
    as reason: MachineError.Reason = .hostUnfit
) throws(MachineError) -> Descriptor {
    do throws(SystemError) { return try call() } catch { throw MachineError(error, reason) }
}
func attempting(_ call: @autoclosure () throws(SystemError) -> Child) throws(MachineError) -> Child
{
    do throws(SystemError) { return try call() } catch { throw MachineError(error) }
}
func attempting(
    _ call: @autoclosure () throws(SystemError) -> SocketPair
) throws(MachineError) -> SocketPair {
    do throws(SystemError) { return try call() } catch { throw MachineError(error) }
}
/// A file of an image, open for reading; one that is not there is a missing image.
func openImageFile(_ path: String, _ flags: CInt = O_RDONLY) throws(MachineError) -> Descriptor {
    do throws(SystemError) { return try Descriptor.open(path, flags) } catch {
        guard error.code == ENOENT else { throw MachineError(error) }
        throw MachineError(
            .imageMissing, "\(error); the image is incomplete: build it with `mayfly image build`")
    }
}
