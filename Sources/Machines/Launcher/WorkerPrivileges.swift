// What a process that parses guests' bytes may do on this host, by the kernel's own account: for
// `mayfly doctor` and for `security.profile = production`.

import Foundation
import Glibc
import Processes

/// The rights of one process.
struct WorkerPrivileges: Sendable, Equatable {
    /// Effective.
    let user: uid_t
    let capabilities: UInt64

    /// `nil` when there is no such process.
    init?(of process: String) {
        // Of every thread that lives. One that has ended keeps what it had: the first one of a
        // Swift program does end when others take over.
        let threads = "/proc/\(process)/task"
        let found = children(of: threads).compactMap { kernelText("\(threads)/\($0)/status") }
            .filter { !$0.contains("\nState:\tZ") }
            .compactMap { WorkerPrivileges(status: $0) }
        guard let worst = found.first(where: { !$0.areNone }) ?? found.first else { return nil }
        self = worst
    }
    /// From the text of /proc/PID/status.
    init?(status: String) {
        func field(_ name: String) -> [Substring]? {
            status.split(separator: "\n").first { $0.hasPrefix(name) }
                .map { $0.dropFirst(name.count).split { $0 == "\t" || $0 == " " } }
        }
        guard let ids = field("Uid:"), ids.count == 4, let user = uid_t(ids[1]),
            let effective = field("CapEff:")?.first.flatMap({ UInt64($0, radix: 16) }),
            let permitted = field("CapPrm:")?.first.flatMap({ UInt64($0, radix: 16) })
        else { return nil }
        self.user = user
        capabilities = effective | permitted
    }
    static var ofThisProcess: WorkerPrivileges {
        // Without /proc nothing else of a worker works either.
        WorkerPrivileges(of: "self") ?? WorkerPrivileges(user: geteuid(), capabilities: .max)
    }
    private init(user: uid_t, capabilities: UInt64) {
        (self.user, self.capabilities) = (user, capabilities)
    }

    var areNone: Bool { user != 0 && capabilities == 0 }

    var finding: DoctorFinding { Self.finding(of: [self]) }

    /// - Parameter workers: of all that were looked at.
    private static func finding(of workers: [WorkerPrivileges]) -> DoctorFinding {
        let users = Set(workers.map(\.user)).sorted().map(String.init).joined(separator: ", ")
        guard let worst = workers.first(where: { !$0.areNone }) else {
            return DoctorFinding(
                name: "hardening.worker", state: .active,
                found: "what guests send is read by user \(users), without privileges", remedy: "")
        }
        let words =
            worst.user == 0
            ? "root"
            : "user \(worst.user) with the capabilities \(String(worst.capabilities, radix: 16))"
        return DoctorFinding(
            name: "hardening.worker", state: .off, found: "what guests send is read by \(words)",
            remedy: "run the worker as a user of its own, with the launcher beside it "
                + "(docs/operations.md, Without root)")
    }

    /// Of the workers that live under this runtime directory; where there is none, of one that
    /// this process would become.
    static func finding(runtimeDirectory: String) -> DoctorFinding {
        // One that gave up root has a directory of its user's below.
        let places =
            [runtimeDirectory]
            + children(of: runtimeDirectory).map {
                "\(runtimeDirectory)/\($0)"
            }
        let workers = places.flatMap { children(of: "\($0)/hosts") }
            .compactMap { name -> WorkerPrivileges? in
                guard let pid = pid_t(name.prefix { $0.isNumber }), pid != getpid() else {
                    return nil
                }
                return WorkerPrivileges(of: "\(pid)")
            }
        guard workers.isEmpty else { return finding(of: workers) }
        var finding = ofThisProcess.finding
        finding.found = "no worker runs here; of one started as you are: \(finding.found)"
        return finding
    }
}
