// The small parts that machines are made of; no machine runs here.

import Events
import Foundation
import Processes
import Testing

@testable import Machines

@Suite("Output that is kept")
struct OutputCaptureTests {
    @Test func `a look at a stream gives each byte that is kept once, and says what is not`() {
        var capture = OutputCapture(kept: ByteCount(bytes: 20))
        #expect(capture.piece(from: 0, atMost: 5) == nil)
        let all = (0..<200).map { UInt8($0) }
        var read: [Int: UInt8] = [:]
        for start in stride(from: 0, to: 200, by: 3) {
            capture.append(Array(all[start..<min(200, start + 3)]))
            while let piece = capture.piece(from: read.count, atMost: 2) {
                for (index, byte) in piece.bytes.enumerated() { read[piece.offset + index] = byte }
            }
        }
        // Whoever keeps up sees everything, although most of it is not kept.
        #expect(all.indices.allSatisfy { read[$0] == all[$0] })
        // Whoever comes late sees the head, and then what is kept of the tail.
        #expect(capture.piece(from: 0, atMost: 100)?.bytes == Array(all[..<8]))
        let late = capture.piece(from: 8, atMost: 1000)
        #expect(late?.offset ?? 0 >= 8)
        #expect(late.map { $0.offset + $0.bytes.count } == 200)
        #expect(late.map { Array(all[$0.offset...]) == $0.bytes } == true)
        #expect(capture.piece(from: 200, atMost: 1) == nil)
        #expect(capture.piece(from: -1, atMost: 1) == nil)
    }

    @Test func `is whole while it fits`() {
        var capture = OutputCapture(kept: ByteCount(bytes: 8))
        capture.append(Array("abc".utf8))
        capture.append(Array("defgh".utf8))
        #expect(capture.captured.bytes == Array("abcdefgh".utf8))
        #expect(!capture.captured.isTruncated)
    }

    @Test(arguments: [1, 2, 3, 5, 7, 64])
    func `is head and tail beyond that, however it is cut into chunks`(chunk: Int) {
        let all = (0..<1000).map { UInt8($0 % 251) }
        var capture = OutputCapture(kept: ByteCount(bytes: 20))
        for start in stride(from: 0, to: all.count, by: chunk) {
            capture.append(Array(all[start..<min(all.count, start + chunk)]))
        }
        let captured = capture.captured
        #expect(captured.isTruncated)
        #expect(captured.total.bytes == 1000)
        // Two fifths and three: the end of what a program prints is what it came to.
        #expect(Array(captured.bytes.prefix(8)) == Array(all.prefix(8)))
        #expect(Array(captured.bytes.suffix(12)) == Array(all.suffix(12)))
    }
}

@Suite("A digest")
struct DigestTests {
    @Test func `is SHA-256 as the standard gives it`() {
        // FIPS 180-4, example "abc".
        #expect(
            SHA256.hex(of: Array("abc".utf8))
                == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    }

    @Test func `signature is accepted for its bytes and key only`() throws {
        let key = try SigningKey(privateKey: randomBytes(32))
        let other = try SigningKey(privateKey: randomBytes(32))
        let message = Array("manifest".utf8)
        let signature = key.sign(message)
        #expect(isSigned(message, signature, by: key.publicKey))
        #expect(!isSigned(message, signature, by: other.publicKey))
        #expect(!isSigned(Array("manifesT".utf8), signature, by: key.publicKey))
        for place in signature.indices {
            var broken = signature
            broken[place] ^= 1
            #expect(!isSigned(message, broken, by: key.publicKey))
        }
    }

    @Test func `text round-trips and refuses what is not hexadecimal`() {
        let bytes = randomBytes(33)
        #expect(Machines.bytes(ofHex: hexText(bytes)) == bytes)
        for text in ["a", "0g", "AB", "0 ", "é0"] { #expect(Machines.bytes(ofHex: text) == nil) }
    }
}

@Suite("An initramfs")
struct InitramfsTests {
    @Test func `is a newc archive whose entries stand on four-byte borders`() {
        var archive = CpioArchive()
        archive.addDirectory("dev")
        archive.addFile("init", Array("hello".utf8), mode: 0o100755)
        let bytes = archive.finish()
        #expect(bytes.count % 4 == 0)
        let text = String(decoding: bytes, as: UTF8.self)
        #expect(text.hasPrefix("070701"))
        #expect(text.contains("TRAILER!!!"))
        #expect(text.contains("000081ed"))  // 0o100755
    }

