// An image that a team has already, as an OCI layout or archive: skopeo reads it, umoci unpacks its
// layers. What its configuration says of a process (user, environment, entry point) goes along.
// Called by BaseBuilder.

import Events
import Foundation
import Glibc
import Processes
import StrictJSON

/// How an image wants its programs to be run.
struct ImageProcess: Equatable {
    /// Where the entry point can be called in the guest.
    static let entryPointPath = "/usr/local/bin/mayfly-entrypoint"

    /// 0 where the image names nobody: jobs are never root.
    var user: UInt32 = 0
    var group: UInt32 = 0
    /// `NAME=value`.
    var environment: [String] = []
    var entryPoint: [String] = []
    /// The entry point's arguments when there are no others.
    var command: [String] = []
    var directory = ""

    /// For the agent: `key=value` fields, each followed by a NUL.
    var fields: [UInt8] {
        var fields = environment.map { "env=\($0)" }
        if user != 0 { fields.append("user=\(user):\(group)") }
        return fields.flatMap { Array($0.utf8) + [0] }
    }

    /// A program that runs the entry point, with its own arguments or the image's; `nil`: there is
    /// none.
    var entryPointScript: String? {
        guard !entryPoint.isEmpty || !command.isEmpty else { return nil }
        func words(_ list: [String]) -> String {
            list.map { "'" + $0.replacing("'", with: "'\\''") + "'" }.joined(separator: " ")
        }
        var lines = ["#!/bin/sh", "# The image's entry point, made by `mayfly image build`."]
        if !directory.isEmpty { lines.append("cd \(words([directory])) || exit 126") }
        if !command.isEmpty { lines.append("[ $# -gt 0 ] || set -- \(words(command))") }
        lines.append("exec \(words(entryPoint)) \"$@\"")
        return lines.joined(separator: "\n") + "\n"
    }
}

@LoopActor
struct OCIImage {
    /// More than any image has.
    private static let configurationByteCountMax = 1 << 20

    /// A layout's directory or an archive, and `:TAG` where it holds more than one image.
    let place: String
    let key: String
    let progress: @Sendable (String) -> Void

    /// The image as skopeo names it.
    private func source() async throws(MachineError) -> String {
        let parts = place.split(separator: ":", maxSplits: 1).map(String.init)
        let path = parts.first ?? ""
        if FileManager.default.fileExists(atPath: "\(path)/oci-layout") { return "oci:\(place)" }
        guard FileManager.default.isReadableFile(atPath: path) else {
            throw MachineError(.buildFailed, "\(key): cannot read \(path)")
        }
        let listed = try await runTool(["tar", "-tf", path])
        guard listed.status == 0 else {
            throw MachineError(
                .buildFailed, "\(key): \(path) is neither an OCI layout nor an archive of one")
        }
        let isLayout = listed.output.split(separator: "\n").contains {
            $0 == "oci-layout" || $0 == "./oci-layout"
        }
        return (isLayout ? "oci-archive:" : "docker-archive:") + place
    }

    /// What names the image's content, whatever its tag.
    func digest() async throws(MachineError) -> String {
        let source = try await source()
        let said = try await skopeo(["inspect", "--format", "{{.Digest}}", source])
        guard let digest = said.split(whereSeparator: \.isNewline).last.map(String.init),
            digest.hasPrefix("sha256:")
        else { throw MachineError(.buildFailed, "\(key): skopeo says of \(place): \(said)") }
        return digest
    }

    /// The root file system into `root`, which must not exist; answers how programs are to be run.
    func unpack(into root: String, work: String) async throws(MachineError) -> ImageProcess {
        let source = try await source()
        progress("unpacking \(place)")
        let (layout, bundle) = ("\(work)/layout", "\(work)/bundle")
        _ = try await skopeo(["copy", "--quiet", source, "oci:\(layout):image"])
        let unpacked = try await runTool(["umoci", "unpack", "--image", "\(layout):image", bundle])
        guard unpacked.status == 0 else {
            throw MachineError(
                .buildFailed,
                "\(key): umoci cannot unpack \(place): "
                    + BaseBuilder.reasons(in: unpacked.output, marked: []))
        }
        guard unsafe rename("\(bundle)/rootfs", root) == 0 else {
            throw MachineError(SystemError("rename to", root))
        }
        let process = try process(layout: layout, bundle: bundle)
        for path in [layout, bundle] { try? FileManager.default.removeItem(atPath: path) }
        return process
    }

    /// Out of the image's configuration, and of what umoci makes of it: names are numbers there.
    private func process(layout: String, bundle: String) throws(MachineError) -> ImageProcess {
        func document(_ path: String) throws -> JSON {
            guard let data = FileManager.default.contents(atPath: path),
                data.count <= Self.configurationByteCountMax
            else { throw NotReadable(path: path) }
            return try JSON(parsing: [UInt8](data))
        }
        func blob(_ descriptor: JSON?) throws -> JSON {
            let digest = descriptor?["digest"]?.string ?? ""
            guard digest.hasPrefix("sha256:"), bytes(ofHex: String(digest.dropFirst(7))) != nil
            else { throw NotReadable(path: digest) }
            return try document("\(layout)/blobs/sha256/\(digest.dropFirst(7))")
        }
        do {
            guard case .array(let images)? = try document("\(layout)/index.json")["manifests"]
            else {
                throw NotReadable(path: "index.json")
            }
            let configuration = try blob(try blob(images.first)["config"])["config"]
            let user = try document("\(bundle)/config.json")["process"]?["user"]
            func list(_ name: String) -> [String] {
                guard case .array(let values)? = configuration?[name] else { return [] }
                return values.compactMap(\.string).filter { !$0.utf8.contains(0) }
            }
            func number(_ name: String) -> UInt32 {
                guard case .number(let text)? = user?[name] else { return 0 }
                return UInt32(text) ?? 0
            }
            return ImageProcess(
                user: number("uid"), group: number("gid"), environment: list("Env"),
                entryPoint: list("Entrypoint"), command: list("Cmd"),
                directory: configuration?["WorkingDir"]?.string ?? "")
        } catch {
            throw MachineError(
                .buildFailed, "\(key): the configuration of \(place) cannot be read: \(error)")
        }
    }
    private struct NotReadable: Error { var path: String }

    private func skopeo(_ arguments: [String]) async throws(MachineError) -> String {
        let result = try await runTool(["skopeo", "--insecure-policy"] + arguments)
        guard result.status == 0 else {
            throw MachineError(
                .buildFailed,
                "\(key): skopeo cannot read \(place): "
                    + BaseBuilder.reasons(in: result.output, marked: []))
        }
        return result.output
    }
}
