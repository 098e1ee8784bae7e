// What the launcher says to a worker, a message each: that the machine runs, that it does not, how
// it ended.

package enum LaunchReply: Equatable, Sendable {
    /// With it comes a descriptor of the process.
    case started(pid: UInt32, user: UInt32, bounds: LaunchBounds)
    case refused(LaunchRefusal)
    /// As a shell tells it: 128 and more is a signal.
    case ended(Ending)

    package struct Ending: Equatable, Sendable {
        package var status: UInt32
        package var userMicroseconds: UInt64
        package var systemMicroseconds: UInt64
        package var peakKibibytes: UInt64
        /// The kernel has ended it for that.
        package var wantedMoreMemory: Bool

        package init(
            status: UInt32, userMicroseconds: UInt64, systemMicroseconds: UInt64,
            peakKibibytes: UInt64, wantedMoreMemory: Bool
        ) {
            self.status = status
            self.userMicroseconds = userMicroseconds
            self.systemMicroseconds = systemMicroseconds
            self.peakKibibytes = peakKibibytes
            self.wantedMoreMemory = wantedMoreMemory
        }
    }
    package static let byteCountMax = 1024

    package func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        switch self {
        case .started(let pid, let user, let bounds):
            bytes.append(1)
            bytes.append(number: pid)
            bytes.append(number: user)
            bytes.append(bounds.rawValue)
        case .refused(let refusal):
            bytes.append(2)
            bytes += Array(refusal.description.utf8).prefix(Self.byteCountMax - 1)
        case .ended(let ending):
            bytes.append(3)
            bytes.append(number: ending.status)
            for number in [
                ending.userMicroseconds, ending.systemMicroseconds, ending.peakKibibytes,
            ] { bytes.append(number: number) }
            bytes.append(ending.wantedMoreMemory ? 1 : 0)
        }
        return bytes
    }

    /// `nil` for what is none.
    package init?(_ message: [UInt8]) {
        guard message.count <= Self.byteCountMax else { return nil }
        var bytes = Bytes(message)
        switch bytes.number(UInt8.self) {
        case 1:
            guard let pid = bytes.number(UInt32.self), let user = bytes.number(UInt32.self),
                let bounds = bytes.number(UInt8.self).map(LaunchBounds.init),
                bounds.isSubset(of: .all), bytes.isAtEnd
            else { return nil }
            self = .started(pid: pid, user: user, bounds: bounds)
        case 2:
            self = .refused(LaunchRefusal(String(decoding: message.dropFirst(), as: UTF8.self)))
        case 3:
            guard let status = bytes.number(UInt32.self), let user = bytes.number(UInt64.self),
                let system = bytes.number(UInt64.self), let peak = bytes.number(UInt64.self),
                let excess = bytes.number(UInt8.self), excess < 2, bytes.isAtEnd
            else { return nil }
            self = .ended(
                Ending(
                    status: status, userMicroseconds: user, systemMicroseconds: system,
                    peakKibibytes: peak, wantedMoreMemory: excess == 1))
        default: return nil
        }
    }
}
