// What one machine is to do: a kind's recipe makes it from a validated payload, AgentSession runs
// it. Values only; nothing here knows a queue.

/// A program, its input and the limits it runs under.
package struct GuestJob: Sendable {
    /// What is started in the guest; sources become a file in the job's directory.
    package enum Program: Sendable {
        case python(source: String)
        case node(source: String)
        case typescript(source: String)
        case bash(source: String)
        /// An absolute path and its arguments, found in the image.
        case command([String])
    }

    /// A further program in the same machine, after the one before.
    package struct Step: Sendable {
        package var program: Program
        package var arguments: [String] = []
        package var standardInput: [UInt8] = []
        package var environment: [(name: String, value: String)] = []
        package var usesParkedInterpreter = true
        package var reportsValues = false
        /// What follows it runs although it fails.
        package var allowsFailure = false
        package init(program: Program) { self.program = program }
    }

    package var program: Program
    /// The first program may fail, and those that follow run all the same.
    package var allowsFailure = false
    /// What runs after it; the timeout is for all of them together.
    package var nextSteps: [Step] = []
    package var arguments: [String]
    package var standardInput: [UInt8]
    package var environment: [(name: String, value: String)]
    package var files: [GuestFile]
    /// Globs relative to the job's directory: `*`, `?`, `[…]` in a segment, `**` across segments.
    package var outputs: [String]
    /// Every file that is new or changed comes back, too.
    ///
    /// One that does not fit the limits is named and is no failure.
    package var collectsChanges = false
    /// Where output files go that are not small; `nil`: all are held in memory.
    package var sink: ByteSink?
    /// Who wants to look at its output while it runs.
    package var view: OutputView?
    /// Who serves the connections of its programs; `nil`: each is turned away in the guest.
    package var network: NetworkHandler?
    /// Wall clock from the program's start; the host keeps it, whatever the guest says.
    package var timeout: Duration
    /// What the job may use; `nil`: all that the machine has to give.
    package var memory: ByteCount?
    package var limits: OutputLimits
    /// Start in the interpreter that was parked in the snapshot, where the image has one.
    package var usesParkedInterpreter: Bool
    /// The program finds in `MAYFLY_EVENTS` the number of a descriptor, and writes lines there.
    package var hasEvents: Bool
    /// The interpreter writes values, displays and the exception as events; Python and Node only.
    ///
    /// What it shows as files, `display-…`, comes back unasked.
    package var reportsValues = false

    package init(
        program: Program, arguments: [String] = [], standardInput: [UInt8] = [],
        environment: [(name: String, value: String)] = [], files: [GuestFile] = [],
        outputs: [String] = [], timeout: Duration = .seconds(60), memory: ByteCount? = nil,
        limits: OutputLimits = OutputLimits(), usesParkedInterpreter: Bool = true,
        hasEvents: Bool = false
    ) {
        self.program = program
        self.arguments = arguments
        self.standardInput = standardInput
        self.environment = environment
        self.files = files
        self.outputs = outputs
        self.timeout = timeout
        self.memory = memory
        self.limits = limits
        self.usesParkedInterpreter = usesParkedInterpreter
        self.hasEvents = hasEvents
    }
}

extension GuestJob {
    /// Has its programs trust an authority of this host's, given in PEM, in their machine only.
    package mutating func trust(_ certificate: String) {
        let variable = (name: Self.authorityVariable, value: certificate)
        environment.append(variable)
        for place in nextSteps.indices { nextSteps[place].environment.append(variable) }
    }
    /// What the guest's agent takes for itself; see Wire's page.
    private static let authorityVariable = "MAYFLY_AUTHORITY"
}

/// Input and environment may hold secrets: whatever prints a job prints none of them.
extension GuestJob: CustomStringConvertible, CustomReflectable {
    package var description: String { "a job of \(1 + nextSteps.count) programs" }
    package var customMirror: Mirror { Mirror(self, children: []) }
}
extension GuestJob.Step: CustomStringConvertible, CustomReflectable {
    package var description: String { "one program of a job" }
    package var customMirror: Mirror { Mirror(self, children: []) }
}

/// How much a job may leave behind.
package struct OutputLimits: Sendable {
    /// Kept of stdout and of stderr each: two fifths from the start, the rest from the end.
    package var kept = ByteCount.mebibytes(1)
    /// Kept of the events, likewise.
    package var keptEvents = ByteCount.mebibytes(4)
    /// Printed to stdout or stderr, or written as events, before the job ends with `output_limit`.
    package var printed = ByteCount.mebibytes(16)
    package var fileCount = 100
    package var file = ByteCount.mebibytes(100)
    package var allFiles = ByteCount.mebibytes(500)
    package init() {}
}
