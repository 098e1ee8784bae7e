// What people write and strangers abuse: names and patterns, payloads, worker.conf. Accepted values
// survive being written and read again; work and size stay within their bounds; a sentence about bad
// input is one harmless line.

import StrictJSON
import Wire

@testable import Mayfly

func fuzzNames(_ bytes: [UInt8]) throws(BrokenPromise) {
    let lines = bytes.split(separator: 0x0A, maxSplits: 1, omittingEmptySubsequences: false)
    let pattern = String(decoding: lines[0], as: UTF8.self)
    let name = lines.count > 1 ? String(decoding: lines[1], as: UTF8.self) : pattern
    if GuestPath.isValid(name) {
        let segments = name.utf8.split(separator: 0x2F, omittingEmptySubsequences: false)
        try promise(
            !segments.contains { $0.isEmpty }, "an empty segment in \(name.debugDescription)")
        try promise(
            !segments.contains { $0.elementsEqual("..".utf8) || $0.elementsEqual(".".utf8) },
            "\(name.debugDescription) leaves its directory")
        try promise(
            !name.utf8.contains { $0 < 0x20 || $0 == 0x7F || $0 == 0x5C },
            "a control character or backslash in \(name.debugDescription)")
    }
    guard let glob = try? GuestGlob(pattern), name.utf8.count <= Limits.pathByteCount,
        var patterns = try? GuestPatterns([pattern])
    else { return }
    let isMatch: Bool
    do throws(WireError) { isMatch = try patterns.matches(name) } catch {
        throw BrokenPromise("one pattern and one name cost too much: \(error)")
    }
    try promise(isMatch == glob.matches(name), "two ways of matching disagree")
    let expected = PlainGlob.matches(pattern: pattern, name: name)
    try promise(
        isMatch == expected,
        "\(pattern.debugDescription) matches \(name.debugDescription): \(isMatch), not \(expected)")
}

/// The same rules, written to be obviously right: a table of all suffixes.
private enum PlainGlob {
    static func matches(pattern: String, name: String) -> Bool {
        let patterns = split(pattern)
        let names = split(name)
        // reached[j]: the patterns so far take exactly the first j names.
        var reached = Set([0])
        for part in patterns {
            var next: Set<Int> = []
            for place in reached {
                if part == Array("**".unicodeScalars) {
                    next.insert(place)
                    var end = place
                    while end < names.count, names[end].first != "." {
                        end += 1
                        next.insert(end)
                    }
                } else if place < names.count, segment(part, names[place]) {
                    next.insert(place + 1)
                }
            }
            reached = next
        }
        return reached.contains(names.count)
    }
    private static func split(_ text: String) -> [[Unicode.Scalar]] {
        Array(text.unicodeScalars).split(separator: "/", omittingEmptySubsequences: false)
            .map(Array.init)
    }
    private static func segment(_ pattern: [Unicode.Scalar], _ name: [Unicode.Scalar]) -> Bool {
        if name.first == ".", pattern.first != "." { return false }
        var reached = Set([0])  // how much of the name is taken
        var index = 0
        while index < pattern.count {
            var accepts: (Unicode.Scalar) -> Bool
            switch pattern[index] {
            case "*":
                if let low = reached.min() { reached = Set(low...max(low, name.count)) }
                index += 1
                continue
            case "?": accepts = { _ in true }
            case "[":
                let end = closing(pattern, index)
                let set = Array(pattern[(index + 1)..<end])
                accepts = { contains(set, $0) }
                index = end
            case let scalar: accepts = { $0 == scalar }
            }
            index += 1
            reached = Set(reached.filter { $0 < name.count && accepts(name[$0]) }.map { $0 + 1 })
        }
        return reached.contains(name.count)
    }
    /// The bracket that ends the set: not the first in it, and not the high end of a range.
    private static func closing(_ pattern: [Unicode.Scalar], _ open: Int) -> Int {
        var index = open + 1
        if pattern[index] == "!" || pattern[index] == "^" { index += 1 }
        let first = index
        while pattern[index] != "]" || index == first {
            let isRange =
                index + 2 < pattern.count && pattern[index + 1] == "-" && pattern[index + 2] != "]"
            index += isRange ? 3 : 1
        }
        return index
    }
    private static func contains(_ set: [Unicode.Scalar], _ scalar: Unicode.Scalar) -> Bool {
        let isNegated = set.first == "!" || set.first == "^"
        let members = Array(set.dropFirst(isNegated ? 1 : 0))
        var index = 0
        var isMember = false
        while index < members.count {
            if index + 2 < members.count, members[index + 1] == "-" {
                isMember = isMember || (members[index]...members[index + 2]).contains(scalar)
                index += 3
            } else {
                isMember = isMember || members[index] == scalar
                index += 1
            }
        }
        return isMember != isNegated
    }
}

