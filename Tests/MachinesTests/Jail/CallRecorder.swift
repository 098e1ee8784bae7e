// Which system calls jailed hypervisors make, each of them: their filter asks for every call, and
// the recorder answers as the real filter would, but lets what is not listed through and says so.

import CTestSupport
import Events
import Foundation
import Glibc
import Processes
import Synchronization
import Testing

@testable import Machines

/// A rule of the filter, as `mayfly-jail rules` lists it.
struct CallRule: Sendable {
    let number: Int32
    let call: String
    /// The error that it is answered with; `nil`: it is made.
    let refusal: Int32?
    /// `nil`: on numbers of one process, which are not looked at here.
    let conditions: [Condition]?
    let reason: String
    /// As the golden files have it.
    let text: String

    struct Condition: Sendable {
        let argument: Int
        let mask: UInt64
        let value: UInt64
    }

    private init?(_ line: Substring) {
        let parts = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 5, let number = Int32(parts[0]) else { return nil }
        self.number = number
        call = parts[1]
        refusal = Int32(parts[2])
        reason = parts[4]
        let isOwn = parts[3] == "*"
        let conditions = parts[3].split(separator: " ").compactMap { Condition($0) }
        self.conditions = isOwn ? nil : conditions
        text = ([parts[1]] + (parts[3].isEmpty ? [] : [parts[3]])).joined(separator: " ")
    }
    /// All rules of one filter, in its own words.
    @LoopActor
    static func all(of filter: [String]) async throws -> [CallRule] {
        let jail = try #require(JailedStub.program("mayfly-jail"))
        let listed = try await runTool([jail, "rules"] + filter)
        try #require(listed.status == 0, "\(listed.output)")
        let lines = listed.output.split(separator: "\n")
        let rules = lines.compactMap { CallRule($0) }
        try #require(rules.count == lines.count && rules.count > 50)
        return rules
    }

    func fits(_ call: test_call) -> Bool {
        guard call.number == number else { return false }
        let arguments = [
            call.arguments.0, call.arguments.1, call.arguments.2, call.arguments.3,
            call.arguments.4, call.arguments.5,
        ]
        return (conditions ?? []).allSatisfy { arguments[$0.argument] & $0.mask == $0.value }
    }
    /// Arguments that it is about, others zero.
    var arguments: [UInt64] {
        var arguments = [UInt64](repeating: 0, count: 6)
        for condition in conditions ?? [] { arguments[condition.argument] = condition.value }
        return arguments
    }
}

extension CallRule.Condition {
    /// ARGUMENT&MASK=VALUE, or without a mask.
    fileprivate init?(_ text: Substring) {
        let sides = text.split(separator: "=")
        let left = sides[0].split(separator: "&")
        func number(_ text: Substring) -> UInt64? { UInt64(text.dropFirst(2), radix: 16) }
        guard sides.count == 2, let argument = Int(left[0]), let value = number(sides[1]) else {
            return nil
        }
        self.argument = argument
        self.value = value
        mask = left.count == 2 ? number(left[1]) ?? 0 : .max
    }
}

/// Watches the jailed children of this process.
final class CallRecorder: Sendable {
    private struct State {
        var watched: Set<pid_t> = []
        var used: Set<String> = []
        var unlisted: Set<String> = []
        var isOver = false
    }
    private let rules: [Int32: [CallRule]]
    private let state = Mutex(State())

    init(_ rules: [CallRule]) {
        self.rules = Dictionary(grouping: rules, by: \.number)
        Thread.detachNewThread { self.look() }
    }
    /// Rules that applied, and calls that no rule allows.
    func end() -> (used: Set<String>, unlisted: Set<String>) {
        state.withLock { state in
            state.isOver = true
            return (state.used, state.unlisted)
        }
    }
    var watchedCount: Int { state.withLock { $0.watched.count } }

    /// Finds children whose filter asks.
    private func look() {
        while !state.withLock(\.isOver) {
            for thread in children(of: "/proc/self/task") {
                let pids = (kernelText("/proc/self/task/\(thread)/children") ?? "")
                for pid in pids.split(separator: " ").compactMap({ pid_t($0) })
                where !state.withLock({ $0.watched.contains(pid) }) {
                    let listener = test_take_listener(pid)
                    guard listener >= 0 else { continue }
                    state.withLock { _ = $0.watched.insert(pid) }
                    Thread.detachNewThread { self.serve(listener) }
                }
            }
            usleep(3000)
        }
    }
    /// Answers until the process is gone, whatever happens to the test.
    private func serve(_ listener: CInt) {
        defer { close(listener) }
        // Who asks stands still until it is answered; a busy host has many that come before.
        _ = setpriority(CInt(PRIO_PROCESS.rawValue), 0, -15)
        var seen = Set<String>()
        while true {
            var call = test_call()
            switch unsafe test_next_call(listener, 1000, &call) {
            case 1: unsafe test_answer_call(listener, &call, judge(call, &seen))
            case 0: continue
            default: return
            }
        }
    }
    private func judge(_ call: test_call, _ seen: inout Set<String>) -> CInt {
        guard let rule = rules[call.number]?.first(where: { $0.fits(call) }) else {
            let arguments = [call.arguments.0, call.arguments.1, call.arguments.2]
                .map { String($0, radix: 16) }
            state.withLock {
                _ = $0.unlisted.insert("\(call.number) \(arguments.joined(separator: " "))")
            }
            return 0
        }
        if seen.insert(rule.text).inserted {
            state.withLock { _ = $0.used.insert(rule.text) }
        }
        return rule.refusal ?? 0
    }
}
