// Whether KVM really runs a guest: a few bytes of real-mode code that must reach an exit port. QEMU
// with `isa-debug-exit` ends with a status that only that code can cause.

import Events
import Glibc
import Processes

enum KVMProbe {
    /// mov dx, 0x501; mov al, 0x10; out dx, al; hlt — QEMU then exits with (0x10 << 1) | 1 = 33.
    private static let code: [UInt8] = [0xBA, 0x01, 0x05, 0xB0, 0x10, 0xEE, 0xF4]
    private static let expectedStatus: Int32 = 33

    /// Why KVM cannot run a stock guest here, or `nil` when nothing speaks against it.
    @LoopActor
    ///
    /// - Parameter qemu: runs the probe guest; without it only the device and the processor are
    ///   looked at.
    static func obstacle(_ settings: HostSettings, _ qemu: QEMUFeatures?) async -> Obstacle? {
        let device = unsafe open("/dev/kvm", O_RDWR | O_CLOEXEC)
        guard device >= 0 else { return deviceObstacle(errno) }
        close(device)
        guard Processor.hasVirtualization else {
            return Obstacle(
                found: "/dev/kvm exists, but the processor shows neither vmx nor svm, so stock "
                    + "guests do not run",
                remedy:
                    "use a host with hardware virtualization (or nested virtualization switched on)"
            )
        }
        return qemu == nil ? nil : await programObstacle(settings)
    }

    private static func deviceObstacle(_ code: CInt) -> Obstacle {
        if code == EACCES || code == EPERM {
            return Obstacle(
                found: "this user is not allowed to open /dev/kvm",
                remedy: "run the worker as root, or as a member of the group kvm")
        }
        return Obstacle(
            found: code == ENOENT
                ? "there is no /dev/kvm" : "/dev/kvm cannot be opened (\(errnoText(code)))",
            remedy: "enable virtualization in the firmware and load kvm_intel or kvm_amd")
    }

    /// Runs the probe program, as the user that machines run as.
    @LoopActor
    private static func programObstacle(_ settings: HostSettings) async -> Obstacle? {
        let remedy = "see `dmesg | grep kvm`; machine.accelerator = tcg works without it"
        // A firmware image: 64 KiB that end at the reset vector, which jumps to the code.
        var firmware = [UInt8](repeating: 0xF4, count: 64 << 10)
        firmware.replaceSubrange(0..<code.count, with: code)
        firmware.replaceSubrange(0xFFF0..<0xFFF5, with: [0xEA, 0x00, 0x00, 0x00, 0xF0])
        do {
            let file = try attempting(Descriptor.memory("mayfly-probe"))
            guard unsafe pwrite(file.number, firmware, firmware.count, 0) == firmware.count else {
                return Obstacle(found: "there is no memory for a probe guest", remedy: remedy)
            }
            var request = ProgramRequest([
                settings.qemuBinary, "-M", "microvm", "-accel", "kvm", "-cpu", "host",
                "-m", "16M", "-nodefaults", "-no-user-config", "-display", "none",
                "-no-reboot", "-bios", "/proc/self/fd/\(file.number)", "-device",
                "isa-debug-exit,iobase=0x501,iosize=1",
            ])
            request.user = HypervisorUser.forAccelerator(.kvm)
            request.kept = [file.number]
            request.deadline = .now + settings.probeTimeout
            let result = try await runTool(request)
            if result.status == expectedStatus { return nil }
            let words = result.output.split(separator: "\n").last.map(String.init) ?? ""
            return Obstacle(
                found: "a probe guest under KVM failed (\(result.status)): \(words)",
                remedy: remedy)
        } catch {
            return Obstacle(found: "the KVM probe could not run: \(error)", remedy: remedy)
        }
    }
}
