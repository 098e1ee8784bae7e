// One generation in detail, as `mayfly image show` tells it: what it is made of, what every machine
// of it has, and what it costs.

import Foundation

/// A generation's contents and costs.
package struct ImageDetails: Sendable {
    /// A package in the root disk.
    package struct Package: Sendable, Equatable {
        package enum Source: String, Sendable {
            case debian, pypi, npm
        }
        package var name: String
        package var version: String
        package var source: Source
    }
    package var definition: ImageDefinition
    package var generation: String
    /// ISO 8601.
    package var createdAt: String
    package var hypervisor: HypervisorName
    package var hypervisorVersion: String
    package var accelerator: Accelerator
    package var guestKernel: String
    /// From the hypervisor's start until everything was warm, when it was built.
    package var boot: Duration
    /// On disk; the root disk is shared by every generation of the same base.
    package var rootDisk: ByteCount
    package var snapshot: ByteCount
    package var packages: [Package]
}

extension ImageStore {
    /// - Throws: `imageMissing` when there is no such generation, `imageRefused` when its signature
    ///   is none of a trusted key's; digests are checked by `verify` only.
    package func details(
        of name: String, for hypervisor: HypervisorName, generation: String? = nil
    ) throws(MachineError) -> ImageDetails {
        let directory = try directory(of: name, for: hypervisor, generation: generation)
        let manifest = try GoldenImage.readManifest(in: directory, trust: try trustedKeys())
        let base = "\(directory)/base"
        return ImageDetails(
            definition: manifest.definition, generation: manifest.generation,
            createdAt: manifest.createdAt, hypervisor: manifest.hypervisor,
            hypervisorVersion: manifest.hypervisorVersion,
            accelerator: manifest.hardware.accelerator, guestKernel: manifest.guestKernel,
            boot: .milliseconds(manifest.buildBootMilliseconds),
            rootDisk: ByteCount(bytes: occupied(base)),
            snapshot: ByteCount(bytes: occupied(directory)),
            packages: ImageDetails.Package.list(kernelText("\(base)/packages") ?? ""))
    }
}

extension ImageDetails.Package {
    /// The lines of a base's list: `name version` for Debian's, `python:name version` for PyPI's,
    /// `npm:name version` for what Node brought.
    static func list(_ text: String) -> [ImageDetails.Package] {
        text.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ", maxSplits: 1).map(String.init)
            guard words.count == 2 else { return nil }
            for (mark, source) in [("python:", Source.pypi), ("npm:", .npm)]
            where words[0].hasPrefix(mark) {
                let name = String(words[0].dropFirst(mark.count))
                return .init(name: name, version: words[1], source: source)
            }
            return .init(name: words[0], version: words[1], source: .debian)
        }
    }
}
