// The part of a payload that says where a job wants to go, and what of it it may have. The rules
// are read by Egress's own parser: what two parsers read differently is a hole.

import Egress
import Jobs
import Machines

/// `"network": {"allow": ["pypi.org:443"]}`.
struct NetworkRequest: Sendable {
    private enum Bounds {
        static let rules = 256
        static let ruleBytes = ByteCount(bytes: 300)
    }
    var rules: [EgressRule] = []
    var encryptedHello = EgressPolicy.EncryptedHello.refused
    /// Whether its operator's credentials are for this job, too: not where a hostile page would be
    /// who uses them.
    var hasCapabilities = true

    init() {}
    init(_ field: PayloadField) throws(InvalidPayload) {
        guard let allow = try field.members(["allow"])["allow"] else { return }
        for entry in try allow.list(atMost: Bounds.rules) {
            let text = try entry.text(atMost: Bounds.ruleBytes)
            do throws(EgressRuleError) { rules.append(try EgressRule(text)) } catch {
                throw entry.refuse("\(error)")
            }
        }
    }
}

extension EgressPolicy {
    /// What the job asks for, below its operator's ceiling.
    ///
    /// An entry of the ceiling that cannot be read allows nothing; `unread` is told of it.
    init(
        _ request: NetworkRequest, below ceiling: EgressCeiling?,
        unread: (String) -> Void = { _ in }
    ) {
        var rules: [EgressRule] = []
        var networks: [IPNetwork] = []
        for text in ceiling?.allow ?? [] {
            do throws(EgressRuleError) { rules.append(try EgressRule(text)) } catch {
                unread("\(error)")
            }
        }
        for text in ceiling?.networks ?? [] {
            do throws(EgressRuleError) { networks.append(try IPNetwork(text)) } catch {
                unread("\(error)")
            }
        }
        self.init(
            rules: request.rules, ceiling: rules, permittedNetworks: networks,
            encryptedHello: request.encryptedHello)
    }
}
