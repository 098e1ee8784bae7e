// The entry that libFuzzer calls with each input: scripts/fuzz builds it with its own `main`. The
// environment variable MAYFLY_FUZZ_TARGET says which target.

import Glibc

private let target: FuzzTarget = {
    let name = unsafe getenv("MAYFLY_FUZZ_TARGET").map { unsafe String(cString: $0) } ?? ""
    guard let target = FuzzTarget(rawValue: name) else {
        complain("MAYFLY_FUZZ_TARGET is none of \(FuzzTarget.allCases.map(\.rawValue))")
        exit(2)
    }
    return target
}()

/// Not by `print`, whose buffer would be lost with the process.
private func complain(_ sentence: String) {
    let line = Array("\(sentence)\n".utf8)
    _ = unsafe write(STDERR_FILENO, line, line.count)
}

@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = unsafe [UInt8](UnsafeBufferPointer(start: start, count: count))
    do throws(BrokenPromise) { try target.run(bytes) } catch {
        complain("BROKEN: \(error)")
        abort()
    }
    return 0
}
