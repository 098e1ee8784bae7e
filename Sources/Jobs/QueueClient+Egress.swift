// The network of jobs as people see it: what a job did there, and how far operators let jobs reach.
// Each call is one function of the schema.

import Postgres

extension QueueClient {
    /// What a job's attempts did on the network, in their order.
    package func egress(_ id: Int64) async throws(JobsError) -> [EgressRow] {
        let rows = try await run(
            """
            select attempt, host, port, address, verdict, reason, rule, method, path, capability,
                count, bytes_sent, bytes_received, mayfly.iso(at) as at
            from mayfly.get_egress(\(id))
            """)
        return (0..<rows.count).map { EgressRow(rows, $0) }
    }

    /// The ceiling of a queue and tenant; `nil`: there is none, and nothing is allowed.
    package func ceiling(queue: String, tenant: String) async throws(JobsError) -> EgressCeiling? {
        let rows = try await run(
            """
            select queue, tenant, array_to_string(allow, e'\\n') as allow,
                array_to_string(networks, e'\\n') as networks
            from mayfly.egress_ceiling(\(queue), \(tenant))
            """)
        return rows.count > 0 ? EgressCeiling(rows, 0) : nil
    }

    /// Every ceiling there is; for operators.
    package func ceilings() async throws(JobsError) -> [EgressCeiling] {
        let rows = try await run(
            """
            select queue, tenant, array_to_string(allow, e'\\n') as allow,
                array_to_string(networks, e'\\n') as networks
            from mayfly.egress_ceiling order by queue, tenant
            """)
        return (0..<rows.count).map { EgressCeiling(rows, $0) }
    }

    /// Adds to a ceiling.
    package func allowEgress(_ change: EgressCeiling) async throws(JobsError) {
        _ = try await run(
            """
            select mayfly.allow_egress(\(change.queue), \(change.tenant),
                string_to_array(\(change.allow.joined(separator: "\n")), e'\\n'),
                string_to_array(\(change.networks.joined(separator: "\n")), e'\\n')::cidr[])
            """)
    }

    /// Takes entries out of a ceiling; without any the whole ceiling.
    ///
    /// Answers whether there was one.
    package func denyEgress(_ change: EgressCeiling) async throws(JobsError) -> Bool {
        if change.allow.isEmpty, change.networks.isEmpty {
            let rows = try await run(
                "select mayfly.deny_egress(\(change.queue), \(change.tenant)) as was_there")
            return rows.bool(0, "was_there")
        }
        let rows = try await run(
            """
            select mayfly.deny_egress(\(change.queue), \(change.tenant),
                string_to_array(\(change.allow.joined(separator: "\n")), e'\\n'),
                string_to_array(\(change.networks.joined(separator: "\n")), e'\\n')::cidr[])
                as was_there
            """)
        return rows.bool(0, "was_there")
    }
}
