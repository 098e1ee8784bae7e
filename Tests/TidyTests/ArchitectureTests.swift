// The architecture where a machine can check it: what the manifest declares, what the sources import,
// and what docs/architecture.md draws are the same.

import Foundation
import Testing

@Suite("The architecture")
struct ArchitectureTests {
    private static let all = Repository.sources + Repository.tests

    /// What the files of a target import, of ours.
    private func imports(of target: Manifest.Target, in manifest: Manifest) -> Set<String> {
        let files = Self.all.filter { $0.module == target.name }
        let imported = files.flatMap { $0.lines.compactMap(Repository.imported) }
        return Set(imported).intersection(manifest.names)
    }

    @Test func `every import of one of our modules is declared in the manifest`() throws {
        let manifest = try Manifest()
        #expect(manifest.targets.count > 12)
        var undeclared: [String] = []
        for target in manifest.targets {
            let missing = imports(of: target, in: manifest).subtracting(target.dependencies)
            undeclared += missing.sorted().map { "\(target.name) → \($0)" }
        }
        #expect(undeclared == [])
    }

    @Test func `nothing is declared in the manifest that no file imports`() throws {
        let manifest = try Manifest()
        var unused: [String] = []
        for target in manifest.targets {
            let extra = target.dependencies.subtracting(imports(of: target, in: manifest))
            unused += extra.sorted().map { "\(target.name) → \($0)" }
        }
        #expect(unused == [])
    }

    @Test func `the arrows point one way`() throws {
        let manifest = try Manifest()
        let uses = Dictionary(
            uniqueKeysWithValues: manifest.targets.map { ($0.name, $0.dependencies) })
        func reached(from name: String) -> Set<String> {
            var found: Set<String> = []
            var next = uses[name] ?? []
            while let one = next.popFirst() {
                guard found.insert(one).inserted else { continue }
                next.formUnion(uses[one] ?? [])
            }
            return found
        }
        #expect(manifest.names.filter { reached(from: $0).contains($0) } == [])
        // The queue knows no machine, and machines know no queue.
        #expect(!reached(from: "Jobs").contains("Machines"))
        #expect(reached(from: "Machines").isDisjoint(with: ["Jobs", "Postgres"]))
        // What is shared with the guest drags nothing along.
        #expect(reached(from: "Wire") == [])
        #expect(reached(from: "GuestAgent").isDisjoint(with: ["Jobs", "Machines", "Postgres"]))
    }

    @Test func `the picture in docs has an arrow for each declared dependency and no other`() throws
    {
        let manifest = try Manifest()
        var declared: Set<String> = []
        for target in manifest.targets
        where !target.isTest && !["TestSupport", "CTestSupport"].contains(target.name) {
            declared.formUnion(target.dependencies.map { "\(target.name) → \($0)" })
        }
        let page = try Repository.file("docs/architecture.md").text
        var drawn: Set<String> = []
        for match in page.matches(of: /(?m)^ *(\w+) --> (\w+(?: & \w+)*)$/) {
            for end in match.2.split(separator: " & ") { drawn.insert("\(match.1) → \(end)") }
        }
        #expect(declared.subtracting(drawn).sorted() == [], "missing in docs/architecture.md")
        #expect(drawn.subtracting(declared).sorted() == [], "drawn, but not in Package.swift")
    }

    @Test func `every folder of the sources has its line in docs`() throws {
        let page = try Repository.file("docs/architecture.md").text
        let folders = Set(Repository.sources.map(\.directory)).map {
            $0.dropFirst("Sources/".count)
        }
        #expect(folders.filter { !page.contains("| `\($0)` |") }.sorted() == [])
        let listed = page.matches(of: /(?m)^\| `([A-Z]\w+(?:\/\w+)*)` \|/).map { String($0.1) }
        #expect(listed.filter { !folders.contains(Substring($0)) } == [], "listed, but gone")
    }

    @Test func `no folder has more than 13 files beside each other`() {
        let files =
            Repository.sources + Repository.files(in: "Sources", ending: ".c")
            + Repository.tests
        let crowded = Dictionary(grouping: files, by: \.directory).filter { $1.count > 13 }
        #expect(crowded.map { "\($0.key): \($0.value.count)" }.sorted() == [])
    }

    @Test func `every module of the document tools is among the files of their image`() throws {
        let folder = "Sources/DocumentTools/mayfly_document"
        let modules = Repository.files(in: folder, ending: ".py").map {
            (String($0.path.dropFirst(folder.count + 1)) as NSString).deletingPathExtension
        }
        #expect(modules.count > 20)
        let list = try Repository.file("Sources/DocumentTools/DocumentTools.swift").text
        #expect(modules.filter { !list.contains("module(\"\($0)\", ") } == [])
    }

    @Test
    func `what runs in the guest, what reads its bytes, and what is root needs no Foundation`() {
        let wrong = Repository.sources.filter { file in
            ["Wire", "GuestAgent", "Events", "Jail", "Launch", "Launcher"].contains(file.module)
                && file.lines.contains { Repository.imported($0)?.hasPrefix("Foundation") == true }
        }
        #expect(wrong.map(\.path) == [])
    }
}
