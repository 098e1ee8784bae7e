// Packages from PyPI in a root file system: installed by its own Python, with the pip that Debian
// has as one wheel, over the host's network. Called by BaseBuilder.

import Events
import Foundation
import Processes

@LoopActor
struct PythonPackages {
    let root: String
    let definition: ImageDefinition
    let progress: @Sendable (String) -> Void

    /// What must be in the root for that.
    static let debianPackages = ["python3", "python3-pip-whl", "ca-certificates"]

    /// Files of the host's that pip needs in the root while it runs: how names are looked up, whom
    /// to trust, and which index to ask.
    private static let borrowed: [(from: [String], to: String)] = [
        (["/etc/resolv.conf"], "/etc/resolv.conf"),
        (["/etc/ssl/certs/ca-certificates.crt"], "/tmp/ca.crt"),
        (["/root/.config/pip/pip.conf", "/root/.pip/pip.conf", "/etc/pip.conf"], "/tmp/pip.conf"),
    ]

    func install() async throws(MachineError) {
        progress("installing \(definition.pythonPackages.count) packages from PyPI")
        guard let pip = wheel else {
            throw MachineError(.buildFailed, "python3-pip-whl has left no wheel of pip")
        }
        for file in Self.borrowed {
            let source = file.from.first { FileManager.default.isReadableFile(atPath: $0) }
            guard let source, let data = FileManager.default.contents(atPath: source) else {
                continue
            }
            try writeFile(root + file.to, [UInt8](data), mode: 0o644)
        }
        defer {
            for file in Self.borrowed {
                try? FileManager.default.removeItem(atPath: root + file.to)
            }
            // As every image has it: names are the host's business.
            try? writeFile(root + "/etc/resolv.conf", [], mode: 0o644)
        }
        var request = ProgramRequest(
            try await BaseBuilder.isolation + [
                "chroot", root, "/usr/bin/python3", "\(pip)/pip", "install", "--only-binary",
                ":all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check",
                "--break-system-packages", "--root-user-action=ignore",
            ] + definition.pythonPackages)
        request.environment = ["PIP_CONFIG_FILE": "/tmp/pip.conf", "HOME": "/root"]
        // Whichever of these the host sets names a file of the host's.
        for name in ["PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
            request.environment[name] = "/tmp/ca.crt"
        }
        let result = try await runTool(request) { [progress] line in
            if line.hasPrefix("Collecting") || line.hasPrefix("Successfully") {
                progress("pip: \(line.prefix(200))")
            }
        }
        guard result.status == 0 else {
            throw MachineError(
                .buildFailed,
                "image.\(definition.name).pip: pip failed: "
                    + BaseBuilder.reasons(in: result.output, marked: ["ERROR: "]))
        }
    }

    /// A wheel is a zip that Python runs as it is.
    private var wheel: String? {
        children(of: root + "/usr/share/python-wheels")
            .first { $0.hasPrefix("pip-") && $0.hasSuffix(".whl") }
            .map { "/usr/share/python-wheels/\($0)" }
    }

    /// `python:name version`, a line each, of everything that is no Debian package.
    func installed() -> String {
        var lines: [String] = []
        let library = root + "/usr/local/lib"
        for version in children(of: library) where version.hasPrefix("python3") {
            for name in children(of: "\(library)/\(version)/dist-packages")
            where name.hasSuffix(".dist-info") {
                let parts = name.dropLast(".dist-info".count).split(separator: "-", maxSplits: 1)
                lines.append("python:" + parts.joined(separator: " "))
            }
        }
        return lines.sorted().map { $0 + "\n" }.joined()
    }
}
