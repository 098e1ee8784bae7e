// The initramfs of a guest: the agent as /init and the kernel modules that it loads, as an
// uncompressed cpio archive (the kernel unpacks it faster than it could inflate it).

import Foundation

/// A cpio archive in the "newc" format, built in memory.
///
/// Source: linux/Documentation/driver-api/early-userspace/buffer-format.rst.
struct CpioArchive {
    private(set) var bytes: [UInt8] = []
    private var inode = 0

    mutating func addDirectory(_ name: String) { add(name, mode: 0o040755, []) }
    mutating func addFile(_ name: String, _ contents: [UInt8], mode: Int = 0o100644) {
        add(name, mode: mode, contents)
    }
    /// A character device node, such as /dev/console for the kernel's first messages.
    mutating func addDevice(_ name: String, major: Int, minor: Int) {
        add(name, mode: 0o020600, [], device: (major, minor))
    }
    mutating func finish() -> [UInt8] {
        add("TRAILER!!!", mode: 0, [])
        return bytes
    }

    private mutating func add(
        _ name: String, mode: Int, _ contents: [UInt8], device: (Int, Int) = (0, 0)
    ) {
        inode += 1
        let fields = [
            inode, mode, 0, 0, 1, 0, contents.count, 0, 0, device.0, device.1,
            name.utf8.count + 1, 0,
        ]
        var header = "070701"
        for field in fields {
            let digits = String(field, radix: 16)
            header += String(repeating: "0", count: 8 - digits.count) + digits
        }
        bytes += Array(header.utf8) + Array(name.utf8) + [0]
        pad()
        bytes += contents
        pad()
    }
    private mutating func pad() {
        while bytes.count % 4 != 0 { bytes.append(0) }
    }
}

/// The modules a guest needs, with what they depend on, in loading order.
struct KernelModules {
    /// What the agent cannot start without; built-in ones are skipped.
    static let needed = [
        "virtio_mmio", "virtio_console", "virtio_blk", "overlay", "vmw_vsock_virtio_transport",
    ]

    /// Paths of .ko files under `directory` (…/lib/modules/<release>), dependencies first.
    static func ordered(in directory: String) throws(MachineError) -> [String] {
        guard let text = try? String(contentsOfFile: directory + "/modules.dep", encoding: .utf8)
        else {
            throw MachineError(.buildFailed, "no modules.dep in \(directory)")
        }
        var dependencies: [String: [String]] = [:]
        var paths: [String: String] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2 else { continue }
            let path = String(parts[0])
            dependencies[path] = parts[1].split(separator: " ").map(String.init)
            paths[moduleName(path)] = path
        }
        var order: [String] = []
        func visit(_ path: String) {
            guard !order.contains(path) else { return }
            for dependency in dependencies[path] ?? [] { visit(dependency) }
            order.append(path)
        }
        for name in needed {
            if let path = paths[name] { visit(path) }
        }
        return order
    }
    static func moduleName(_ path: String) -> String {
        let file = path.split(separator: "/").last.map(String.init) ?? path
        return file.prefix { $0 != "." }.replacingOccurrences(of: "-", with: "_")
    }
}
