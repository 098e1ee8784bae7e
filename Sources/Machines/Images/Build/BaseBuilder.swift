// The part of an image that is the same for every generation on top of it: root file system, kernel
// and modules. Built once per definition, by mmdebstrap or out of an OCI image.

import Events
import Foundation
import Glibc
import Processes

/// A built base directory: root.ext4, kernel, modules/ (with `order`), packages.
struct ImageBase {
    let directory: String
    private let lock: ImageLock

    /// - Parameter directory: that of the base itself, not of a link to it.
    init(directory: String) throws(MachineError) {
        self.directory = directory
        lock = try ImageLock(directory)
    }
    var id: String { (directory as NSString).lastPathComponent }
    var packages: String { text("packages") }
    var kernelRelease: String { text("kernel.release").trimmed }
    /// The Debian release of the kernel; bases of earlier versions do not say it.
    var suite: String { text("suite").trimmed }
    /// `ImageProcess.fields`; empty unless the image says how programs are to be run.
    var process: [UInt8] {
        [UInt8](FileManager.default.contents(atPath: "\(directory)/process") ?? Data())
    }

    private func text(_ name: String) -> String {
        (try? String(contentsOfFile: "\(directory)/\(name)", encoding: .utf8)) ?? ""
    }
}

@LoopActor
struct BaseBuilder {
    let store: ImageStore
    let definition: ImageDefinition
    let progress: @Sendable (String) -> Void

    /// What every image needs beside its own packages.
    private static let commonPackages = ["linux-image-cloud-amd64", "ca-certificates"]

    /// The base of this definition: the one on disk, or a new one when there is none or `fresh`.
    func base(fresh: Bool) async throws(MachineError) -> ImageBase {
        let added = try hostFiles()
        let id = id(added, try await ociImage?.digest())
        let newest = "\(store.basesDirectory)/\(id).newest"
        let there = "\(store.basesDirectory)/\(store.link(of: newest) ?? id)"
        if !fresh, FileManager.default.fileExists(atPath: "\(there)/packages") {
            progress("base \(id) is there already")
            return try ImageBase(directory: there)
        }
        guard geteuid() == 0 else {
            throw MachineError(
                .buildFailed, "building an image creates files of other owners; run it with sudo")
        }
        let work = "\(store.basesDirectory)/.\(id)-\(getpid())"
        try? FileManager.default.removeItem(atPath: work)
        let lock = try ImageLock.making(work)
        defer {
            withExtendedLifetime(lock) {}
            try? FileManager.default.removeItem(atPath: work)
        }
        if let ociImage {
            try await build(ociImage, added, work, fresh: fresh)
        } else {
            try await build(added, work)
        }
        return try publish("\(work)/out", as: newest, id)
    }

    /// Out of Debian's packages and PyPI's.
    private func build(_ added: [AddedFile], _ work: String) async throws(MachineError) {
        let root = RootDirectory(path: "\(work)/root")
        try await step("packages") { () throws(MachineError) in
            try await bootstrap(into: root.path)
        }
        try root.customize(ImageProcess())
        try root.removeTraces()
        if !definition.pythonPackages.isEmpty {
            try await step("packages from PyPI") { () throws(MachineError) in
                try await PythonPackages(
                    root: root.path, definition: definition, progress: progress
                ).install()
            }
        }
        for file in added { try root.write(file) }
        try makeDirectory("\(work)/out/modules")
        try await takeKernel(of: root.path, to: "\(work)/out")
        try await step("the root disk") { () throws(MachineError) in try await finish(work) }
    }

    /// Out of an image that somebody else has made, with Debian's kernel.
    private func build(
        _ image: OCIImage, _ added: [AddedFile], _ work: String, fresh: Bool
    ) async throws(MachineError) {
        let kernel = try await kernelBase(fresh: fresh)
        let (root, out) = (RootDirectory(path: "\(work)/root"), "\(work)/out")
        var process = ImageProcess()
        try await step("layers") { () throws(MachineError) in
            process = try await image.unpack(into: root.path, work: work)
        }
        try root.customize(process)
        for file in added { try root.write(file) }
        try makeDirectory(out)
        for name in ["kernel", "kernel.release", "modules"] {
            do {
                try FileManager.default.copyItem(
                    atPath: "\(kernel.directory)/\(name)", toPath: "\(out)/\(name)")
            } catch { throw MachineError(.buildFailed, "the kernel cannot be copied: \(error)") }
        }
        try writeFile("\(out)/process", process.fields, mode: 0o644)
        try await step("the root disk") { () throws(MachineError) in try await finish(work) }
    }

