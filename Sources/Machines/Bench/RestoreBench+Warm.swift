// What a warm machine saves: from the claim to the first byte of a job, by a standby and warm, turn
// and turn about, so that both meet the same host.

import Events

extension RestoreBench {
    /// Both ways of one program.
    struct FirstBytes {
        var standby: [Double] = []
        var warm: [Double] = []
        /// Of a warm one: until READY.
        var ready: [Double] = []
        /// What it took to make a warm one of a standby, before there was a job.
        var making: [Double] = []
        /// What a warm one adds to the host's memory, in MiB.
        var weight: [Double] = []
    }

    func firstBytes(of program: GuestJob.Program) async throws(MachineError) -> FirstBytes {
        var result = FirstBytes()
        for _ in 0..<rounds {
            let standby = try await host.spawnStandby(of: image)
            let claimed = ContinuousClock.now
            let machine = try await makeMachine(standby)
            result.standby.append(
                try await firstByte(of: program, in: machine, since: claimed))

            let waiting = try await host.spawnStandby(of: image, forWarm: true)
            let begin = ContinuousClock.now
            let warm = try await WarmMachine.make(from: waiting)
            result.making.append((ContinuousClock.now - begin).milliseconds)
            result.weight.append(warm.weight.mebibytes)
            let taken = ContinuousClock.now
            let ready = try await warm.claim(before: .now + Self.limit)
            result.ready.append((ContinuousClock.now - taken).milliseconds)
            result.warm.append(try await firstByte(of: program, in: ready, since: taken))
        }
        return result
    }

    /// In milliseconds; the machine is gone afterwards.
    private func firstByte(
        of program: GuestJob.Program, in machine: consuming Machine,
        since claimed: ContinuousClock.Instant
    ) async throws(MachineError) -> Double {
        let began = ContinuousClock.now
        let report = try await machine.session.run(
            GuestJob(program: program, timeout: .seconds(60)))
        _ = await machine.destroy()
        guard report.stdout.bytes == Array("42\n".utf8), let firstByte = report.firstByte else {
            throw MachineError(.machineLost, "the bench's own job went wrong: \(report)")
        }
        return (began - claimed + firstByte).milliseconds
    }

    static func rows(_ name: String, _ bytes: FirstBytes) -> [BenchRow] {
        [
            BenchRow("claim to first byte of \(name), standby", bytes.standby),
            BenchRow("claim to first byte of \(name), warm", bytes.warm),
            BenchRow("  of it: resume, PREPARE, READY", bytes.ready),
        ]
    }
}
