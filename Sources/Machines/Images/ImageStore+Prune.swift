// What is removed of the images on this host: old generations, bases that no generation has, and
// what builds left that did not come to their end. Nothing that a worker or a build uses.

import Foundation

/// What a prune did, or would do.
package struct PruneReport: Sendable, Equatable {
    package var removed: [String] = []
    /// Would have gone, but a worker or a build uses it.
    package var inUse: [String] = []
}

extension ImageStore {
    /// Removes generations beyond the newest `keep` of each image, never the current one.
    ///
    /// Bases that no generation uses any more go too.
    package func prune(keeping keep: Int, dryRun: Bool) throws(MachineError) -> PruneReport {
        var report = PruneReport()
        var usedBases: Set<String> = []
        for name in children(of: imagesDirectory) {
            let images = "\(imagesDirectory)/\(name)"
            let current = HypervisorName.allCases.compactMap {
                link(of: currentLink(of: name, for: $0))
            }
            let generations = generations(of: name)
                .sorted { age("\(images)/\($0)") > age("\(images)/\($1)") }
            for (place, generation) in generations.enumerated() {
                let directory = "\(images)/\(generation)"
                if !current.contains(generation), place >= keep {
                    try remove(directory, dryRun, &report)
                }
                guard !report.removed.contains(directory) else { continue }
                if let base = link(of: "\(directory)/base") {
                    usedBases.insert((base as NSString).lastPathComponent)
                }
            }
        }
        for base in children(of: basesDirectory)
        where !base.hasPrefix(".") && !usedBases.contains(base) {
            let path = "\(basesDirectory)/\(base)"
            // A link that names a definition's newest base goes with that base.
            if let target = link(of: path) {
                if usedBases.contains(target)
                    || report.inUse.contains("\(basesDirectory)/\(target)")
                {
                    continue
                }
            }
            try remove(path, dryRun, &report)
        }
        try removeDrafts(dryRun, &report)
        return report
    }

    /// Removes what builds left that were killed; a build does so before it begins.
    func removeDrafts() throws(MachineError) {
        var report = PruneReport()
        try removeDrafts(false, &report)
    }
    private func removeDrafts(_ dryRun: Bool, _ report: inout PruneReport) throws(MachineError) {
        let places = children(of: imagesDirectory).map { "\(imagesDirectory)/\($0)" }
        for place in places + [basesDirectory] {
            for name in children(of: place) where name.hasPrefix(".") {
                try remove("\(place)/\(name)", dryRun, &report)
            }
        }
    }

    private func remove(
        _ path: String, _ dryRun: Bool, _ report: inout PruneReport
    ) throws(MachineError) {
        let isGone = try ImageLock.removing(path, dryRun: dryRun) {
            path throws(MachineError) in
            do { try FileManager.default.removeItem(atPath: path) } catch {
                throw MachineError(.hostUnfit, "cannot remove \(path): \(error)")
            }
        }
        if isGone { report.removed.append(path) } else { report.inUse.append(path) }
    }
    func link(of path: String) -> String? {
        try? FileManager.default.destinationOfSymbolicLink(atPath: path)
    }
}
