// Random numbers that can be had again: the seed is printed, and MAYFLY_TEST_SEED sets it.

import Glibc

/// SplitMix64.
package struct SeededGenerator: RandomNumberGenerator {
    package let seed: UInt64
    private var state: UInt64

    /// Prints its seed, so that a failing run can be repeated.
    package init(for test: String) {
        let wanted = unsafe getenv("MAYFLY_TEST_SEED").flatMap {
            unsafe UInt64(String(cString: $0))
        }
        self.init(seed: wanted ?? UInt64.random(in: 0 ... .max))
        print("\(test): MAYFLY_TEST_SEED=\(seed)")
    }
    package init(seed: UInt64) {
        self.seed = seed
        state = seed
    }
    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
