// What came back from one machine: AgentSession fills it, a kind turns it into a result. All of it
// is data that a hostile guest may have chosen; only sizes and digests are the host's own.

/// How a program ended and what it left.
package struct GuestReport: Sendable {
    package enum Ending: Sendable, Equatable {
        case exited(code: Int32)
        case signalled(Int32)
        case timedOut
        case outOfMemory
        /// Which limit, as a sentence.
        case outputLimit(String)
    }

    /// Why an output file may be missing; a closed list.
    package enum Warning: Sendable, Equatable {
        /// More files match than one listing holds, or the search for them grew too long.
        case listingTruncated
        /// The job's directory could not be searched: the agent's words.
        case listingFailed(String)
        /// A file that was listed and could then not be read: its name, the agent's words.
        case fileUnreadable(String, String)
        /// Listing and reading took longer than they may; the files so far are there.
        case collectionUnfinished
    }

    package var ending: Ending
    package var stdout: CapturedOutput
    package var stderr: CapturedOutput
    /// What the program wrote as events: lines, of which a cut may have left parts.
    package var events: CapturedOutput
    package var files: [OutputFile]
    /// What came back unasked, were it not for a limit.
    package var skippedFiles: [SkippedFile] = []
    /// What of its outputs is missing although the job did its part.
    package var warnings: [Warning] = []
    /// User and system time of everything that the job started, as the guest counted it.
    package var cpu: Duration
    package var peakMemory: ByteCount
    /// From the start of the program to its end, by the host's clock.
    package var wall: Duration
    /// From the start of the program to its first byte of output, by the host's clock.
    package var firstByte: Duration?
    /// Whether a parked interpreter ran it.
    package var isWarm: Bool
    package var timings = JobTimings()
    /// Of a job of several programs: each that ran, the last one included; else empty.
    package var steps: [GuestReport] = []
}

extension GuestReport {
    /// Of all programs of a job, of which there is at least one: the last one's, with what they
    /// used together.
    init(steps: [GuestReport]) {
        self = steps[steps.count - 1]
        guard steps.count > 1 else { return }
        cpu = steps.reduce(.zero) { $0 + $1.cpu }
        wall = steps.reduce(.zero) { $0 + $1.wall }
        peakMemory = steps.map(\.peakMemory).max() ?? peakMemory
        firstByte = steps.lazy.compactMap(\.firstByte).first
        self.steps = steps
    }
}

/// One output stream: whole, or its head and tail.
package struct CapturedOutput: Sendable {
    package var bytes: [UInt8]
    package var total: ByteCount
    package var isTruncated: Bool
}

/// A file that the job left and that is not here.
package struct SkippedFile: Sendable, Equatable {
    /// Which limit it goes beyond: its own size, that of all files, their number.
    package enum Reason: String, Sendable, CaseIterable {
        case file = "file_limit"
        case total = "total_limit"
        case count = "count_limit"
    }
    package var name: String
    package var size: UInt64
    package var reason: Reason
}

/// Which machine ran a job.
package struct MachineIdentity: Sendable {
    package var id: String
    package var image: String
    package var generation: String
    package var hypervisor: HypervisorName
    package var accelerator: Accelerator
    package var transport: Transport
    /// What PREPARE credited to the guest's kernel and seeded its interpreters with: 96 bytes.
    package var entropySeed: [UInt8]
    /// The guest's clock as PREPARE set it: nanoseconds since 1970.
    package var clock: Int64
}

/// Where the time of one machine went, beside its job's own: ``GuestReport/timings``.
package struct MachineTimings: Sendable {
    /// Where the machine's hypervisor came from.
    package enum Start: String, Sendable, CaseIterable {
        /// It had been restored, rehearsed and paused.
        case warm
        /// It had been waiting with nothing loaded.
        case standby
        /// It was started for this job.
        case spawn
    }
    /// From the request to a loaded, running machine.
    package var restore = Duration.zero
    /// HELLO, PREPARE and READY: fresh entropy, clock and identity, proven.
    package var prepare = Duration.zero
    package var destroy = Duration.zero
    package var startedFrom: Start
}

/// Where the time of one job in its machine went.
package struct JobTimings: Sendable {
    /// Files in, program, until its exit was reported.
    package var run = Duration.zero
    /// Output files.
    package var collect = Duration.zero
    package init(run: Duration = .zero, collect: Duration = .zero) {
        self.run = run
        self.collect = collect
    }
}

/// One job's stay in one machine that is gone by now.
package struct MachineRun: Sendable {
    package var report: GuestReport
    package var identity: MachineIdentity
    package var timings: MachineTimings
}

/// The same entropy, clock and image generation as an earlier attempt.
package struct Pin: Sendable {
    package var generation: String
    package var entropySeed: [UInt8]
    package var clock: Int64
    package init(generation: String, entropySeed: [UInt8], clock: Int64) {
        self.generation = generation
        self.entropySeed = entropySeed
        self.clock = clock
    }
}
