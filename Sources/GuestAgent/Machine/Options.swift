// What the image builder says on the kernel command line.

/// The `mayfly.…` words of /proc/cmdline.
struct Options {
    /// 32 bytes that name this build of the agent; zeros when not said.
    var agent = [UInt8](repeating: 0, count: 32)
    /// The AF_VSOCK port to listen on without an invitation: only the worker can reach it.
    var port: UInt32?
    /// Which interpreters WARM starts.
    var warmsPython = false
    var warmsNode = false
    /// What the warm Python imports besides the standard library.
    var pythonModules: [String] = []
    /// Programs start at the same addresses each time, unless a job wants a process of its own.
    ///
    /// Emulation translates a program's code anew at each address where it finds it: with random
    /// ones every start of every program is a first one, which takes three times as long.
    var fixesLayout = false
    /// systemd is PID 1, and the agent one of its children.
    var startsSystemd = false
    /// There is a disk for the job's directory beside the root disk.
    var hasScratch = false
    /// A shell line that WARM runs; empty: none.
    ///
    /// From the initramfs, which has room for it.
    var warmUp = ""

    init(commandLine: String) {
        for word in commandLine.split(whereSeparator: { $0 == " " || $0 == "\n" }) {
            guard word.hasPrefix("mayfly."), let equals = word.firstIndex(of: "=") else {
                continue
            }
            let value = word[word.index(after: equals)...]
            let items = value.split(separator: ",").map(String.init)
            switch word[..<equals] {
            case "mayfly.agent": if let bytes = Self.bytes(ofHex: value) { agent = bytes }
            case "mayfly.listen": port = UInt32(value)
            case "mayfly.warm":
                warmsPython = items.contains("python")
                warmsNode = items.contains("node")
            case "mayfly.modules": pythonModules = items
            case "mayfly.init": startsSystemd = value == "systemd"
            case "mayfly.scratch": hasScratch = value == "on"
            case "mayfly.layout": fixesLayout = value == "fixed"
            default: say("unknown option \(word)")
            }
        }
    }

    private static func bytes(ofHex text: Substring) -> [UInt8]? {
        let digits = Array(text.utf8)
        guard digits.count == 64 else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: 64, by: 2) {
            guard let high = Character(Unicode.Scalar(digits[index])).hexDigitValue,
                let low = Character(Unicode.Scalar(digits[index + 1])).hexDigitValue
            else { return nil }
            bytes.append(UInt8(high << 4 | low))
        }
        return bytes
    }
}
