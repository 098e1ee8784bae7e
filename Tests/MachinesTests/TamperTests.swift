// A snapshot that is not exactly what was signed is never restored. Small files stand in for the
// memory and the disk here: loading hashes and compares them just the same.

import Foundation
import Processes
import Testing

@testable import Machines

@Suite("A golden image")
struct TamperTests {
    let directory: TemporaryDirectory
    let store: ImageStore
    let image: String
    let profile: HostProfile

    init() throws {
        directory = try TemporaryDirectory()
        store = ImageStore(stateDirectory: directory.path)
        image = directory.path + "/images/code/0123456789abcdef"
        profile = HostProfile(
            hypervisor: .qemu, hypervisorVersion: "QEMU emulator version 7.2.22",
            processor: try .current(),
            accelerator: .tcg, transport: .virtioSerial)
        try makeDirectory(image)
        var files: [String: ImageFile] = [:]
        for name in ["memory", "state", "root.ext4", "kernel", "initramfs"] {
            // Ends in zeros, as the memory of a machine often does.
            let contents = randomBytes(99_000) + [UInt8](repeating: 0, count: 1_000)
            try writeFile("\(image)/\(name)", contents, mode: 0o644)
            files[name] = ImageFile(
                path: name, byteCount: contents.count, sha256: SHA256.hex(of: contents))
        }
        func file(_ name: String) throws -> ImageFile { try #require(files[name]) }
        try sign(
            Manifest(
                definition: .code, generation: "0123456789abcdef", createdAt: "2026-01-01",
                hardware: VirtualHardware(
                    vCPUCount: 1, memory: .mebibytes(512), accelerator: .tcg,
                    transport: .virtioSerial),
                deviceModel: QEMU.deviceModel, hypervisor: .qemu,
                hypervisorVersion: profile.hypervisorVersion,
                processor: profile.processor, agent: "00", guestKernel: "6.1",
                memory: try file("memory"), state: try file("state"),
                rootDisk: try file("root.ext4"), kernel: try file("kernel"),
                initramfs: try file("initramfs"), commandLine: "quiet",
                buildBootMilliseconds: 1))
    }

    @Test func `a golden image that is untouched is loaded into sealed memory`() throws {
        let golden = try load()
        #expect(golden.manifest.generation == "0123456789abcdef")
        var byte: UInt8 = 0
        #expect(unsafe pwrite(golden.memory.number, &byte, 1, 0) == -1)
    }

    @Test(arguments: ["memory", "state", "root.ext4"])
    func `a golden image with a flipped byte in a file is refused by the file's name`(name: String)
        throws
    {
        try flip(name, at: 77_777)
        try expectRefusal(naming: name)
    }

    @Test(arguments: ["memory", "state"])
    func `a golden image with a longer or shorter file is refused`(name: String) throws {
        let path = "\(image)/\(name)"
        let contents = try #require(FileManager.default.contents(atPath: path))
        for changed in [contents.dropLast(), contents + [0], contents.dropFirst(), contents + [1]] {
            try writeFile(path, [UInt8](changed), mode: 0o644)
            try expectRefusal(naming: name)
        }
        try writeFile(path, [UInt8](contents), mode: 0o644)
        _ = try load()
    }

    @Test func `a golden image with a flipped byte in the manifest is refused, wherever it is`()
        throws
    {
        let path = "\(image)/manifest.json"
        let contents = [UInt8](try #require(FileManager.default.contents(atPath: path)))
        for place in stride(from: 0, to: contents.count, by: 37) {
            var broken = contents
            broken[place] ^= 0x01
            try writeFile(path, broken, mode: 0o644)
            try expectRefusal(naming: "manifest.json")
        }
    }

    @Test func `a golden image signed by a key that is not trusted here is refused`() throws {
        let stranger = try SigningKey(privateKey: randomBytes(32))
        let path = "\(image)/manifest.json"
        let contents = [UInt8](try #require(FileManager.default.contents(atPath: path)))
        try writeFile(
            "\(image)/manifest.sig", Array(hexText(stranger.sign(contents)).utf8), mode: 0o644)
        try expectRefusal(naming: "manifest.json")
    }

    @Test func `a golden image without a signature is refused`() throws {
        try FileManager.default.removeItem(atPath: "\(image)/manifest.sig")
        try expectRefusal(naming: "manifest.json")
    }

    @Test func `a golden image made with another QEMU version is refused, with the remedy`() throws
    {
        try resign { $0.hypervisorVersion = "QEMU emulator version 9.9.9" }
        try expectRefusal(naming: "9.9.9")
        // The other hypervisor's.
        try resign {
            $0.hypervisor = .firecracker
            $0.hypervisorVersion = "Firecracker 1.12.1, snapshot v6.0.0, binary 0123"
        }
        try expectRefusal(naming: "Firecracker 1.12.1")
    }

    @Test func `a golden image made on another processor is refused`() throws {
        try resign { $0.processor.model = "another" }
        try expectRefusal(naming: "model another")
    }

    @Test func `a golden image made with another emulated processor is refused, by its setting`()
        throws
    {
        for other in EmulatedProcessor.allCases where other != .max {
            try resign { $0.hardware.emulated = other }
            try expectRefusal(
                naming: "made with machine.processor.model = \(other), this host has max; rebuild")
        }
    }

    @Test func `a golden image made for another accelerator or transport is refused`() throws {
        try resign { $0.hardware.accelerator = .kvm }
        try expectRefusal(naming: "accelerator kvm")
        try resign { manifest in
            manifest.hardware.accelerator = .tcg
            manifest.hardware.transport = .vsock
        }
        try expectRefusal(naming: "transport vsock")
    }

    @Test func `a golden image of an unknown format is refused`() throws {
        try resign { $0.format = 99 }
        try expectRefusal(naming: "format 99")
    }

    @Test func `a golden image verified without loading has its kernel and initramfs checked too`()
        throws
    {
        let trust = try store.trustedKeys()
        try GoldenImage.verify(directory: image, trust: trust, host: profile)
        for name in ["kernel", "initramfs"] {
            try flip(name, at: 5)
            #expect {
                try GoldenImage.verify(directory: image, trust: trust, host: profile)
            } throws: {
                "\($0)".contains(name)
            }
            try flip(name, at: 5)
        }
    }

    // MARK: Steps

    func load(_ facts: FileFacts? = nil) throws -> GoldenImage {
        try GoldenImage.load(
            directory: image, trust: try store.trustedKeys(), host: profile, facts: facts)
    }
    private func sign(_ manifest: Manifest) throws {
        let bytes = try manifest.encoded()
        let key = try store.signingKey()
        try writeFile("\(image)/manifest.json", bytes, mode: 0o644)
        try writeFile("\(image)/manifest.sig", Array(hexText(key.sign(bytes)).utf8), mode: 0o644)
    }
    private func resign(_ change: (inout Manifest) -> Void) throws {
        let contents = try #require(
            FileManager.default.contents(atPath: "\(image)/manifest.json"))
        var manifest = try JSONDecoder().decode(Manifest.self, from: contents)
        change(&manifest)
        try sign(manifest)
    }
    func flip(_ name: String, at place: Int) throws {
        let path = "\(image)/\(name)"
        var contents = [UInt8](try #require(FileManager.default.contents(atPath: path)))
        contents[place] ^= 0x10
        try writeFile(path, contents, mode: 0o644)
    }
    func expectRefusal(
        naming words: String, _ facts: FileFacts? = nil,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        #expect(sourceLocation: sourceLocation) {
            _ = try load(facts)
        } throws: { error in
            let error = error as? MachineError
            return error?.reason == .imageRefused && error?.description.contains(words) == true
                && error?.description.contains("mayfly image build") == true
        }
    }
}