    /// A base of the same Debian release that is here already, with the newest kernel; else one
    /// that has nothing but a kernel.
    private func kernelBase(fresh: Bool) async throws(MachineError) -> ImageBase {
        var newest: ImageBase?
        for name in children(of: store.basesDirectory) where !fresh && !name.hasPrefix(".") {
            let directory = "\(store.basesDirectory)/\(name)"
            guard store.link(of: directory) == nil,
                let base = try? ImageBase(directory: directory), base.suite == definition.suite,
                FileManager.default.fileExists(atPath: "\(directory)/packages")
            else { continue }
            let order = newest?.kernelRelease.compare(base.kernelRelease, options: .numeric)
            if order == nil || order == .orderedAscending { newest = base }
        }
        if let newest { return newest }
        return try await BaseBuilder(
            store: store,
            definition: ImageDefinition(
                name: definition.name, suite: definition.suite, packages: []),
            progress: progress
        ).base(fresh: fresh)
    }

    private var ociImage: OCIImage? {
        guard !definition.oci.isEmpty else { return nil }
        return OCIImage(
            place: definition.oci, key: "image.\(definition.name).oci", progress: progress)
    }

    /// Under a name made of its content, so that no base that is in use is ever replaced.
    private func publish(
        _ built: String, as newest: String, _ id: String
    ) throws(MachineError) -> ImageBase {
        let hash = SHA256()
        for name in ["root.ext4", "kernel", "packages"] {
            hash.update(try SHA256.hex(ofFile: "\(built)/\(name)"))
        }
        let name = "\(id)-\(hexText(hash.finish()).prefix(16))"
        let directory = "\(store.basesDirectory)/\(name)"
        if !FileManager.default.fileExists(atPath: directory) {
            guard unsafe rename(built, directory) == 0 else {
                throw MachineError(SystemError("rename to", directory))
            }
        }
        let base = try ImageBase(directory: directory)
        try replaceLink(newest, with: name)
        return base
    }

    /// What the base depends on; two definitions that differ only in memory share one.
    private func id(_ added: [AddedFile], _ imageDigest: String?) -> String {
        var parts = [definition.suite] + (Self.commonPackages + definition.packages).sorted()
        if let imageDigest { parts.append("oci:\(imageDigest)") }
        parts += definition.pythonPackages.map { "pip:\($0)" }
        parts += added.map { "file:\($0.path):\($0.mode):\(SHA256.hex(of: $0.bytes))" }.sorted()
        return String(
            SHA256.hex(of: Array((["base-1"] + parts).joined(separator: "\n").utf8)).prefix(16))
    }

    private func hostFiles() throws(MachineError) -> [AddedFile] {
        var files: [AddedFile] = []
        for text in definition.files {
            guard let file = ImageDefinition.HostFile(text),
                let data = FileManager.default.contents(atPath: file.source)
            else {
                throw MachineError(
                    .buildFailed, "image.\(definition.name).files: cannot read \(text)")
            }
            var added = AddedFile(path: file.target, bytes: [UInt8](data))
            if FileManager.default.isExecutableFile(atPath: file.source) { added.mode = 0o755 }
            files.append(added)
        }
        return files
    }

    /// What a tool's output gives as its reasons, or its last lines when it gives none.
    nonisolated static func reasons(in output: String, marked marks: [String]) -> String {
        let lines = output.split(whereSeparator: \.isNewline).map(String.init)
        var reasons: [String] = []
        for line in lines where marks.contains(where: line.hasPrefix) && !reasons.contains(line) {
            reasons.append(line)
        }
        return (reasons.isEmpty ? lines.suffix(5) : reasons.prefix(8))
            .map { String($0.prefix(300)) }.joined(separator: " | ")
    }

    /// Says what a step cost.
    private func step(
        _ name: String, _ body: () async throws(MachineError) -> Void
    ) async throws(MachineError) {
        let begin = ContinuousClock.now
        try await body()
        progress("\(name): \((ContinuousClock.now - begin).shown)")
    }

    /// A namespace of its own for the installation: when it is killed, nothing of it goes on
    /// running, and nothing that it has mounted is left on the host; none where that is forbidden.
    static var isolation: [String] {
        get async throws(MachineError) {
            let words = [
                "unshare", "--mount", "--propagation", "private", "--pid", "--fork",
                "--kill-child", "--mount-proc",
            ]
            return try await runTool(words + ["true"]).status == 0 ? words : []
        }
    }