func fuzzPayload(_ bytes: [UInt8]) throws(BrokenPromise) {
    let value: JSON
    do throws(JSONError) { value = try JSON(parsing: bytes) } catch {
        try promiseOneLine("\(error)")
        return
    }
    do {
        let again = try JSON(parsing: value.text)
        try promise(again == value, "\(value.text) became \(again.text)")
    } catch let error as JSONError {
        throw BrokenPromise("\(value.text) was read but not again: \(error)")
    } catch let error as BrokenPromise {
        throw error
    } catch { throw BrokenPromise("\(error)") }
    do {
        let document = try DocumentPayload(PayloadField(path: "$", value: value))
        try promise(!document.inputs.isEmpty, "no document")
        try promise(document.request["password"] == nil, "a password in the clear")
    } catch let error as InvalidPayload {
        try promiseOneLine(error.description)
    } catch let error as BrokenPromise {
        throw error
    } catch { throw BrokenPromise("\(error)") }
    do {
        let code = try CodePayload(PayloadField(path: "$", value: value))
        let names = code.files.map { Array($0.name.utf8) }
        try promise(Set(names).count == names.count, "two files with one name")
        try promise(code.files.allSatisfy { GuestPath.isValid($0.name) }, "a file outside")
        try promise(
            code.steps.allSatisfy { !$0.source.utf8.contains(0) }, "a zero byte in a source")
        try promise(!code.steps.isEmpty, "no program")
    } catch let error as InvalidPayload {
        try promiseOneLine(error.description)
    } catch let error as BrokenPromise {
        throw error
    } catch { throw BrokenPromise("\(error)") }
}

func fuzzConfiguration(_ bytes: [UInt8]) throws(BrokenPromise) {
    let text = String(decoding: bytes, as: UTF8.self)
    let user = UserPlaces(isRoot: true, home: "/root", runtimeDirectory: nil)
    var problems: [String] = []
    do {
        let file = try ConfFile(text, name: "worker.conf")
        problems = file.problems.map(\.sentence)
        let lines = text.utf8.count { $0 == 0x0A } + 1
        try promise(
            file.entries.count + problems.count <= lines, "more entries and problems than lines")
        let configuration = try Configuration(flags: [], file: file, environment: [:], user: user)
        try promise(problems.isEmpty, "accepted in spite of: \(problems)")
        try promise(configuration.count(.workerSlots) > 0, "no slots")
    } catch let error as ConfigurationError {
        problems += error.description.split(separator: "\n").map(String.init)
    } catch let error as BrokenPromise {
        throw error
    } catch { throw BrokenPromise("\(error)") }
    for problem in problems { try promiseOneLine(problem) }
}

/// Sentences about bad input end up in terminals and logs.
private func promiseOneLine(_ sentence: String) throws(BrokenPromise) {
    try promise(
        !sentence.unicodeScalars.contains { $0.value < 0x20 || (0x7F..<0xA0).contains($0.value) },
        "a control character in a sentence: \(sentence.debugDescription)")
}
