// What of a machine its control group bounds: as many of these as the kernel has controllers for.

package struct LaunchBounds: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }

    package static let memory = LaunchBounds(rawValue: 1)
    package static let processors = LaunchBounds(rawValue: 2)
    package static let threads = LaunchBounds(rawValue: 4)
    package static let disk = LaunchBounds(rawValue: 8)
    package static let all: LaunchBounds = [.memory, .processors, .threads, .disk]
}
