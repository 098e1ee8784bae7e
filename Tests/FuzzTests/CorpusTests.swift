// The inputs that fuzzing found worth keeping, each given to its target again: those that reach a place
// of the code that no other reaches, and those that once broke something.

import Foundation
import Testing

@Suite("The corpora of the fuzzers")
struct CorpusTests {
    private static let directory = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("Corpus")

    @Test("every input that was kept ends in order", arguments: FuzzTarget.allCases)
    func replays(_ target: FuzzTarget) throws {
        let names = try FileManager.default.contentsOfDirectory(
            atPath: Self.directory.appendingPathComponent(target.rawValue).path)
        #expect(names.count >= 10, "the corpus of \(target.rawValue) is missing")
        for name in names.sorted() {
            let file = Self.directory.appendingPathComponent("\(target.rawValue)/\(name)")
            let bytes = [UInt8](try Data(contentsOf: file))
            #expect(throws: Never.self, "\(target.rawValue)/\(name)") { try target.run(bytes) }
        }
    }
}
