// Thin words over system calls: errors as sentences, small files, clocks, the console. Everything
// that the rest of the agent needs from Glibc without caring how.

import CGuest
import Glibc

/// A system call that failed: what was tried, and why it did not work.
struct SystemError: Error {
    let what: String
    let code: CInt
    var description: String { "\(what): \(Self.text(code))" }
    static func text(_ code: CInt) -> String { unsafe String(cString: strerror(code)) }
}

/// Throws when `result` is a negative errno, as the functions of CLinux answer.
@discardableResult
func check(_ what: @autoclosure () -> String, _ result: CInt) throws(SystemError) -> CInt {
    guard result >= 0 else { throw SystemError(what: what(), code: -result) }
    return result
}
/// Throws when `result` is -1 and errno says why, as the functions of libc answer.
@discardableResult
func checkErrno(_ what: @autoclosure () -> String, _ result: CInt) throws(SystemError) -> CInt {
    guard result >= 0 else { throw SystemError(what: what(), code: errno) }
    return result
}

/// A line on the console, for whoever reads the machine's log.
func say(_ text: String) {
    var line = Array("mayfly-agent: \(text)\n".utf8)
    _ = unsafe write(2, &line, line.count)
}
/// Something without which the machine is of no use.
func powerOff(_ reason: String) -> Never {
    say(reason)
    mayfly_guest_power_off()
    while true { pause() }
}

func openFile(_ path: String, _ flags: CInt, mode: mode_t = 0o644) throws(SystemError) -> CInt {
    try checkErrno("open \(path)", unsafe open(path, flags | O_CLOEXEC, mode))
}
/// Writes a small file whole: a setting of the kernel, or a text of /etc.
func writeFile(_ path: String, _ text: String) throws(SystemError) {
    let file = try openFile(path, O_WRONLY | O_CREAT | O_TRUNC)
    defer { close(file) }
    try writeWhole(file, Array(text.utf8), path)
}
func writeWhole(_ file: CInt, _ bytes: [UInt8], _ what: String) throws(SystemError) {
    let count = unsafe write(file, bytes, bytes.count)
    guard count == bytes.count else {
        throw SystemError(what: "write \(what)", code: count < 0 ? errno : EIO)
    }
}
/// At most 4 KiB of a file, as text; empty when it cannot be read.
func readFile(_ path: String, in directory: CInt = AT_FDCWD) -> String {
    let file = unsafe openat(directory, path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return "" }
    defer { close(file) }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = unsafe read(file, &bytes, bytes.count)
    return count > 0 ? String(decoding: bytes[..<count], as: UTF8.self) : ""
}
/// All of a file; nothing when it cannot be read.
func readWhole(_ path: String) -> [UInt8] {
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return [] }
    defer { close(file) }
    var (bytes, part): ([UInt8], [UInt8]) = ([], [UInt8](repeating: 0, count: 64 << 10))
    while true {
        let count = unsafe read(file, &part, part.count)
        guard count > 0 else { return bytes }
        bytes += part[..<count]
    }
}
/// The number after `name ` at the start of a line, as in cgroup files; 0 when it is not there.
func number(named name: String, in text: String) -> UInt64 {
    for line in text.utf8.split(separator: UInt8(ascii: "\n")) {
        let parts = line.split(separator: UInt8(ascii: " "))
        if parts.count == 2, parts[0].elementsEqual(name.utf8) {
            return decimal(parts[1])
        }
    }
    return 0
}

/// The digits at the start of `text` as a number.
func decimal(_ text: some Collection<UInt8>) -> UInt64 {
    var value: UInt64 = 0
    for byte in text {
        guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { break }
        value = value &* 10 &+ UInt64(byte - UInt8(ascii: "0"))
    }
    return value
}

/// Microseconds of the clock that never jumps.
func monotonicMicroseconds() -> Int64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1000
}
/// Nanoseconds since 1970.
func realtimeNanoseconds() -> Int64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}
func randomBytes(_ count: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    // 256 bytes and less are never cut short.
    _ = unsafe getentropy(&bytes, min(count, 256))
    return bytes
}
func setNonBlocking(_ file: CInt) {
    _ = fcntl(file, F_SETFL, fcntl(file, F_GETFL) | O_NONBLOCK)
}

/// A NULL-terminated array of C strings for the length of `body`.
func withCStrings<Value>(
    _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Value
) -> Value {
    var pointers = unsafe strings.map { unsafe strdup($0) }
    unsafe pointers.append(nil)
    defer { unsafe pointers.forEach { unsafe free($0) } }
    // SAFETY: the copies live until the `defer` above.
    return unsafe pointers.withUnsafeMutableBufferPointer { (buffer) -> Value in
        guard let base = buffer.baseAddress else { powerOff("no memory for a program") }
        return unsafe body(base)
    }
}
