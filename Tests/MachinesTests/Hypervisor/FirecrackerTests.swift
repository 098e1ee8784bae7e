// The Firecracker driver's own parts: what it takes for an answer, which versions it knows, which
// kernel it can start, and what its socket may be. With a real binary where there is one.

import Events
import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

@Suite("Firecracker's API")
struct FirecrackerAPITests {
    @Test func `is read as its server writes it`() {
        let done = "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"
        #expect(parse(done) == .answer(HTTPAnswer(status: 204, body: [])))
        let fault = "{\"fault_message\":\"no\"}"
        let refused =
            "HTTP/1.1 400 \r\nServer: Firecracker API\r\nContent-Type: application/json\r\n"
            + "Content-Length: \(fault.utf8.count)\r\n\r\n\(fault)"
        #expect(parse(refused) == .answer(HTTPAnswer(status: 400, body: Array(fault.utf8))))
        // Whatever part of it has come.
        for count in 0..<refused.utf8.count {
            #expect(HTTPAnswer.parse(Array(refused.utf8.prefix(count))) == .incomplete)
        }
    }

    @Test(arguments: [
        "HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1\r\n\r\n", "\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "HTTP/1.1 204 \r\n\r\nmore",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        String(repeating: "x", count: 9000),
    ])
    func `is nothing else`(text: String) { #expect(parse(text) == .wrong) }

    @Test func `may say anything without harm`() {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<2000 {
            var bytes = Array("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc".utf8)
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                bytes[Int.random(in: bytes.indices, using: &random)] = .random(
                    in: 0...255, using: &random)
            }
            _ = HTTPAnswer.parse(bytes)
        }
    }
    private func parse(_ text: String) -> HTTPAnswer.Parsed { HTTPAnswer.parse(Array(text.utf8)) }
}

@Suite("A Firecracker binary")
struct FirecrackerBinaryTests {
    @Test func `is known by its version, and refused by it`() async throws {
        let directory = try TemporaryDirectory()
        func features(_ version: String) async throws -> FirecrackerFeatures {
            let path = try directory.program(
                "firecracker",
                """
                case $1 in
                    --version) echo '\(version)' ;;
                    --snapshot-version) echo v6.0.0 ;;
                esac
                """)
            return try await FirecrackerFeatures.of(ProgramFile(path, remedy: ""))
        }
        let found = try await features("Firecracker v1.12.1")
        #expect(found.version == FirecrackerVersion(1, 12, 1))
        #expect(found.summary.hasPrefix("Firecracker 1.12.1, snapshot v6.0.0, binary "))
        #expect(found.pauseObstacle == nil)
        for broken in ["1.16.0", "1.16.1"] {
            let found = try await features("Firecracker v\(broken)")
            #expect(found.pauseObstacle?.found.contains(broken) == true)
        }
        #expect(try await features("Firecracker v1.16.2").pauseObstacle == nil)
        for (text, words) in [
            ("Firecracker v1.12.0", "1.12.1 and newer"), ("Firecracker v2.0.0", "below 2.0.0"),
            ("QEMU emulator version 7.2.22", "is not Firecracker's"), ("", "is not Firecracker's"),
        ] {
            await #expect {
                _ = try await features(text)
            } throws: { "\($0)".contains(words) && ($0 as? MachineError)?.reason == .hostUnfit }
        }
    }

    @Test func `that is missing or wrong leaves QEMU, unless it is forced`() async throws {
        var settings = TestImage.settings
        settings.hypervisor = nil
        settings.firecrackerBinary = "/nonexistent/firecracker"
        let (probe, findings) = await HostProbe.examine(settings)
        #expect(probe?.profile.hypervisor == .qemu)
        let line = findings.first { $0.name == "hypervisor.firecracker" }
        #expect(line?.state == .off && line?.found.contains("is not installed") == true)
        settings.hypervisor = .firecracker
        await #expect {
            try await HostProbe.run(settings)
        } throws: { "\($0)".contains("machine.hypervisor = firecracker, but") }
    }

    @Test func `works only under KVM`() async throws {
        let directory = try TemporaryDirectory()
        var settings = TestImage.settings
        settings.firecrackerBinary = try directory.program(
            "firecracker",
            "case $1 in --version) echo Firecracker v1.12.1 ;; *) echo v6.0.0 ;; esac")
        settings.accelerator = .tcg
        settings.hypervisor = nil
        let (probe, findings) = await HostProbe.examine(settings)
        #expect(probe?.profile.hypervisor == .qemu)
        #expect(findings.first?.found.contains("it needs KVM") == true, "\(findings)")
        settings.hypervisor = .firecracker
        await #expect {
            try await HostProbe.run(settings)
        } throws: { "\($0)".contains("it needs KVM") }
    }
}

