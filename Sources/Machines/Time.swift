// Durations as numbers and as text, and the host's clock.

import Glibc

extension Duration {
    /// The nearest that an `Int64` can hold.
    var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let (whole, overflowed) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        let (sum, overflowedToo) = whole.addingReportingOverflow(attoseconds / 1_000_000_000)
        if overflowed || overflowedToo { return seconds < 0 ? .min : .max }
        return sum
    }
    package var milliseconds: Double {
        Double(components.seconds) * 1e3 + Double(components.attoseconds) / 1e15
    }
    /// For progress lines and sentences.
    var shown: String { "\((milliseconds / 100).rounded() / 10) s" }
}

/// Nanoseconds since 1970, by the host's clock.
func realtimeNow() -> Int64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}
