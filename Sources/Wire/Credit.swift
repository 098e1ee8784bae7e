// Flow control: the sender spends what the receiver granted, per stream and per connection. Two
// pure values, one for each end of one direction; connections own them.

/// The sender's end: how much may still be sent.
package struct SendWindow: Equatable, Sendable {
    private let initial: Int
    package private(set) var available: Int
    package init(_ initial: Int) {
        self.initial = initial
        available = initial
    }

    package mutating func spend(_ count: Int, stream: UInt32) throws(WireError) {
        guard count >= 0, count <= available else { throw .creditExceeded(stream: stream) }
        available -= count
    }
    /// What the receiver gives back: a quarter of the window at least, and never more than it got.
    ///
    /// So a window never grows, and grants are as rare as the data that they answer.
    package mutating func grant(_ count: UInt32, stream: UInt32) throws(WireError) {
        guard Int(count) >= initial / 4, Int(count) <= initial - available else {
            throw .badCredit(stream: stream)
        }
        available += Int(count)
    }
}

/// The receiver's end: how much may still arrive, and how much has been used up since the last
/// grant.
package struct ReceiveWindow: Equatable, Sendable {
    private let initial: Int
    package private(set) var allowed: Int
    package private(set) var released = 0

    package init(_ initial: Int) {
        self.initial = initial
        allowed = initial
    }
    /// Data arrived.
    package mutating func receive(_ count: Int, stream: UInt32) throws(WireError) {
        guard count <= allowed else { throw .creditExceeded(stream: stream) }
        allowed -= count
    }
    /// Data was used up.
    ///
    /// Answers what to grant now: nothing until a quarter of the window has gathered, so that
    /// CREDIT frames stay rare.
    package mutating func release(_ count: Int) -> UInt32? {
        released += count
        guard released >= initial / 4, let grant = UInt32(exactly: released) else { return nil }
        allowed += released
        released = 0
        return grant
    }
}
