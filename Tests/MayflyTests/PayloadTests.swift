// Payloads of the kind `code`: everything that is refused, with its path, and that no payload
// traps.

import Jobs
import Machines
import StrictJSON
import TestSupport
import Testing

@testable import Mayfly

@Suite("A code payload")
struct PayloadTests {
    /// Blobs by name.
    struct Blobs: BlobSource {
        var stored: [String: [UInt8]] = [:]
        var isBroken = false
        /// Said to be so large, whatever is there.
        var byteCount: Int?
        func part(of digest: String, at offset: Int) async throws -> BlobPart? {
            if isBroken { throw FileError("the database went away") }
            guard let bytes = stored[digest] else { return nil }
            let part = bytes.dropFirst(offset).prefix(JobFiles.partByteCount)
            return BlobPart(bytes: Array(part), byteCount: byteCount ?? bytes.count)
        }
    }
    private static let digest = String(repeating: "0123456789abcdef", count: 4)

    private func kind(_ flags: [(key: String, value: String, flag: String)] = []) throws -> CodeKind
    {
        CodeKind(try Configuration(flags: flags, file: nil, environment: [:]))
    }
    private func problem(
        _ payload: String, timeout: Duration? = nil, blobs: Blobs = Blobs()
    ) async throws -> InvalidPayload? {
        let kind = try kind()
        do throws(AttemptError) {
            _ = try await kind.recipe(payload: payload, timeout: timeout, blobs: blobs)
            return nil
        } catch {
            guard case .invalidPayload(let problem) = error else { throw error }
            return problem
        }
    }
    private static func with(_ members: String) -> String {
        #"{"language":"python","source":"","# + members + "}"
    }
    private static func file(_ members: String) -> String { with(#""files":[{"# + members + "}]") }
    private static func named(_ name: String) -> String {
        file(#""text":"","name":"# + JSON.string(name).text)
    }

    private static let refused: [(payload: String, problem: String)] = [
        ("", "$: is not valid JSON"),
        ("[]", "$: expected an object, found an array"),
        ("{}", "$: \"language\" is missing"),
        (#"{"language":"python"}"#, "$: \"source\" is missing"),
        (
            #"{"language":"ruby","source":""}"#,
            "$.language: \"ruby\" is not a supported language; use python, node, typescript or bash"
        ),
        (#"{"language":null,"source":""}"#, "$.language: expected a string, found null"),
        (#"{"language":"python","source":1}"#, "$.source: expected a string, found a number"),
        (#"{"language":"python","source":"\u0000"}"#, "$.source: contains a zero byte"),
        (with(#""interpreter":"cold""#), "$.interpreter: \"cold\" is not known; use warm or fresh"),
        (with(#""interpreter":1"#), "$.interpreter: expected a string, found a number"),
        (named("/\u{301}x"), "$.files[0].name: "),
        (with(#""value":"all""#), "$.value: \"all\" is not known; use last or none"),
        (with(#""continue":true"#), "$: unknown key \"continue\""),
        (with(#""steps":[]"#), "$.language: belongs into one of the steps"),
        (#"{"steps":[]}"#, "$.steps: has no step"),
        (#"{"steps":{}}"#, "$.steps: expected an array, found an object"),
        (#"{"steps":[{"language":"bash"}]}"#, "$.steps[0]: \"source\" is missing"),
        (
            #"{"steps":[{"language":"bash","source":"","continue":1}]}"#,
            "$.steps[0].continue: expected a boolean, found a number"
        ),
        (
            #"{"steps":[{"language":"bash","source":"","files":[]}]}"#,
            "$.steps[0]: unknown key \"files\""
        ),
        (with(#""setup":{"language":"bash"}"#), "$.setup: \"source\" is missing"),
        (
            #"{"setup":{"language":"bash","source":"","continue":true},"steps":[]}"#,
            "$.setup: unknown key \"continue\""
        ),
        (with(#""sauce":1"#), "$: unknown key \"sauce\"; the keys are language, source"),
        (with(#""source":"""#), "$: is not valid JSON: the name \"source\" stands twice"),
        (with(#""args":"a""#), "$.args: expected an array, found a string"),
        (with(#""args":["a",1]"#), "$.args[1]: expected a string, found a number"),
        (with(#""args":["a\u0000"]"#), "$.args[0]: contains a zero byte"),
        (with(#""stdin":{}"#), "$.stdin: expected a string, found an object"),
        (with(#""env":[]"#), "$.env: expected an object, found an array"),
        (with(#""env":{"A":1}"#), "$.env.A: expected a string, found a number"),
        (with(#""env":{"A=B":""}"#), "$.env.A=B: is not a valid variable name"),
        (with(#""env":{"":""}"#), "$.env.: is not a valid variable name"),
        (with(#""env":{"1A":""}"#), "$.env.1A: is not a valid variable name"),
        (with(#""files":{}"#), "$.files: expected an array, found an object"),
        (with(#""files":["a"]"#), "$.files[0]: expected an object, found a string"),
        (file(#""text":"""#), "$.files[0]: \"name\" is missing"),
        (file(#""name":"a""#), "$.files[0]: has no content; use text, base64 or blob"),
        (
            file(#""name":"a","text":"","base64":"""#),
            "$.files[0]: has text and base64; use one of them"
        ),
        (file(#""name":"a","text":"","mode":7"#), "$.files[0]: unknown key \"mode\""),
        (file(#""name":"a","base64":"AA=""#), "$.files[0].base64: is not base64"),
        (file(#""name":"a","blob":"12""#), "$.files[0].blob: is not the address of a blob"),
        (
            file(#""name":"a","blob":"\#(digest.uppercased())""#),
            "$.files[0].blob: is not the address of a blob"
        ),
        (
            named("../x"),
            "$.files[0].name: \"../x\" leaves the job's directory; use a plain relative name"
        ),
        (named("/etc/passwd"), "$.files[0].name: \"/etc/passwd\" leaves the job's directory"),
        (named("a/../../x"), "$.files[0].name: \"a/../../x\" leaves the job's directory"),
        (named(".."), "$.files[0].name: \"..\" leaves the job's directory"),
        (named("."), "$.files[0].name:"), (named(""), "$.files[0].name:"),
        (named("a//b"), "$.files[0].name:"), (named("a/"), "$.files[0].name:"),
        (named("a\\b"), "$.files[0].name:"), (named("a\nb"), "$.files[0].name:"),
        (named("a\u{202E}b"), "$.files[0].name:"),
        (named(String(repeating: "a", count: 256)), "$.files[0].name:"),
        (named("main.py"), "$.files[0].name: \"main.py\" is taken by the program itself"),
        (
            with(#""files":[{"name":"a","text":""},{"name":"a","text":""}]"#),
            "$.files[1].name: \"a\" is taken by $.files[0]"
        ),
        (
            with(#""files":[{"name":"a/b","text":""},{"name":"a","text":""}]"#),
            "$.files[0].name: \"a/b\" needs a directory where $.files[1] is a file"
        ),
        (with(#""outputs":"*""#), "$.outputs: expected an array, found a string"),
        (with(#""outputs":["/etc/*"]"#), "$.outputs[0]: \"/etc/*\" is not a valid pattern"),
        (with(#""outputs":["../*"]"#), "$.outputs[0]: \"../*\" is not a valid pattern"),
        (with(#""outputs":[""]"#), "$.outputs[0]: \"\" is not a valid pattern"),
        (with(#""network":true"#), "$.network: expected an object, found a boolean"),
        (with(#""network":{"deny":[]}"#), "$.network: unknown key \"deny\""),
        (
            with(#""network":{"allow":["a.example:443","https://b.example/"]}"#),
            "$.network.allow[1]: \"https://b.example/\" is no rule: write host:port"
        ),
    ]

    @Test func `chooses its interpreter`() async throws {
        for (word, isParked) in [
            ("", true), (#""interpreter":"warm""#, true), (#""interpreter":"fresh""#, false),
        ] {
            let payload = word.isEmpty ? #"{"language":"python","source":""}"# : Self.with(word)
            let recipe = try await kind().recipe(payload: payload, timeout: nil, blobs: Blobs())
            #expect(recipe.job.usesParkedInterpreter == isParked)
        }
    }

    @Test("is refused with the place and the reason", arguments: refused)
    func refuses(_ payload: String, _ expected: String) async throws {
        let found = try await problem(payload)?.description ?? "accepted"
        #expect(found.hasPrefix(expected), "\(found)")
        #expect(!found.contains("\n"))
    }

    @Test func `too much of anything is refused where it stands`() async throws {
        func big(_ count: Int) -> String { String(repeating: "x", count: count) }
        let source = #"{"language":"python","source":""# + big(9 << 20) + "\"}"
        #expect(try await problem(source)?.path == "$.source")
        #expect(try await problem(Self.with(#""args":["\#(big(60_000))"]"#))?.path == "$.args[0]")
        let arguments = Array(repeating: "\"\(big(1000))\"", count: 100).joined(separator: ",")
        #expect(try await problem(Self.with("\"args\":[\(arguments)]"))?.path == "$.args")
        let many = Array(repeating: "\"\"", count: 300).joined(separator: ",")
        #expect(try await problem(Self.with("\"args\":[\(many)]"))?.path == "$.args")
        #expect(try await problem(Self.with("\"outputs\":[\(many)]"))?.path == "$.outputs")
        let files = (0..<300).map { #"{"name":"\#($0)","text":""}"# }.joined(separator: ",")
        #expect(try await problem(Self.with("\"files\":[\(files)]"))?.path == "$.files")
        let stdin = Self.with(
            #""stdin":"\#(big(40 << 20))","files":[{"name":"a","text":"\#(big(40 << 20))"}]"#)
        #expect(try await problem(stdin)?.path == "$")
        #expect(try await problem(big(129 << 20))?.path == "$")
    }

    @Test func `a timeout beyond the worker's limit is refused`() async throws {
        let payload = Self.with(#""args":[]"#)
        #expect(try await problem(payload, timeout: .seconds(3600)) == nil)
        #expect(try await problem(payload, timeout: .seconds(3601))?.path == "timeout")
        #expect(try await problem(payload, timeout: .zero)?.path == "timeout")
    }

    @Test func `becomes a recipe with everything in its place`() async throws {
        let payload = """
            {"language":"node","source":"1","args":["a b"],"stdin":"in","env":{"A_1":"é"},
             "files":[{"name":"d/t.txt","text":"T"},{"name":"b","base64":"AAH/"},
                      {"name":"c","blob":"\(Self.digest)"}],
             "outputs":["*.png","out/**"],"network":{"allow":[]}}
            """
        let recipe = try await kind([("code.output.files", "7", "--set")]).recipe(
            payload: payload, timeout: .seconds(5),
            blobs: Blobs(stored: [Self.digest: [7, 8, 9]]))
        #expect(recipe.image == "code")
        #expect(recipe.programName == "node")
        guard case .node("1") = recipe.job.program else {
            Issue.record("another program: \(recipe.job.program)")
            return
        }
        #expect(recipe.job.arguments == ["a b"])
        #expect(recipe.job.standardInput == Array("in".utf8))
        #expect(recipe.job.environment.map(\.name) == ["A_1"])
        #expect(recipe.job.environment.map(\.value) == ["é"])
        #expect(recipe.job.files.map(\.name) == ["d/t.txt", "b", "c"])
        var contents: [[UInt8]] = []
        for file in recipe.job.files {
            switch file.content {
            case .bytes(let bytes): contents.append(bytes)
            case .stream(let source):
                #expect(source.sha256 == Self.digest)
                contents.append(try await source.part(0))
            }
        }
        #expect(contents == [[0x54], [0, 1, 255], [7, 8, 9]])
        #expect(recipe.job.files.map(\.byteCount) == [1, 3, 3])
        #expect(recipe.job.outputs == ["*.png", "out/**"])
        #expect(!recipe.job.collectsChanges && recipe.job.reportsValues)
        #expect(recipe.job.timeout == .seconds(5))
        #expect(recipe.job.limits.fileCount == 7)
        let standard = try await kind().recipe(
            payload: Self.with(#""args":[]"#), timeout: nil, blobs: Blobs())
        #expect(standard.job.timeout == .seconds(60))
        #expect(standard.job.outputs.isEmpty && standard.job.collectsChanges)
        for (member, collects, reports) in [
            (#""outputs":[]"#, false, true), (#""value":"none""#, true, false),
            (#""value":"last""#, true, true),
        ] {
            let job = try await kind().recipe(
                payload: Self.with(member), timeout: nil, blobs: Blobs()
            ).job
            #expect(job.collectsChanges == collects && job.reportsValues == reports, "\(member)")
        }
    }

    @Test func `of several programs becomes steps in one machine, setup first`() async throws {
        let payload = """
            {"setup":{"language":"bash","source":"mkdir out"},
             "steps":[{"language":"python","source":"1","args":["a"],"continue":true},
                      {"language":"typescript","source":"2","stdin":"in","value":"none"}]}
            """
        let recipe = try await kind().recipe(payload: payload, timeout: nil, blobs: Blobs())
        #expect(recipe.programName == "bash, python, typescript")
        let programs = recipe.job.programs
        #expect(programs.map(\.sourceName) == ["main.sh", "main.py", "main.ts"])
        #expect(programs.map(\.arguments) == [[], ["a"], []])
        #expect(programs.map(\.standardInput) == [[], [], Array("in".utf8)])
        #expect(programs.map(\.allowsFailure) == [false, true, false])
        #expect(programs.map(\.reportsValues) == [false, true, false])
    }

    @Test func `a blob that is missing is the job's failure, a database that is away is ours`()
        async throws
    {
        let payload = Self.file(#""name":"a","blob":"\#(Self.digest)""#)
        let missing = try await problem(payload)
        #expect(missing?.path == "$.files[0].blob")
        #expect(missing?.reason == .blobMissing)
        await #expect {
            try await problem(payload, blobs: Blobs(isBroken: true))
        } throws: { error in
            if case .blobUnavailable(let sentence) = error as? AttemptError {
                sentence.contains("went away")
            } else {
                false
            }
        }
        let large = Blobs(stored: [Self.digest: [0]], byteCount: 101 << 20)
        let refused = try await problem(payload, blobs: large)
        #expect(refused?.path == "$.files[0]")
        #expect(refused?.sentence.contains("code.input.file") == true)
    }

    @Test func `no payload makes the validation trap, and what it accepts stays inside`()
        async throws
    {
        var random = SeededGenerator(for: "payload fuzz")
        let kind = try kind()
        for _ in 0..<20_000 {
            let value = Self.randomPayload(&random)
            do throws(AttemptError) {
                let recipe = try await kind.recipe(
                    payload: value.text, timeout: nil, blobs: Blobs())
                for file in recipe.job.files {
                    #expect(
                        !file.name.hasPrefix("/") && !file.name.split(separator: "/").contains("..")
                    )
                }
                #expect(recipe.job.arguments.allSatisfy { !$0.utf8.contains(0) })
            } catch {
                guard case .invalidPayload(let problem) = error else { continue }
                #expect(problem.path.hasPrefix("$"))
            }
        }
    }

    /// Mostly shaped like a payload, with anything anywhere.
    private static func randomPayload(_ random: inout SeededGenerator) -> JSON {
        var members: [JSON.Member] = []
        for key in CodePayload.keys + ["extra"] where Int.random(in: 0..<3, using: &random) > 0 {
            members.append(.init(name: key, value: randomValue(key, &random, depth: 0)))
        }
        if Bool.random(using: &random) {
            members.removeAll { $0.name == "extra" || $0.name == "language" }
            members.append(.init(name: "language", value: .string("bash")))
        }
        return .object(members)
    }
    private static func randomValue(
        _ key: String, _ random: inout SeededGenerator, depth: Int
    ) -> JSON {
        let texts = [
            "python", "", "a", "../x", "a/b", "*.png", "AAAA", "\0", "é", digest, "/", "main.sh",
            "[", "**", "A",
        ]
        let text = texts.randomElement(using: &random) ?? ""
        switch Int.random(in: 0..<(depth > 3 ? 4 : 7), using: &random) {
        case 0: return .null
        case 1: return .number(Int.random(in: -5...5, using: &random))
        case 2, 3: return .string(text)
        case 4:
            return .array(
                (0..<Int.random(in: 0...3, using: &random)).map { _ in
                    randomValue(key, &random, depth: depth + 1)
                })
        default:
            var names = ["name", "text", "base64", "blob", "allow", "A", ""]
            names.shuffle(using: &random)
            return .object(
                names.prefix(Int.random(in: 0...3, using: &random)).map {
                    .init(name: $0, value: randomValue(key, &random, depth: depth + 1))
                })
        }
    }
}