@Suite("The kernel in a bzImage")
struct KernelImageTests {
    @Test func `is found by the setup header, and unpacked`() async throws {
        let directory = try TemporaryDirectory()
        let kernel: [UInt8] = [0x7F, 0x45, 0x4C, 0x46] + randomBytes(5000)
        try writeFile(directory.path + "/elf", kernel, mode: 0o644)
        let packed = try await runTool(["gzip", "-k", directory.path + "/elf"])
        try #require(packed.status == 0)
        let payload = try #require(
            FileManager.default.contents(atPath: directory.path + "/elf.gz"))
        try writeFile(directory.path + "/bzImage", image(Array(payload)), mode: 0o644)
        let image = KernelImage(path: directory.path + "/bzImage")
        try await image.extract(to: directory.path + "/vmlinux")
        let found = FileManager.default.contents(atPath: directory.path + "/vmlinux")
        #expect(found.map(Array.init) == kernel)
        #expect(!FileManager.default.fileExists(atPath: directory.path + "/vmlinux.packed"))
    }
    @Test func `is refused when it is none`() async throws {
        let directory = try TemporaryDirectory()
        for bytes in [[], randomBytes(600), image(randomBytes(100)), Array(image([1]).prefix(700))]
        {
            try writeFile(directory.path + "/bzImage", bytes, mode: 0o644)
            await #expect {
                try await KernelImage(path: directory.path + "/bzImage")
                    .extract(to: directory.path + "/vmlinux")
            } throws: { ($0 as? MachineError)?.reason == .buildFailed }
        }
    }

    /// One setup sector, then the payload and its unpacked size.
    private func image(_ payload: [UInt8]) -> [UInt8] {
        func number(_ value: Int) -> [UInt8] { (0..<4).map { UInt8(value >> (8 * $0) & 0xFF) } }
        var bytes = [UInt8](repeating: 0, count: 1024)
        bytes[0x1F1] = 1
        bytes.replaceSubrange(0x202..<0x206, with: Array("HdrS".utf8))
        bytes.replaceSubrange(0x248..<0x24C, with: number(0))
        bytes.replaceSubrange(0x24C..<0x250, with: number(payload.count + 4))
        return bytes + payload + number(0)
    }
}

/// What stands in a machine's directory is chosen by whoever has broken out of its guest.
@Suite("The directory of a machine")
struct MachineDirectoryTests {
    @Test func `leads to a socket of its owner's, and nowhere else`() async throws {
        try await Self.visit()
    }
    @LoopActor
    private static func visit() throws {
        let place = try TemporaryDirectory()
        let directory = try MachineDirectory(in: place.path + "/machines", owner: nil)
        func connect(_ name: String) throws(MachineError) -> CInt? {
            try FirecrackerSocket(name, in: directory, owner: geteuid()).connect()
        }
        #expect(try connect("absent") == nil)
        let listener = try #require(listen(directory.path + "/v.sock"))
        let connected = try #require(try connect("v.sock"))
        close(connected)
        // Somebody else's, by another name.
        try #require(unsafe symlink("v.sock", directory.path + "/link") == 0)
        #expect(throws: MachineError.self) { try connect("link") }
        #expect(throws: MachineError.self) {
            try FirecrackerSocket("v.sock", in: directory, owner: geteuid() + 1).connect()
        }
        close(listener)
        #expect(try connect("v.sock") == nil)
    }
    @Test func `is gone with its machine`() async throws {
        let place = try TemporaryDirectory()
        var directory: MachineDirectory? = try MachineDirectory(
            in: place.path + "/machines", owner: nil)
        let path = try #require(directory?.path)
        try directory?.link("memory", to: "/proc/self/fd/5")
        #expect(children(of: path) == ["memory"])
        directory = nil
        #expect(children(of: place.path + "/machines") == [])
    }

    private static func listen(_ path: String) -> CInt? {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8) + [0]
        guard bytes.count <= MemoryLayout.size(ofValue: address.sun_path) else { return nil }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
        let number = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        let size = socklen_t(MemoryLayout<sockaddr_un>.size)
        let status = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(number, $0, size)
            }
        }
        return status == 0 && Glibc.listen(number, 4) == 0 ? number : nil
    }
}
