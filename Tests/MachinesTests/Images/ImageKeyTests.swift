// Whose images a host restores, how old they may be, and where private keys do not go.

import Events
import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

@Suite("Keys and epochs of images")
struct ImageKeyTests {
    private func manifest(epoch: Int?, name: String = "code") throws -> Manifest {
        let none = ImageFile(path: "", byteCount: 0, sha256: "")
        return Manifest(
            definition: ImageDefinition(name: name, packages: []), generation: "0123456789abcdef",
            createdAt: "", epoch: epoch,
            hardware: VirtualHardware(
                vCPUCount: 1, memory: .mebibytes(1), accelerator: .tcg, transport: .virtioSerial),
            deviceModel: "", hypervisor: .qemu, hypervisorVersion: "",
            processor: try Processor.current(), agent: "", guestKernel: "", memory: none,
            state: none, rootDisk: none, kernel: none, initramfs: none, commandLine: "",
            buildBootMilliseconds: 0)
    }

    @Test func `a key is two files, of which one is its owner's alone, and overwrites nothing`()
        throws
    {
        let place = try TemporaryDirectory()
        let files = try ImageKeyFiles.make("\(place.path)/images")
        var facts = stat()
        #expect(unsafe stat(files.privateKey, &facts) == 0 && facts.st_mode & 0o777 == 0o600)
        let key = try SigningKey(file: files.privateKey)
        #expect(kernelText(files.publicKey)?.trimmed == hexText(key.publicKey))
        let before = kernelText(files.privateKey)
        #expect(throws: MachineError.self) { _ = try ImageKeyFiles.make("\(place.path)/images") }
        #expect(kernelText(files.privateKey) == before)
        // Another one's private file does not come about beside a public file that is there.
        try writeFile("\(place.path)/other.pub", [], mode: 0o644)
        #expect(throws: MachineError.self) { _ = try ImageKeyFiles.make("\(place.path)/other") }
        #expect(unsafe access("\(place.path)/other.key", F_OK) != 0)
    }

