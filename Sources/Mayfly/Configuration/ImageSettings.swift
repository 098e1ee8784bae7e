// The settings of an image, `image.NAME.…`: the same for each that Mayfly ships and for each that
// an operator adds. A name exists as soon as worker.conf or a flag sets one of its keys.

import BrowseTools
import DocumentTools
import Machines

extension Setting {
    /// What can be set of an image; the raw value is the end of its key.
    enum ImageKey: String, CaseIterable {
        case packages, pip, files, memory, scratch, vcpus, interpreters
        case pythonModules = "python.modules"
        case warmup, canary, suite, oci
        case initProcess = "init"
    }

    /// The setting of an image, with the shipped definition's value as its default.
    static func image(_ name: String, _ key: ImageKey) -> Setting {
        let shipped = ImageDefinition.shipped.first { $0.name == name }
        let standard = shipped ?? ImageDefinition(name: name, packages: [])
        let (form, text) = form(of: key, standard)
        return Setting("image.\(name).\(key.rawValue)", form, text, reason(for: key))
    }

    /// What may be written there, and the default as it is written.
    private static func form(
        of key: ImageKey, _ standard: ImageDefinition
    ) -> (Form, String) {
        func list(_ words: [String]) -> (Form, String) {
            (.list, "\"" + words.joined(separator: " ") + "\"")
        }
        func text(_ text: String) -> (Form, String) { (.text, "\"\(text)\"") }
        return switch key {
        case .packages: list(standard.packages)
        case .pip: list(standard.pythonPackages)
        case .files: list(standard.files)
        case .memory: (.size(.mebibytes(128) ... .gibibytes(64)), "\(standard.memory)")
        case .scratch:
            (.size(ByteCount(bytes: 0) ... .gibibytes(1024)), "\(standard.scratch)")
        case .vcpus: (.count(1...32), "\(standard.vCPUCount)")
        case .interpreters: list(standard.interpreters)
        case .pythonModules: list(standard.pythonModules)
        case .warmup: text(standard.warmUp)
        case .canary: text(standard.canary)
        case .oci: text(standard.oci)
        case .initProcess:
            (
                .word(ImageDefinition.InitProcess.allCases.map(\.rawValue)),
                standard.initProcess.rawValue
            )
        case .suite: text(standard.suite)
        }
    }

    private static func reason(for key: ImageKey) -> String {
        switch key {
        case .packages: "Debian packages in the image"
        case .pip: "packages from PyPI, each as name==version"
        case .files: "files to put in, each as /on/the/host:/in/the/guest"
        case .memory: "memory of each machine, disk included"
        case .scratch:
            "a disk of each machine's own for the job's files; 0B: they are in its memory"
        case .vcpus: "virtual processors of each machine"
        case .interpreters: "interpreters already running in the snapshot"
        case .pythonModules: "imported before the snapshot, so that no job waits for them"
        case .warmup: "a shell line run once before the snapshot; what it starts keeps running"
        case .canary:
            "a shell line that prints, in each of some clones, what must be different in all"
        case .oci: "an OCI layout or archive, /path or /path:TAG, instead of packages"
        case .initProcess: "PID 1 of the guest; with systemd its services are up in the snapshot"
        case .suite: "the Debian release"
        }
    }

    static func image(_ name: String) -> [Setting] { ImageKey.allCases.map { image(name, $0) } }

    /// The name in a key such as `image.NAME.memory`, whatever follows it.
    static func imageName(in key: some StringProtocol) -> String? {
        let parts = key.split(separator: ".", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0] == "image", !parts[1].isEmpty else { return nil }
        return String(parts[1])
    }
}

extension Configuration {
    /// The images that are defined here, the shipped ones first.
    var imageNames: [String] {
        var names: [String] = []
        for item in resolved {
            guard let name = Setting.imageName(in: item.setting.key), !names.contains(name) else {
                continue
            }
            names.append(name)
        }
        return names
    }

    /// What `mayfly image build NAME` builds.
    func image(named name: String) throws(ConfigurationError) -> ImageDefinition {
        guard imageNames.contains(name) else {
            throw ConfigurationError(
                "there is no image \"\(name)\"; there are \(imageNames.joined(separator: ", ")), "
                    + "and image.\(name).packages in worker.conf would define it")
        }
        func setting(_ key: Setting.ImageKey) -> Setting { .image(name, key) }
        return ImageDefinition(
            name: name, suite: text(setting(.suite)), packages: list(setting(.packages)),
            memory: size(setting(.memory)), vCPUCount: count(setting(.vcpus)),
            interpreters: list(setting(.interpreters)),
            pythonModules: list(setting(.pythonModules)),
            pythonPackages: list(setting(.pip)), files: list(setting(.files)),
            warmUp: text(setting(.warmup)), canary: text(setting(.canary)),
            scratch: size(setting(.scratch)),
            oci: text(setting(.oci)),
            initProcess: .init(rawValue: text(setting(.initProcess))) ?? .agent)
    }

    /// What the program itself puts into an image, for the kinds that use it.
    func tools(for image: String) -> [AddedFile] {
        let kinds = [
            (Setting.documentImage, DocumentTools.files), (.browseImage, BrowseTools.files),
        ]
        var files: [AddedFile] = []
        for (setting, tools) in kinds where text(setting) == image {
            // The file of the search path is the same for all.
            files += tools.filter { tool in !files.contains { $0.path == tool.path } }
                .map(AddedFile.init)
        }
        return files
    }
}
