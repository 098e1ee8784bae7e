// The question that every new image must answer before it is published: are two machines made from
// it ever alike? Asked of the shell always, of Python and Node where they are parked.

import Events
import Wire

enum Canary {
    private static let shell = """
        cat /proc/sys/kernel/random/uuid /etc/machine-id; hostname
        head -c 16 /dev/urandom | od -An -tx1; mktemp -u
        """
    private static let python = """
        import multiprocessing, os, random, uuid, secrets, tempfile
        print(os.urandom(16).hex()); print(uuid.uuid4()); print(random.random())
        print(multiprocessing.current_process().authkey.hex()); print(secrets.token_hex(16))
        print(next(tempfile._get_candidate_names()))
        try:
            import numpy
            print(numpy.random.random()); print(numpy.random.default_rng().random())
        except ImportError:
            pass
        """
    private static let node = """
        console.log(Math.random()); console.log(require('crypto').randomUUID())
        """

    /// What the image's own program is called.
    private static let own = "the image's canary"
    /// Of each program; emulation takes its time.
    private static let timeout = Duration.seconds(600)

    /// One machine's answers to each program, a line each, named.
    ///
    /// - Parameter isWarm: the machines are kept warm before, as for a job.
    @LoopActor
    static func answers(
        of image: GoldenImage, on host: MachineHost, isWarm: Bool = false
    ) async throws(MachineError) -> [String] {
        var lines: [String] = []
        var programs: [(String, GuestJob.Program)] = [
            ("shell", .command(["/bin/sh", "-c", shell]))
        ]
        let interpreters = image.manifest.definition.interpreters
        if interpreters.contains("python") { programs.append(("python", .python(source: python))) }
        let own = image.manifest.definition.canary
        if !own.isEmpty { programs.append((Self.own, .command(["/bin/sh", "-c", own]))) }
        if interpreters.contains("node") { programs.append(("node", .node(source: node))) }
        for (name, program) in programs {
            let job = GuestJob(program: program, timeout: timeout)
            let report: GuestReport
            if isWarm {
                let warm = try await host.makeWarm(of: image)
                let machine = try await warm.claim(before: .now + .seconds(60))
                do throws(MachineError) { report = try await machine.session.run(job) } catch {
                    throw await machine.hypervisor.end(explaining: error)
                }
                _ = await machine.destroy()
            } else {
                (report, _) = try await host.withMachine(restoring: image) {
                    machine throws(MachineError) in try await machine.session.run(job)
                }
            }
            let output = String(decoding: report.stdout.bytes, as: UTF8.self)
            guard report.ending == .exited(code: 0), !output.isEmpty else {
                let words = String(decoding: report.stderr.bytes, as: UTF8.self)
                throw MachineError(
                    .buildFailed, "a clone could not run \(name): \(report.ending) \(words)")
            }
            lines += output.split(separator: "\n").enumerated().map {
                // The image's own lines say themselves what they are. Their place is nothing: two
                // streams of numbers, one of them a few steps ahead, differ in every line.
                name == Self.own
                    ? "\(name)\t\($0.element)"
                    : "\(name) line \($0.offset + 1)\t\($0.element)"
            }
        }
        return lines
    }

    /// What two clones have in common, or `nil` when nothing is.
    static func alike(_ clones: [[String]]) -> String? {
        var seen: Set<String> = []
        for clone in clones {
            for line in clone where !seen.insert(line).inserted {
                return line.replacing("\t", with: ": ")
            }
        }
        return nil
    }
}
