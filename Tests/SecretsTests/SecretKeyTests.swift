// The keys of a host: files that their owner alone can read, found by their id.

import Foundation
import StrictJSON
import Testing

@testable import Secrets

@Suite("The keys for secrets")
struct SecretKeyTests {
    private func with(_ body: (SecretKeys) throws -> Void) throws {
        let path = NSTemporaryDirectory() + "mayfly-keys-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: path) }
        try body(SecretKeys(directory: "\(path)/keys/secrets"))
    }

    @Test func `are files for their owner alone, and are found as soon as they are there`() throws {
        try with { keys in
            let other = "0123456789abcdef"
            #expect(throws: SecretError.self) { try keys.key(other) }
            #expect(keys.list().isEmpty)
            let made = try keys.make()
            let id = made.publicKey.id
            #expect(PublicKey.isID(id))
            #expect(try keys.key(id).publicKey == made.publicKey)
            #expect(keys.list().map(\.id) == [id])
            let path = "\(keys.directory)/\(id).jwk"
            let facts = try FileManager.default.attributesOfItem(atPath: path)
            #expect(facts[.posixPermissions] as? Int == 0o600)
            let folder = try FileManager.default.attributesOfItem(atPath: keys.directory)
            #expect(folder[.posixPermissions] as? Int == 0o700)
            let above = (keys.directory as NSString).deletingLastPathComponent
            let parent = try FileManager.default.attributesOfItem(atPath: above)
            #expect(parent[.posixPermissions] as? Int == 0o755)
            // A copy for another host.
            let sealed = try SealedSecret(
                SealedSecret.seal(Secret("s3cret"), for: made.publicKey, tenant: nil))
            try with { elsewhere in
                #expect(throws: SecretError.self) { try elsewhere.key(id) }
                try FileManager.default.createDirectory(
                    atPath: elsewhere.directory, withIntermediateDirectories: true)
                try FileManager.default.copyItem(
                    atPath: path, toPath: "\(elsewhere.directory)/\(id).jwk")
                let key = try elsewhere.key(id)
                #expect(try sealed.open(with: key, tenant: nil).text == "s3cret")
            }
        }
    }

    @Test func `that others can read, or that are damaged, are not used`() throws {
        try with { keys in
            let id = try keys.make().publicKey.id
            let path = "\(keys.directory)/\(id).jwk"
            func problem() -> String {
                do throws(SecretError) {
                    _ = try keys.key(id)
                    return ""
                } catch {
                    guard case .keyMissing(let sentence) = error else { return "" }
                    return sentence
                }
            }
            #expect(problem() == "")
            try FileManager.default.setAttributes([.posixPermissions: 0o640], ofItemAtPath: path)
            #expect(problem().contains("chmod 600"))
            #expect(keys.list().first?.problem?.contains("chmod 600") == true)
            try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path)
            let text = try String(contentsOfFile: path, encoding: .utf8)
            // The scalar of another key, another key whole, half a file, nothing.
            let other = try keys.make().publicKey.id
            let foreign = try String(
                contentsOfFile: "\(keys.directory)/\(other).jwk", encoding: .utf8)
            let half = try #require(JSON(parsing: foreign)["d"]?.string)
            let own = try #require(JSON(parsing: text)["d"]?.string)
            for wrong in [
                text.replacingOccurrences(of: own, with: half), foreign, String(text.prefix(50)),
                "",
            ] {
                try Data(wrong.utf8).write(to: URL(fileURLWithPath: path))
                try FileManager.default.setAttributes(
                    [.posixPermissions: 0o600], ofItemAtPath: path)
                #expect(problem().contains("is damaged"), "\(problem())")
            }
        }
    }

    @Test func `are public without what opens secrets, and known by their thumbprint`() throws {
        let key = try Vectors.privateKey()
        #expect(key.publicKey.id == "b470afb7d6d8d5cc")
        #expect(key.publicKey.jwk["d"] == nil)
        #expect(try PublicKey(key.publicKey.jwk) == key.publicKey)
        guard case .object(let members) = key.publicKey.jwk else { return }
        let renamed = members.map {
            $0.name == "kid" ? JSON.Member(name: "kid", value: "0000000000000000") : $0
        }
        #expect(throws: SecretError.self) { try PublicKey(.object(renamed)) }
        #expect(throws: SecretError.self) { try PublicKey(JSON(parsing: Vectors.key)) }
    }
}
