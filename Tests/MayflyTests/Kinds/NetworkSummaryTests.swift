// What a job's failure says about its network: words that an operator may copy.

import Jobs
import Secrets
import Testing

@testable import Egress
@testable import Mayfly

@Suite("What a job did on the network")
struct NetworkSummaryTests {
    @Test func `is no SQL of the guest's, whatever its path is`() {
        var summary = NetworkSummary(
            ceiling: EgressCeiling(queue: "default", tenant: "o'hara"), isAsked: true)
        var record = EgressRecord()
        (record.host, record.port, record.verdict) = ("a.test", 443, .denied)
        record.reason = .aboveCeiling
        record.rule = "GET https://a.test/x']);drop/**/schema/**/mayfly;--"
        summary.add([record], SecretMask())
        #expect(
            summary.advice.hasSuffix(
                "select mayfly.allow_egress('default', 'o''hara', "
                    + "array['GET https://a.test/x'']);drop/**/schema/**/mayfly;--'])"),
            "\(summary.advice)")
    }
}
