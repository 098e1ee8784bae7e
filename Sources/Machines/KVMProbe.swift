// Whether KVM really runs a guest: a few bytes of real-mode code that must reach an exit port.
// QEMU with `isa-debug-exit` ends with a status that only that code can cause.

import Events
import Foundation
import Glibc

enum KVMProbe {
    /// mov dx, 0x501; mov al, 0x10; out dx, al; hlt — QEMU then exits with (0x10 << 1) | 1 = 33.
    private static let code: [UInt8] = [0xBA, 0x01, 0x05, 0xB0, 0x10, 0xEE, 0xF4]
    private static let expectedStatus: Int32 = 33

    /// What went wrong, or `nil` when the probe guest ran.
    @LoopActor
    static func obstacle(_ settings: HostSettings) async -> (found: String, remedy: String)? {
        let remedy = "see `dmesg | grep kvm`; machine.accelerator = tcg works without it"
        // A firmware image: 64 KiB that end at the reset vector, which jumps to the code.
        var firmware = [UInt8](repeating: 0xF4, count: 64 << 10)
        firmware.replaceSubrange(0..<code.count, with: code)
        firmware.replaceSubrange(0xFFF0..<0xFFF5, with: [0xEA, 0x00, 0x00, 0x00, 0xF0])
        let path = "/tmp/mayfly-kvm-probe-\(getpid())-\(hexText(randomBytes(4)))"
        defer { unsafe unlink(path) }
        do {
            try writeFile(path, firmware, mode: 0o600)
            let result = try await runProgram(
                [
                    settings.qemuBinary, "-M", "microvm", "-accel", "kvm", "-cpu", "host",
                    "-m", "16M", "-nodefaults", "-no-user-config", "-display", "none",
                    "-no-reboot", "-bios", path, "-device",
                    "isa-debug-exit,iobase=0x501,iosize=1",
                ], before: .now + .seconds(30))
            if result.status == expectedStatus { return nil }
            let words = result.output.split(separator: "\n").last.map(String.init) ?? ""
            return ("a probe guest under KVM failed (\(result.status)): \(words)", remedy)
        } catch { return ("the KVM probe could not run: \(error)", remedy) }
    }
}