    private func bootstrap(into root: String) async throws(MachineError) {
        var names = Self.commonPackages + definition.packages
        if !definition.pythonPackages.isEmpty { names += PythonPackages.debianPackages }
        let packages = names.joined(separator: ",")
        progress("installing Debian \(definition.suite) with \(definition.packages.count) packages")
        var arguments = [
            "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory",
            "--include=\(packages)",
            "--aptopt=APT::Install-Recommends \"false\"",
            "--aptopt=Acquire::Languages \"none\"",
        ]
        for path in ["man", "doc", "locale", "info", "lintian"] {
            arguments.append("--dpkgopt=path-exclude=/usr/share/\(path)/*")
        }
        arguments += [
            "--dpkgopt=path-include=/usr/share/doc/*/copyright", definition.suite, root,
        ]
        let result = try await runTool(try await Self.isolation + arguments) { [progress] line in
            if line.hasPrefix("I:") { progress("mmdebstrap: \(line.dropFirst(3))") }
        }
        guard result.status == 0 else {
            throw MachineError(
                .buildFailed,
                "image.\(definition.name).packages: mmdebstrap failed: "
                    + Self.reasons(in: result.output, marked: ["E: "]))
        }
    }

    /// The kernel and the modules that the agent loads, out of a root file system.
    private func takeKernel(of root: String, to out: String) async throws(MachineError) {
        guard let release = children(of: "\(root)/lib/modules").last else {
            throw MachineError(.buildFailed, "the root file system has no kernel modules")
        }
        let modules = "\(root)/lib/modules/\(release)"
        let order = try KernelModules.ordered(in: modules)
        do {
            try FileManager.default.copyItem(
                atPath: "\(root)/boot/vmlinuz-\(release)", toPath: "\(out)/kernel")
            try FileManager.default.removeItem(atPath: "\(root)/boot/initrd.img-\(release)")
        } catch {
            throw MachineError(.buildFailed, "the kernel cannot be copied: \(error)")
        }
        for path in order {
            let target = "\(out)/modules/\(KernelModules.moduleName(path)).ko"
            guard let data = FileManager.default.contents(atPath: "\(modules)/\(path)") else {
                throw MachineError(.buildFailed, "cannot read the module \(path)")
            }
            // Debian packs them since trixie; the agent hands them to the kernel as they are.
            if let unpacker = PackedFile.unpacker(of: data) {
                try await PackedFile.unpack(data, by: unpacker, to: target)
            } else {
                try writeFile(target, [UInt8](data), mode: 0o644)
            }
        }
        let names = order.map { KernelModules.moduleName($0) + ".ko" }.joined(separator: "\n")
        try writeFile("\(out)/modules/order", Array((names + "\n").utf8), mode: 0o644)
        try writeFile("\(out)/kernel.release", Array(release.utf8), mode: 0o644)
    }

    private func finish(_ work: String) async throws(MachineError) {
        let (root, out) = ("\(work)/root", "\(work)/out")
        var packages = ""
        // What is no Debian has no such list.
        if FileManager.default.fileExists(atPath: "\(root)/var/lib/dpkg/status") {
            packages = try await runTool([
                "dpkg-query", "--admindir=\(root)/var/lib/dpkg", "-W", "-f",
                "${Package} ${Version}\\n",
            ]).output
        }
        packages += PythonPackages(root: root, definition: definition, progress: progress)
            .installed()
        packages += NodePackages(root: root).installed()
        try await makeDisk(root: root, disk: "\(out)/root.ext4")
        try writeFile("\(out)/suite", Array(definition.suite.utf8), mode: 0o644)
        // Written last: its presence says that the base is complete.
        try writeFile("\(out)/packages", Array(packages.utf8), mode: 0o644)
    }

    private func makeDisk(root: String, disk: String) async throws(MachineError) {
        progress("writing the root disk")
        let size = try await runTool(["du", "-s", "--block-size=1M", root])
        let used = Int(size.output.prefix { $0.isNumber }) ?? 1024
        let made = try await runTool([
            "mke2fs", "-q", "-t", "ext4", "-d", root, "-O", "^has_journal,^metadata_csum",
            "-E", "root_owner=0:0", "-m", "0", "-F", disk, "\(used + used / 4 + 64)M",
        ])
        guard made.status == 0 else {
            throw MachineError(.buildFailed, "mke2fs failed: \(made.output.trimmed)")
        }
        unsafe chmod(disk, 0o444)
    }
}
