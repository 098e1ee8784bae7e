// Secrets of a payload on the host's side: what is refused, what reaches a machine, what is masked
// of what comes back, and how commands take them.

import ArgumentParser
import Foundation
import Jobs
import Secrets
import StrictJSON
import TestSupport
import Testing

@testable import Machines
@testable import Mayfly

/// The recipe of a job without secrets.
extension Kind {
    func recipe(
        payload: String, timeout: Duration?, blobs: any BlobSource
    ) async throws(AttemptError) -> Recipe {
        try await recipe(
            payload: payload, timeout: timeout, blobs: blobs,
            secrets: SecretOpener(keys: settings.secretKeys, tenant: ""))
    }
}

@Suite("A payload's secrets")
struct SecretPayloadTests {
    private let key = PrivateKey.generate()
    private func keys(_ held: PrivateKey...) -> SecretKeys {
        var keys = SecretKeys(directory: "/nonexistent")
        keys.held = held
        return keys
    }
    private func sealed(_ text: String, tenant: String? = nil) throws -> String {
        try SealedSecret.seal(Secret(text), for: key.publicKey, tenant: tenant)
    }
    private func code(_ members: String) -> String {
        #"{"language":"python","source":"","# + members + "}"
    }
    private func recipe(
        _ payload: String, keys: SecretKeys? = nil, tenant: String = ""
    ) async throws(AttemptError) -> Recipe {
        let configuration: Configuration
        do throws(ConfigurationError) {
            configuration = try Configuration(flags: [], file: nil, environment: [:])
        } catch { throw .blobUnavailable("\(error)") }
        return try await CodeKind(configuration).recipe(
            payload: payload, timeout: nil, blobs: NoBlobs(),
            secrets: SecretOpener(keys: keys ?? self.keys(key), tenant: tenant))
    }
    private func refusal(
        _ payload: String, keys: SecretKeys? = nil, tenant: String = ""
    ) async -> Failure? {
        do throws(AttemptError) {
            _ = try await recipe(payload, keys: keys, tenant: tenant)
            return nil
        } catch {
            return Outcome(.failure(error), stopped: nil).failure
        }
    }

