// What is said of a worker's own rights.

import Foundation
import Glibc
import Testing

@testable import Machines

@Suite("A worker's privileges")
struct WorkerPrivilegesTests {
    private func status(_ uid: String, _ capabilities: String) -> String {
        "Name:\tmayfly\nUid:\t\(uid)\nCapPrm:\t\(capabilities)\nCapEff:\t\(capabilities)\n"
    }

    @Test func `are none for an ordinary user, and a layer that is off for all else`() throws {
        let none = "0000000000000000"
        let plain = try #require(
            WorkerPrivileges(status: status("1000\t1000\t1000\t1000", none)))
        #expect(plain.areNone && plain.finding.state == .active)
        for (ids, capabilities) in [
            ("0\t0\t0\t0", "000001ffffffffff"), ("0\t0\t0\t0", none),
            ("1000\t1000\t1000\t1000", "0000000000200000"), ("1000\t0\t0\t0", none),
        ] {
            let some = try #require(WorkerPrivileges(status: status(ids, capabilities)))
            #expect(!some.areNone && some.finding.state == .off, "\(ids) \(capabilities)")
        }
        #expect(WorkerPrivileges(status: "") == nil)
    }

    @Test func `stop a worker with the profile production, unless somebody says why`() throws {
        let root = try #require(
            WorkerPrivileges(status: status("0\t0\t0\t0", "000001ffffffffff")))
        #expect(throws: MachineError.self) { try AcceptedRisks("").check([root.finding]) }
        try AcceptedRisks("worker: one tenant, OPS-7").check([root.finding])
    }
}