    @Test func `loads modules after what they need, each once`() throws {
        let directory = try TemporaryDirectory()
        try """
        kernel/a/virtio_mmio.ko: kernel/a/virtio.ko kernel/a/virtio_ring.ko
        kernel/a/virtio.ko:
        kernel/a/virtio_ring.ko: kernel/a/virtio.ko
        kernel/b/virtio-blk.ko: kernel/a/virtio_ring.ko kernel/a/virtio.ko
        """.write(
            toFile: directory.path + "/modules.dep", atomically: true, encoding: .utf8)
        let order = try KernelModules.ordered(in: directory.path)
        let names = order.map(KernelModules.moduleName)
        #expect(names == ["virtio", "virtio_ring", "virtio_mmio", "virtio_blk"])
    }
}

@Suite("A console")
struct ConsoleTests {
    @Test func `keeps what was written, for whoever asks afterwards`() throws {
        let console = try HypervisorLog("console")
        #expect(console.lastLines(5) == [])
        let text = Array("first\r\nsecond\nthird".utf8)
        for byte in text { #expect(write([byte], to: console) == 1) }
        #expect(console.lastLines(2) == ["second", "third"])
    }
    @Test func `is cut by its hypervisor's file size limit, which is no end of it`() async throws {
        let console = try HypervisorLog("console")
        let alive = try await Self.fill(console.writer.number)
        #expect(alive.output == "alive\n")
        #expect(console.lastLines(9).map(\.count) == [300])
    }
    /// Writes 80 KiB under the limit of a machine, and goes on.
    @LoopActor
    private static func fill(_ writer: CInt) async throws -> ProgramResult {
        let script = """
            head -c 81920 /dev/zero | tr '\\0' x | dd bs=1024 status=none >&\(writer) 2>/dev/null
            echo alive
            """
        var request = ProgramRequest(["/bin/bash", "-c", script])
        request.kept = [writer]
        request.fileSizeLimit = UInt64(HypervisorLog.byteCount)
        return try await runProgram(request)
    }
    private func write(_ bytes: [UInt8], to console: borrowing HypervisorLog) -> Int {
        unsafe Foundation.write(console.writer.number, bytes, bytes.count)
    }
}

@Suite("A program that is run to its end")
struct RunProgramTests {
    @Test func `a program reads what it was given as its input, to the last byte`() async throws {
        var request = ProgramRequest(["/usr/bin/sha256sum"])
        request.input = randomBytes(300_000)
        let result = try await runProgram(request)
        #expect(result.output.hasPrefix(SHA256.hex(of: request.input)))
    }
    @Test func `a program that was given nothing reads nothing`() async throws {
        #expect(try await runProgram(ProgramRequest(["/usr/bin/wc", "-c"])).output == "0\n")
    }
}

@Suite("An image definition")
struct ImageDefinitionTests {
    @Test func `an image definition of the default code image has no problem`() {
        #expect(ImageDefinition.code.problem == nil)
    }

    @Test func `is refused with a sentence that names the key`() {
        var definition = ImageDefinition.code
        definition.packages = ["python3; rm -rf /"]
        #expect(definition.problem?.contains("image.code.packages") == true)
        definition = .code
        definition.memory = .mebibytes(3)
        #expect(definition.problem?.contains("image.code.memory") == true)
        definition = .code
        definition.name = "../code"
        #expect(definition.problem != nil)
    }

    @Test func `decides the generation, and nothing else does`() throws {
        let hardware = VirtualHardware(
            vCPUCount: 1, memory: .mebibytes(512), accelerator: .tcg, transport: .virtioSerial)
        let processor = try Processor.current()
        func generation(
            _ definition: ImageDefinition, base: String = "b1", qemu: String = "7.2",
            as emulated: EmulatedProcessor? = nil
        ) -> String {
            var hardware = hardware
            hardware.emulated = emulated
            return Manifest.generation(
                definition: definition, base: base, packages: "python3 3.11", agent: "00",
                host: HostProfile(
                    hypervisor: .qemu, hypervisorVersion: qemu, processor: processor,
                    accelerator: .tcg, transport: .virtioSerial),
                hardware: hardware)
        }
        var other = ImageDefinition.code
        other.pythonModules = []
        #expect(generation(.code) == generation(.code))
        #expect(generation(.code) != generation(other))
        #expect(generation(.code) != generation(.code, qemu: "8.0"))
        #expect(generation(.code) != generation(.code, base: "b2"))
        #expect(generation(.code) != generation(.code, as: .intel))
        #expect(generation(.code, as: .intel) != generation(.code, as: .amd))
    }
}

/// A directory that is gone when the test is.
final class TemporaryDirectory: Sendable {
    let path: String
    init() throws {
        path = NSTemporaryDirectory() + "mayfly-test-" + hexText(randomBytes(8))
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}
