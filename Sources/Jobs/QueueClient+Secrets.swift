// The public keys that secrets are sealed with, as producers and operators see them. Part of
// QueueClient; knows no private key.

import Postgres

/// One row of `mayfly.secret_key`.
package struct SecretKeyRow: Sendable, Equatable {
    package let id: String
    /// ISO 8601; when it was published last.
    package let createdAt: String
    package let retiredAt: String?
    /// What producers seal with now.
    package let isCurrent: Bool
}

extension QueueClient {
    /// The public key to seal with, as the text of a JSON Web Key.
    package func secretKey() async throws(JobsError) -> String {
        try await run("select mayfly.secret_key() as jwk").string(0, "jwk")
    }

    /// All that were ever published, the newest first.
    package func secretKeys() async throws(JobsError) -> [SecretKeyRow] {
        let rows = try await run(
            """
            select kid, mayfly.iso(created_at) as created_at, mayfly.iso(retired_at) as retired_at,
                retired_at is null and row_number() over (partition by retired_at is null
                    order by created_at desc, kid) = 1 as is_current
            from mayfly.secret_key order by created_at desc, kid
            """)
        return (0..<rows.count).map {
            SecretKeyRow(
                id: rows.string($0, "kid"), createdAt: rows.string($0, "created_at"),
                retiredAt: rows.text($0, "retired_at"), isCurrent: rows.bool($0, "is_current"))
        }
    }

    /// Producers seal with it from now on.
    package func publishSecretKey(_ jwk: String) async throws(JobsError) {
        _ = try await run("select mayfly.publish_secret_key(\(Storable.json(jwk)))")
    }
    package func retireSecretKey(_ id: String) async throws(JobsError) {
        _ = try await run("select mayfly.retire_secret_key(\(id))")
    }
}