    @Test func `a key that others can read, or that is none, signs nothing`() throws {
        let place = try TemporaryDirectory()
        let files = try ImageKeyFiles.make("\(place.path)/images")
        try #require(unsafe chmod(files.privateKey, 0o640) == 0)
        #expect { _ = try SigningKey(file: files.privateKey) } throws: {
            "\($0)".contains("can be read by others; chmod 600")
        }
        try #require(unsafe chmod(files.privateKey, 0o600) == 0)
        try #require(unsafe symlink(files.privateKey, "\(place.path)/link.key") == 0)
        #expect(throws: MachineError.self) { _ = try SigningKey(file: "\(place.path)/link.key") }
        try writeFile("\(place.path)/damaged.key", Array("abc\n".utf8), mode: 0o600)
        #expect { _ = try SigningKey(file: "\(place.path)/damaged.key") } throws: {
            "\($0)".contains("no private key")
        }
        #expect {
            _ = try ImageKeys(paths: [files.privateKey + "x"], isExclusive: false).read()
        } throws: { "\($0)".contains("machine.image.keys: cannot read") }
        #expect {
            _ = try ImageKeys(paths: ["\(place.path)/damaged.key"], isExclusive: false).read()
        } throws: { "\($0)".contains("no public key") }
    }

    @Test func `in production an image of a key that is not named is refused, elsewhere it is not`()
        throws
    {
        let place = try TemporaryDirectory()
        let directory = "\(place.path)/image"
        try makeDirectory(directory)
        let own = ImageStore(stateDirectory: place.path)
        let bytes = try manifest(epoch: 7).encoded()
        try writeFile("\(directory)/manifest.json", bytes, mode: 0o644)
        func sign(_ key: borrowing SigningKey) throws {
            let text = Array(hexText(key.sign(bytes)).utf8)
            try writeFile("\(directory)/manifest.sig", text, mode: 0o644)
        }
        func read(_ keys: ImageKeys) throws -> Int? {
            let store = ImageStore(stateDirectory: place.path, keys: keys)
            return try GoldenImage.readManifest(in: directory, trust: try store.trustedKeys()).epoch
        }
        let (old, new) = (
            try ImageKeyFiles.make("\(place.path)/old"), try ImageKeyFiles.make("\(place.path)/new")
        )
        let both = [old.publicKey, new.publicKey]
        // This host's own key: as it always was, until production names others.
        try sign(try own.signingKey())
        #expect(try read(ImageKeys()) == 7)
        #expect(try read(ImageKeys(paths: both, isExclusive: false)) == 7)
        #expect(try read(ImageKeys(paths: [], isExclusive: true)) == 7)
        #expect { _ = try read(ImageKeys(paths: both, isExclusive: true)) } throws: {
            "\($0)".contains("the signature of a key that machine.image.keys names")
        }
        // Rotation: both are named for a while, and then the old one is not.
        for files in [old, new] {
            try sign(try SigningKey(file: files.privateKey))
            #expect(try read(ImageKeys(paths: both, isExclusive: true)) == 7)
            #expect(throws: MachineError.self) { _ = try read(ImageKeys()) }
        }
        #expect(throws: MachineError.self) {
            _ = try read(ImageKeys(paths: [old.publicKey], isExclusive: true))
        }
        // Without a signature nowhere.
        try FileManager.default.removeItem(atPath: "\(directory)/manifest.sig")
        #expect(throws: MachineError.self) {
            _ = try read(ImageKeys(paths: both, isExclusive: false))
        }
    }

    @Test func `an older image is refused once a newer one was in use, whatever its signature`()
        throws
    {
        let place = try TemporaryDirectory()
        let floors = ImageFloors(directory: "\(place.path)/floors")
        // Those from before there were epochs are used until there is one that has one.
        try floors.check(try manifest(epoch: nil))
        try floors.raise(try manifest(epoch: nil))
        try floors.check(try manifest(epoch: nil))
        try floors.raise(try manifest(epoch: 20))
        try floors.raise(try manifest(epoch: 10))
        #expect(try floors.floor(of: "code", for: .qemu).epoch == 20)
        for epoch in [nil, 0, 19] {
            #expect { try floors.check(try manifest(epoch: epoch)) } throws: {
                "\($0)".contains("and one of 20 was in use here")
            }
        }
        try floors.check(try manifest(epoch: 20))
        try floors.check(try manifest(epoch: 1, name: "document"))
        #expect(try floors.floor(of: "code", for: .firecracker).epoch == 0)
    }

    @Test func `a floor is lowered by an operator only, which shows until it rises again`() throws {
        let place = try TemporaryDirectory()
        let floors = ImageFloors(directory: "\(place.path)/floors")
        try floors.raise(try manifest(epoch: 20))
        let lowered = try floors.set("code", .qemu, to: 5)
        #expect(lowered.loweredFrom == 20 && lowered.loweredAt != nil)
        try floors.check(try manifest(epoch: 6))
        #expect(try floors.set("code", .qemu, to: 4).loweredFrom == 20)
        try floors.raise(try manifest(epoch: 21))
        #expect(try floors.floor(of: "code", for: .qemu) == ImageFloor(epoch: 21))
        // One that cannot be read lets nothing through, until somebody sets it.
        try writeFile("\(place.path)/floors/code.qemu", Array("{".utf8), mode: 0o644)
        #expect { try floors.check(try manifest(epoch: 99)) } throws: {
            "\($0)".contains("is damaged; set it anew")
        }
        #expect(throws: MachineError.self) { try floors.raise(try manifest(epoch: 99)) }
        _ = try floors.set("code", .qemu, to: 21)
        try floors.check(try manifest(epoch: 21))
    }

    /// The directory can be the user's whom the worker runs as, and an operator is root.
    @Test func `a floor is an ordinary file: no link is followed, and no pipe waited for`() throws {
        let place = try TemporaryDirectory()
        let floors = ImageFloors(directory: "\(place.path)/floors")
        try makeDirectory("\(place.path)/floors")
        let target = "\(place.path)/target"
        try #require(unsafe symlink(target, "\(place.path)/floors/.lock") == 0)
        #expect(throws: MachineError.self) { try floors.raise(try manifest(epoch: 20)) }
        #expect(unsafe access(target, F_OK) != 0)
        try #require(unsafe mkfifo("\(place.path)/floors/code.qemu", 0o644) == 0)
        #expect(throws: MachineError.self) { try floors.check(try manifest(epoch: 20)) }
    }

    @Test func `a floor never goes back, however many raise it at once`() async throws {
        let place = try TemporaryDirectory()
        let floors = ImageFloors(directory: "\(place.path)/floors")
        try await withThrowingTaskGroup(of: Void.self) { group in
            for epoch in (1...64).shuffled() {
                group.addTask {
                    try floors.raise(try manifest(epoch: epoch))
                    #expect(try floors.floor(of: "code", for: .qemu).epoch >= epoch)
                }
            }
            try await group.waitForAll()
        }
        #expect(try floors.floor(of: "code", for: .qemu).epoch == 64)
    }
}

extension RealMachineTests {
    @Suite("The image on this host")
    struct ImageSecretTests {
        /// Whether the bytes stand anywhere in a file; sparse ones are read like others.
        private func holds(_ path: String, _ wanted: [[UInt8]]) throws -> Bool {
            // Not Data, whose search is compiled here and takes a minute in a debug build.
            let data = try NSData(
                contentsOf: URL(fileURLWithPath: path).resolvingSymlinksInPath(),
                options: .alwaysMapped)
            let whole = NSRange(location: 0, length: data.length)
            return wanted.contains {
                data.range(of: Data($0), in: whole).location != NSNotFound
            }
        }

        @Test func `holds nothing of the private key that signed it`() throws {
            let store = ImageStore(stateDirectory: TestImage.stateDirectory)
            let text = try #require(kernelText("\(store.keysDirectory)/signing.key")).trimmed
            let secret = try #require(bytes(ofHex: text))
            let wanted = [
                secret, Array(text.utf8), Array(secret.prefix(16)), Array(secret.suffix(16)),
            ]
            let directory = try store.directory(of: TestImage.name, for: TestImage.hypervisor)
            var looked = 0
            for name in ["memory", "state", "initramfs", "base/root.ext4", "manifest.json"] {
                #expect(try !holds("\(directory)/\(name)", wanted), "\(name)")
                looked += 1
            }
            #expect(looked == 5)
            // The search finds what is there.
            let generation = (directory as NSString).lastPathComponent
            #expect(try holds("\(directory)/manifest.json", [Array(generation.utf8)]))
            #expect(try holds("\(store.keysDirectory)/signing.key", wanted))
        }
    }
}
