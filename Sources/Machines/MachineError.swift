// Everything that can go wrong with a machine and is not the job's own failure.

/// Our failure, as a sentence that says what, where and what to do.
package struct MachineError: Error, Sendable, CustomStringConvertible {
    /// The words of `error.reason` in SQL.
    package enum Reason: String, Sendable {
        case machineLost = "machine_lost"
        case restoreFailed = "restore_failed"
        case imageMissing = "image_missing"
        case imageRefused = "image_refused"
        case protocolViolation = "guest_protocol_violation"
        case hostUnfit = "host_unfit"
        case buildFailed = "build_failed"
        /// A guest whose agent did not answer after a boot.
        case bootFailed = "boot_failed"
        case cancelled = "cancelled"
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
