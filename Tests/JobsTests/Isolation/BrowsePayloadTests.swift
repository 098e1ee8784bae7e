// What the database refuses of a browse job's payload: addresses that no page comes from, and what
// opens somebody's account in the clear.

import Jobs
import Postgres
import TestSupport
import Testing

@Suite("A browse job in the database", .timeLimit(.minutes(2))) struct BrowsePayloadTests {
    private static let sealed =
        "eyJhbGciOiJFQ0RILUVTIn0..UFgKcNmXW6ymWAbO.-nvIEAAhqQ.6-GBu_6h2RLKgVFgV-jQYg"
    private static let clear = "hunter2-in-the-clear"

    private static let refused = [
        #"{"url": "file:///etc/passwd"}"#, #"{"url": "FILE:/etc/passwd"}"#,
        #"{"url": "\tfile:///x"}"#, #"{"url": "fi\tle:///x"}"#,
        #"{"url": "view-source:http://a/"}"#, #"{"url": "chrome://version"}"#,
        #"{"url": "javascript:alert(1)"}"#, #"{"url": "data:text/html,x"}"#,
        #"{"url": "blob:http://a/x"}"#, #"{"url": "about:blank"}"#, #"{"url": "ftp://a/"}"#,
        #"{"url": "http://"}"#, #"{"url": "https:///etc/passwd"}"#,
        #"{"url": "http://ann:\#(clear)@a/"}"#,
        #"{"url": "http://a b/"}"#, #"{"url": 7}"#, #"{"url": null}"#, #"{"url": ["http://a/"]}"#,
        #"{"html": "", "actions": [{"click": "a"}, {"goto": "file:///etc/passwd"}]}"#,
        #"{"html": "", "actions": [{"goto": 1}]}"#, #"{"html": "", "actions": ["goto"]}"#,
        #"{"html": "", "auth": {"username": "a", "password": "\#(clear)"}}"#,
        #"{"html": "", "auth": {"username": "a"}}"#, #"{"html": "", "auth": "\#(clear)"}"#,
        #"{"html": "", "storage": {"cookies": [{"value": "\#(clear)"}]}}"#,
        #"{"html": "", "storage": "\#(clear)"}"#,
        #"{"html": "", "storage": {"secret": "A", "x": "\#(clear)"}}"#,
        #"{"html": "", "cookies": [{"name": "a", "value": "\#(clear)"}]}"#,
        #"{"html": "", "cookies": ["\#(clear)"]}"#,
        #"{"html": "", "headers": {"COOKIE": "\#(clear)"}}"#,
        #"{"html": "", "headers": {"Authorization": "\#(clear)"}}"#,
        #"{"html": "", "secrets": {"A": "\#(clear)"}}"#,
    ]

    @Test func `is refused when its address or its secrets may not stand there, by whatever way`()
        async throws
    {
        try await Database.make().withConnection { connection in
            for payload in Self.refused {
                let many = #"[{"kind": "browse", "payload": \#(payload)}]"#
                let ways: [Statement] = [
                    "select mayfly.enqueue('browse', \(payload)::jsonb)",
                    "insert into mayfly.job (kind, payload) values ('browse', \(payload)::jsonb)",
                    "select mayfly.enqueue_many(\(many)::jsonb)",
                ]
                for way in ways {
                    do {
                        try await connection.run(way)
                        Issue.record("stored: \(payload)")
                    } catch let error as PostgresError {
                        #expect(error.sqlstate == "MF002", "\(payload): \(error)")
                        #expect(!"\(error.message) \(error.hint ?? "")".contains(Self.clear))
                    }
                }
            }
            #expect(try await connection.count("select count(*) from mayfly.job_data") == 0)
        }
    }

    @Test func `is stored when they may, and its rules are no other kind's`() async throws {
        try await Database.make().withConnection { connection in
            let stored = [
                #"{"url": "https://example.com/a?b=file:///x#c"}"#,
                #"{"url": "HTTP://EXAMPLE.com"}"#,
                #"{"url": "http://[::1]:8080/ä"}"#, #"{"html": "file:///etc/passwd"}"#,
                #"""
                {"html": "", "secrets": {"A": "\#(Self.sealed)"}, "storage": {"secret": "A"},
                 "auth": {"username": "a", "password": {"secret": "A"}}, "headers": {"X": "plain",
                 "Authorization": {"secret": "A"}}, "cookies": [{"name": "a", "value": {"secret": "A"}}],
                 "actions": [{"goto": "https://example.com/"}]}
                """#,
            ]
            for payload in stored {
                try await connection.run("select mayfly.enqueue('browse', \(payload)::jsonb)")
            }
            try await connection.run(
                #"select mayfly.enqueue('code', '{"url": "file:///etc/passwd", "auth": 1}')"#)
            #expect(try await connection.count("select count(*) from mayfly.job_data") == 6)
        }
    }
}
