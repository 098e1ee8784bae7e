// The settings of a capability, `capability.NAME.…`: credentials that stay on this host. A name
// exists as soon as worker.conf or a flag sets one of its keys.

extension Setting {
    /// What can be set of a capability; the raw value is the end of its key.
    enum CapabilityKey: String, CaseIterable {
        case url, header, secret, allow, grant, networks
    }

    static func capability(_ name: String, _ key: CapabilityKey) -> Setting {
        let (form, standard, reason): (Form, String, String) =
            switch key {
            case .url: (.text, "\"\"", "where it leads: https://host[:port][/path]")
            case .header:
                (
                    .text, "\"Authorization: Bearer\"",
                    "the field that is added, with what stands before the secret"
                )
            case .secret:
                (.text, "\"\"", "the file of the secret, of one line, for the worker's user alone")
            case .allow:
                (
                    .text, "\"\"",
                    "what may be asked for: \"GET /repos/*; POST /issues\"; empty: everything"
                )
            case .grant:
                (
                    .text, "\"\"",
                    "who may ask: \"queue/tenant; queue/*; */tenant\"; empty: nobody"
                )
            case .networks:
                (.list, "\"\"", "networks that are not globally routable, where it may lead")
            }
        return Setting("capability.\(name).\(key.rawValue)", form, standard, reason)
    }
    static func capability(_ name: String) -> [Setting] {
        CapabilityKey.allCases.map { capability(name, $0) }
    }
    /// The name in a key such as `capability.NAME.url`, whatever follows it.
    static func capabilityName(in key: some StringProtocol) -> String? {
        let parts = key.split(separator: ".", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0] == "capability", !parts[1].isEmpty else { return nil }
        return String(parts[1])
    }
}

extension Configuration {
    /// The capabilities that are defined here.
    var capabilityNames: [String] {
        Set(resolved.compactMap { Setting.capabilityName(in: $0.setting.key) }).sorted()
    }
}