    @Test func `become variables of every program, and print as nothing`() async throws {
        let recipe = try await recipe(
            #"""
            {"setup": {"language": "bash", "source": "", "env": {"A": "1"}},
             "steps": [{"language": "python", "source": ""}],
             "secrets": {"API_KEY": "\#(try sealed("s3cret"))", "B": "\#(try sealed(""))"}}
            """#)
        let all = [recipe.job.environment] + recipe.job.nextSteps.map(\.environment)
        #expect(all.count == 2)
        #expect(all[0].map(\.name) == ["A", "API_KEY", "B"])
        #expect(all[1].map(\.value) == ["s3cret", ""])
        var dumped = ""
        dump(recipe, to: &dumped)
        dump(recipe.job, to: &dumped)
        dump(recipe.job.nextSteps, to: &dumped)
        #expect(!"\(recipe) \(recipe.job) \(dumped)".contains("s3cret"))
    }

    @Test func `are refused with their place when they are of another form`() async throws {
        let good = try sealed("s3cret")
        let long = try sealed(String(repeating: "x", count: 12_000))
        let refused = [
            (code(#""secrets":{"K":"hunter2"}"#), "$.secrets.K: is not sealed"),
            (code(#""secrets":{"K":7}"#), "$.secrets.K: expected a sealed secret, found a number"),
            (code(#""secrets":"\#(good)""#), "$.secrets: expected an object, found a string"),
            (code(#""secrets":{"a b":"\#(good)"}"#), "$.secrets.a b: is not a valid variable"),
            (
                code(#""env":{"K":"1"},"secrets":{"K":"\#(good)"}"#),
                "$.secrets.K: stands in env, too"
            ),
            (
                code(
                    #""secrets":{"A":"\#(long)","B":"\#(long)","C":"\#(long)","D":"\#(long)","E":"\#(long)"}"#
                ), "$.secrets: args, env and secrets are"
            ),
            (
                #"{"steps":[{"language":"bash","source":"","secrets":{"K":"\#(good)"}}]}"#,
                "$.steps[0]: unknown key \"secrets\""
            ),
        ]
        for (payload, words) in refused {
            let failure = await refusal(payload)
            #expect(failure?.reason == .invalidPayload, "\(words)")
            #expect(failure?.message.hasPrefix(words) == true, "\(failure?.message ?? "")")
            #expect(failure?.message.contains("hunter2") == false)
        }
    }

    @Test func `fail the job when they cannot be opened, and only the attempt without the key`()
        async throws
    {
        let payload = code(#""secrets":{"K":"\#(try sealed("s3cret", tenant: "acme"))"}"#)
        #expect(await refusal(payload, tenant: "acme") == nil)
        let foreign = await refusal(payload, tenant: "other")
        #expect(foreign?.reason == .secretUnreadable)
        #expect(foreign?.message == "$.secrets.K: was sealed for another tenant")
        #expect(foreign?.reason.isRetryable == false)

        let missing = await refusal(payload, keys: keys(PrivateKey.generate()), tenant: "acme")
        #expect(missing?.reason == .secretKeyMissing)
        #expect(missing?.reason.isOurs == true)
        #expect(missing?.message.contains(key.publicKey.id) == true)

        var text = Array(try sealed("s3cret"))
        text[text.count - 1] = text[text.count - 1] == "A" ? "Q" : "A"
        let changed = await refusal(code(#""secrets":{"K":"\#(String(text))"}"#))
        #expect(changed?.reason == .secretUnreadable)
        let zero = await refusal(code(#""secrets":{"K":"\#(try sealed("a\0b"))"}"#))
        #expect(zero?.reason == .secretUnreadable)
    }

    @Test func `of a document are its password, which only its machine is told`() async throws {
        let kind = DocumentKind(try Configuration(flags: [], file: nil, environment: [:]))
        func payload(_ password: String) -> String {
            #"{"operation":"text","password":"\#(password)","input":{"text":"a"}}"#
        }
        let opener = SecretOpener(keys: keys(key), tenant: "")
        let recipe = try await kind.recipe(
            payload: payload(try sealed("geheim")), timeout: nil, blobs: NoBlobs(), secrets: opener)
        let request = try JSON(parsing: recipe.job.standardInput)
        #expect(request["password"] == "geheim")
        #expect(!recipe.mask.isEmpty)
        #expect(try DocumentPayload(payload(try sealed("geheim"))).request["password"] == nil)
        for wrong in ["geheim", "", try sealed(String(repeating: "x", count: 1025))] {
            #expect(throws: InvalidPayload.self) { try DocumentPayload(payload(wrong)) }
        }
    }

    // MARK: What comes back

    private func output(_ text: String, cut: Int = 0) -> CapturedOutput {
        CapturedOutput(
            bytes: Array(text.utf8), total: ByteCount(bytes: text.utf8.count + cut),
            isTruncated: cut != 0)
    }
    private func run(
        _ ending: GuestReport.Ending, stdout: CapturedOutput, stderr: String = "",
        events: String = ""
    ) -> MachineRun {
        MachineRun(
            report: GuestReport(
                ending: ending, stdout: stdout, stderr: output(stderr), events: output(events),
                files: [OutputFile(name: "s3cret.txt", bytes: [1], sha256: "5s3cret5")],
                cpu: .zero, peakMemory: .mebibytes(1), wall: .zero, firstByte: nil, isWarm: true),
            identity: MachineIdentity(
                id: "m-1", image: "code", generation: "g1", hypervisor: .qemu, accelerator: .tcg,
                transport: .virtioSerial, entropySeed: [], clock: 7),
            timings: MachineTimings(startedFrom: .warm))
    }

    @Test func `are covered in everything that a program says`() async throws {
        let recipe = try await recipe(
            code(
                #""secrets":{"K":"\#(try sealed("s3cret"))","N":"\#(try sealed("31415926"))","Q":"\#(try sealed(#"say "so""#))"}"#
            ))
        let events = #"""
            {"display": {"source": "show", "data": {"text/plain": "shows s3cret"}}}
            {"value": {"type": "dict", "text": "{'s3cret': 31415926}", "json": {"s3cret": 31415926, "q": "say \"so\""}}}
            {"exception": {"type": "E", "message": "no s3cret", "line": 1, "traceback": "s3cret\n"}}
            """#
        let ended = run(
            .exited(code: 1), stdout: output("a s3cret\u{0}s3cret b"), stderr: "bad key s3cret\n",
            events: events)
        let kind = CodeKind(try Configuration(flags: [], file: nil, environment: [:]))
        let stored = kind.maskedResult(of: ended, recipe: recipe, queueDelay: nil)
        let all =
            stored.json.text + (stored.failure?.message ?? "") + (stored.logTail ?? "")
            + (stored.json["stdout_base64"]?.string.flatMap(Base64.decode).map {
                String(decoding: $0, as: UTF8.self)
            } ?? "")
        #expect(!all.replacing("5s3cret5", with: "").contains("s3cret"), "\(all)")
        #expect(!all.contains("31415926"))
        #expect(!all.contains("say "), "\(all)")
        let stars = "******"
        #expect(stored.json["stdout"]?.string == "a \(stars)\u{FFFD}\(stars) b")
        #expect(stored.json["value"]?["json"]?[stars] == .string("********"))
        #expect(stored.json["exception"]?["line"] == 1)
        #expect(stored.json["files"]?.elements.first?["name"] == .string("\(stars).txt"))
        #expect(stored.json["files"]?.elements.first?["sha256"] == "5s3cret5")
        #expect(stored.json["machine"]?["image"] == "code")
        #expect(stored.failure?.message.hasSuffix("bad key \(stars)") == true)
        #expect(stored.logTail == "bad key \(stars)\n")
    }

    @Test func `are covered where the output was cut through them`() async throws {
        let recipe = try await recipe(code(#""secrets":{"K":"\#(try sealed("0123456789"))"}"#))
        let kind = CodeKind(try Configuration(flags: [], file: nil, environment: [:]))
        var capture = OutputCapture(kept: ByteCount(bytes: 50))
        // The head ends after 20 bytes, the tail has 30.
        capture.append(Array("--------------0123456789------------------------".utf8))
        capture.append(Array("more than a little 0123456789-------------------------".utf8))
        let cut = capture.captured
        #expect(cut.marker != nil)
        #expect(String(decoding: cut.bytes, as: UTF8.self).contains("--012345\n[…"))
        let stored = kind.maskedResult(
            of: run(.exited(code: 0), stdout: cut), recipe: recipe, queueDelay: nil)
        let text = stored.json["stdout"]?.string ?? ""
        #expect(text.hasPrefix("--------------******\n[… "), "\(text)")
        #expect(text.contains("left out …]\n***"), "\(text)")
        // A program that was stopped in the middle of a word.
        let stopped = kind.maskedResult(
            of: run(.timedOut, stdout: output("the key is 01234567")), recipe: recipe,
            queueDelay: nil)
        #expect(stopped.json["stdout"]?.string == "the key is ********")
    }

    @Test func `are covered in what a machine's failure quotes`() async throws {
        let recipe = try await recipe(code(#""secrets":{"K":"\#(try sealed("s3cret"))"}"#))
        let error = recipe.mask.masked(MachineError(.machineLost, "the guest said s3cret"))
        #expect(error.description == "the guest said ******")
        #expect(error.reason == .machineLost)
    }

    // MARK: Commands

    @Test func `are taken from files and variables, never from arguments`() throws {
        for wrong in ["K=hunter2", "K=", "=@file", "", "K=@"] {
            do {
                _ = try Mayfly.parseAsRoot(
                    ["enqueue", "--language", "bash", "--source", "", "--secret", wrong])
                Issue.record("accepted: \(wrong)")
            } catch {
                #expect(Mayfly.exitCode(for: error) == .validationFailure)
                #expect(!Mayfly.fullMessage(for: error).contains("hunter2"))
            }
        }
        let file = NSTemporaryDirectory() + "mayfly-secret-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: file) }
        try Data("from a file\r\n".utf8).write(to: URL(fileURLWithPath: file))
        var options = try SecretOptions.parse(["--secret", "A=@\(file)", "--secret", "PATH"])
        let payload = try options.sealed(
            into: #"{"secrets":{"Z":"given"}}"#, of: "code", for: key.publicKey, tenant: "acme")
        let secrets = try #require(JSON(parsing: payload)["secrets"])
        #expect(secrets["Z"] == "given")
        func open(_ name: String) throws -> String? {
            try SealedSecret(secrets[name]?.string ?? "").open(with: key, tenant: "acme").text
        }
        #expect(try open("A") == "from a file")
        #expect(try open("PATH") == ProcessInfo.processInfo.environment["PATH"])
        #expect(throws: ConfigurationError.self) {
            _ = try options.sealed(into: "{}", of: "document", for: key.publicKey, tenant: nil)
        }
        options.secrets = ["password=@\(file)"]
        let document = try options.sealed(
            into: "{}", of: "document", for: key.publicKey, tenant: nil)
        let password = try #require(JSON(parsing: document)["password"]?.string)
        #expect(try SealedSecret(password).open(with: key, tenant: nil).text == "from a file")
    }

    @Test func `are shown as dots`() throws {
        let payload: JSON = [
            "password": "eyJ…", "secrets": ["K": "eyJ…", "L": "eyJ…"], "source": "print()",
        ]
        #expect(
            payload.withDots == [
                "password": .string(Secret.dots),
                "secrets": ["K": .string(Secret.dots), "L": .string(Secret.dots)],
                "source": "print()",
            ])
        #expect(payload.sealedNames == ["password", "K", "L"])
        let clear: JSON = ["secrets": "clear"]
        #expect(clear.withDots == ["secrets": .string(Secret.dots)])
    }
}
