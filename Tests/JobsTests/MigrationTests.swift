// The schema comes to a database once, whoever brings it and however many at the same time.

import Glibc
import Jobs
import Postgres
import TestSupport
import Testing

@Suite("Migrations", .timeLimit(.minutes(2))) struct MigrationTests {
    @Test func `are applied once, by many at the same time`() async throws {
        let database = try await Database.make(migrated: false)
        let before = try await Migrations.status(database.settings())
        #expect(before.allSatisfy { $0.appliedAt == nil })
        let applied = try await withThrowingTaskGroup(of: [Int].self) { group in
            for _ in 0..<4 {
                group.addTask { try await Migrations.apply(database.settings()).map(\.version) }
            }
            return try await group.reduce(into: []) { $0 += $1 }
        }
        #expect(applied.sorted() == before.map(\.version))
        #expect(try await Migrations.apply(database.settings()).isEmpty)
    }

    @Test func `migrations that are missing are named when somebody connects`() async throws {
        let database = try await Database.make(migrated: false)
        for attempt in 0..<2 {
            do {
                try await QueueClient.open(database.settings()) { _ throws(JobsError) in }
                Issue.record("an unmigrated database was accepted")
            } catch {
                #expect(error.description.contains("mayfly migrate"), "\(attempt): \(error)")
            }
        }
    }

    @Test func `are all the files of sql, and psql may apply them, too`() async throws {
        let folder = #filePath.split(separator: "/").dropLast(3).map(String.init)
        let sql = "/" + (folder + ["sql"]).joined(separator: "/")
        var names: [String] = []
        let directory = unsafe try #require(unsafe opendir(sql))
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name.hasSuffix(".sql") { names.append(String(name.dropLast(4))) }
        }
        unsafe closedir(directory)
        let chapters = Migrations.versions.flatMap(\.chapters)
        #expect(names.sorted() == chapters.map(\.name))

        let database = try await Database.make(migrated: false)
        for script in chapters {
            let status = try psql(database, "\(sql)/\(script.name).sql")
            #expect(status == 0, "\(script.name)")
        }
        #expect(try await Migrations.apply(database.settings()).isEmpty)
        try await database.withConnection { _ = try await $0.enqueue() }
    }

    private func psql(_ database: Database, _ file: String) throws -> Int32 {
        let words = [
            "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", file,
            "-d", database.cluster.info(database: database.name),
        ]
        let arguments = unsafe words.map { unsafe strdup($0) }
        defer { unsafe arguments.forEach { unsafe free($0) } }
        var child: pid_t = 0
        let path = try Cluster.binaries() + "/psql"
        let error = unsafe posix_spawn(&child, path, nil, nil, arguments + [nil], environ)
        #expect(error == 0)
        var status: Int32 = 0
        _ = unsafe waitpid(child, &status, 0)
        return status
    }
}
