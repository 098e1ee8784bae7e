// What spares a second start the hashing must never spare it to a file that was changed: facts about
// files, under harm.

import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

extension TamperTests {
    @Test(arguments: ["memory", "state", "root.ext4"])
    func `a golden image that is known is not hashed again, but a verify hashes it`(name: String)
        throws
    {
        let facts = try #require(makeFacts())
        _ = try load(facts)
        try lie(about: name, facts)
        _ = try load(facts)
        #expect {
            try GoldenImage.verify(
                directory: image, trust: try store.trustedKeys(), host: profile)
        } throws: { "\($0)".contains(name) }
    }

    @Test(arguments: ["memory", "state", "root.ext4"])
    func `a golden image that was changed after it was known is refused, its time set back`(
        name: String
    ) throws {
        let facts = try #require(makeFacts())
        _ = try load(facts)
        let path = "\(image)/\(name)"
        let file = try Descriptor.open(path, O_RDWR)
        var status = stat()
        try #require(unsafe fstat(file.number, &status) == 0)
        var byte: UInt8 = 0
        try #require(unsafe pread(file.number, &byte, 1, 77_777) == 1)
        byte ^= 1
        try #require(unsafe pwrite(file.number, &byte, 1, 77_777) == 1)
        let times = [status.st_atim, status.st_mtim]
        try #require(unsafe futimens(file.number, times) == 0)
        try expectRefusal(naming: name, facts)
    }

    @Test func `a golden image is hashed when what is known of it is damaged or another file's`()
        throws
    {
        let facts = try #require(makeFacts())
        _ = try load(facts)
        let identity = try lie(about: "memory", facts)
        let path = try #require(
            children(of: "\(directory.path)/run/facts").map { "\(directory.path)/run/facts/\($0)" }
                .first {
                    (try? String(contentsOfFile: $0, encoding: .utf8))?.contains(identity) == true
                })
        let fact = [UInt8](try #require(FileManager.default.contents(atPath: path)))
        for place in stride(from: 0, to: fact.count, by: 7) {
            var damaged = fact
            damaged[place] ^= 1
            try writeFile(path, damaged, mode: 0o600)
            try expectRefusal(naming: "memory", facts)
        }
        try writeFile(path, Array(fact.dropLast(3)), mode: 0o600)
        try expectRefusal(naming: "memory", facts)
        try writeFile(path, [], mode: 0o600)
        try expectRefusal(naming: "memory", facts)
        try writeFile(path, fact + [UInt8](repeating: 0x0A, count: 1 << 20), mode: 0o600)
        try expectRefusal(naming: "memory", facts)
        // Whole, but others may have written or read it, or it is another user's.
        for mode: mode_t in [0o606, 0o660, 0o644] {
            try writeFile(path, fact, mode: mode)
            try expectRefusal(naming: "memory", facts)
        }
        try writeFile(path, fact, mode: 0o600)
        if geteuid() == 0 {
            try #require(unsafe chown(path, 65534, 65534) == 0)
            try expectRefusal(naming: "memory", facts)
            try #require(unsafe chown(path, 0, 0) == 0)
        }
        // Another file of the same bytes: a copy in its place.
        _ = try load(facts)
        let contents = [UInt8](
            try #require(FileManager.default.contents(atPath: "\(image)/memory")))
        try writeFile("\(image)/memory", contents, mode: 0o644)
        try expectRefusal(naming: "memory", facts)
    }

    @Test func `a golden image that others can write, or that has just changed, is not known`()
        throws
    {
        let facts = try #require(makeFacts())
        let known = "\(directory.path)/run/facts"
        try #require(unsafe chmod("\(image)/memory", 0o666) == 0)
        try #require(unsafe chmod("\(image)/state", 0o664) == 0)
        _ = try load(facts)
        #expect(children(of: known).count == 1)  // the root disk alone
        try FileManager.default.removeItem(atPath: known)
        let patient = try #require(makeFacts(settling: .seconds(3600)))
        _ = try load(patient)
        #expect(children(of: known) == [])
    }

    @Test func `a golden image is known nowhere that others can write`() throws {
        let run = "\(directory.path)/run"
        #expect(makeFacts() != nil)
        for (path, mode) in [
            ("\(run)/facts", 0o770), ("\(run)/facts", 0o705), (run, 0o777), (run, 0o775),
        ] as [(String, mode_t)] {
            var status = stat()
            try #require(unsafe stat(path, &status) == 0)
            try #require(unsafe chmod(path, mode) == 0)
            #expect(makeFacts() == nil)
            try #require(unsafe chmod(path, status.st_mode & 0o777) == 0)
            #expect(makeFacts() != nil)
        }
        if geteuid() == 0 {
            try #require(unsafe chown("\(run)/facts", 65534, 65534) == 0)
            #expect(makeFacts() == nil)
        }
        try FileManager.default.removeItem(atPath: "\(run)/facts")
        try makeDirectory("\(run)/elsewhere", mode: 0o700)
        try FileManager.default.createSymbolicLink(
            atPath: "\(run)/facts", withDestinationPath: "\(run)/elsewhere")
        #expect(makeFacts() == nil)
    }

    // MARK: Steps

    private func makeFacts(settling: Duration = .zero) -> FileFacts? {
        FileFacts(runtimeDirectory: "\(directory.path)/run", settling: settling)
    }
    /// Damages a file and claims that it was seen to be what the manifest says.
    ///
    /// - Returns: its inode and length, as a fact spells them.
    @discardableResult
    private func lie(about name: String, _ facts: FileFacts) throws -> String {
        let digest = try SHA256.hex(ofFile: "\(image)/\(name)")
        try flip(name, at: 77_777)
        let file = try Descriptor.open("\(image)/\(name)", O_RDONLY)
        facts.remember(digest, as: .sha256, of: try FileIdentity(of: file.number))
        var status = stat()
        try #require(unsafe fstat(file.number, &status) == 0)
        return " \(status.st_ino) \(status.st_size) "
    }
}
