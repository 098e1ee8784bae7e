// `security.profile = production`: a host whose machines lack a layer does not start, unless its
// operator has said which layer and why. Judged by what was seen around a real process.

/// How strict a host is with itself.
package enum SecurityProfile: String, Sendable, CaseIterable {
    /// What is missing is said, and jobs run.
    case standard
    /// What is missing stops the start.
    case production
}

/// Layers that may be off, each with the reason that somebody gave.
struct AcceptedRisks: Sendable, Equatable {
    private var reasons: [String: String] = [:]

    /// - Parameter text: `layer: reason`, separated by semicolons.
    /// - Throws: `hostUnfit` with the entry that has no reason.
    init(_ text: String) throws(MachineError) {
        for entry in text.split(separator: ";") where !String(entry).trimmed.isEmpty {
            let parts = entry.split(separator: ":", maxSplits: 1).map { String($0).trimmed }
            guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty else {
                throw MachineError(
                    .hostUnfit, "security.accept has \"\(entry)\"; each entry is `layer: reason`")
            }
            reasons[parts[0]] = parts[1]
        }
    }

    /// - Throws: `hostUnfit` with every layer that is off and not accepted.
    func check(_ findings: [DoctorFinding]) throws(MachineError) {
        let missing = findings.filter {
            $0.state == .off && reasons[Self.layer($0)] == nil
        }
        guard let first = missing.first else { return }
        let words = missing.map { "\(Self.layer($0)) (\($0.found); \($0.remedy))" }
        throw MachineError(
            .hostUnfit,
            "security.profile = production, and these layers are off: "
                + "\(words.joined(separator: "; ")). Mend them, or say why one may be off: "
                + "security.accept = \"\(Self.layer(first)): reason\"")
    }
    private static func layer(_ finding: DoctorFinding) -> String {
        let prefix = "hardening."
        return finding.name.hasPrefix(prefix)
            ? String(finding.name.dropFirst(prefix.count)) : finding.name
    }
}
