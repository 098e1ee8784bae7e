// Every number of the protocol that bounds something, with its reason. Both sides compile this one
// file; a limit that exists twice would drift apart.

/// What the protocol allows at most; anything beyond is a violation.
package enum Limits {
    /// The only version that this build speaks; both preambles carry it.
    package static let version: UInt16 = 6

    /// Length, stream, type, flags, reserved: fits one cache line with room to spare.
    package static let headerByteCount = 12
    /// Large enough that the header costs nothing, small enough to hold one frame per connection.
    package static let payloadByteCount = 65_536
    package static let hostPreambleByteCount = 96
    package static let invitationByteCount = 48
    package static let guestPreambleByteCount = 80

    /// A job opens one stream per file in flight; more would only be a way to use memory.
    package static let openStreams = 64
    /// A job's files, twice over; a machine is thrown away long before it needs more.
    package static let streamsPerConnection = 4096

    /// Keeps a pipe busy over one scheduling delay, and bounds what one stream can pile up.
    package static let streamCredit = 256 << 10
    /// Bounds what all streams together can pile up in the receiver.
    package static let connectionCredit = 2 << 20

    /// As many connections as a browser opens to its proxy; a program beyond that waits.
    package static let networkStreams = 32
    /// Of each of them and each direction: with all of them full a host holds 4 MiB for a machine.
    package static let networkCredit = 64 << 10

    /// Command line and environment travel in one frame; these bound the counts inside it.
    package static let arguments = 1024
    package static let environmentVariables = 512
    /// A list of patterns comes from one job's payload.
    package static let patterns = 64
    /// What LIST may ask for; LISTED ends earlier when its frame is full.
    package static let listedFiles = 4096
    /// Steps of matching names with patterns in one search, on either side: hundreds of times what
    /// a job's files need, and a few seconds of the slowest machine.
    package static let matchingSteps = 20_000_000
    /// READY names a handful of steps.
    package static let readySteps = 32
    /// Sentences from the other side, shown to an operator.
    package static let messageByteCount = 1024
    /// HOST_NAME_MAX on Linux.
    package static let hostNameByteCount = 64
    package static let generationByteCount = 128
    /// Steps of READY and variable names: identifiers, not prose.
    package static let nameByteCount = 256

    package static let entropyByteCount = 64
    package static let seedByteCount = 32
    package static let nonceByteCount = 32
    /// Beyond guessing: whoever has it may do everything with the machine.
    package static let tokenByteCount = 32
    package static let digestByteCount = 32
    package static let sampleByteCount = 32

    /// PATH_MAX is 4096; a quarter leaves room for the directory in front.
    package static let pathByteCount = 1024
    /// NAME_MAX on Linux.
    package static let segmentByteCount = 255
    /// Bounds recursion wherever a path is walked.
    package static let pathSegments = 16

    /// PINGs on their way: one is usual, more means that the other side is stuck.
    package static let pendingPings = 8
}
