// Credentials that stay on this host: what worker.conf says of them, and which of them a job may
// use. The file of a secret is read when a job begins: a new one needs no restart, and one that is
// gone opens nothing.

import Egress
import Glibc
import Logging
import Processes

/// Every capability of this worker's.
struct CapabilityBook: Sendable {
    private struct Grant: Sendable {
        /// `nil`: all.
        let queue: String?
        let tenant: String?
        func holds(_ queue: String, _ tenant: String) -> Bool {
            (self.queue ?? queue) == queue && (self.tenant ?? tenant) == tenant
        }
    }
    private struct Entry: Sendable {
        let name: String
        let url: String
        let header: String
        let secretFile: String
        let allow: [String]
        let networks: [String]
        let grants: [Grant]

        func capability(_ secret: [UInt8]?) throws(EgressRuleError) -> EgressCapability {
            try EgressCapability(
                name: name, base: url, header: header, allow: allow, networks: networks,
                secret: secret)
        }
    }
    private let entries: [Entry]

    /// - Throws: ``ConfigurationError`` for what could not work whatever the secret is.
    init(_ configuration: Configuration) throws(ConfigurationError) {
        var entries: [Entry] = []
        for name in configuration.capabilityNames {
            func text(_ key: Setting.CapabilityKey) -> String {
                configuration.text(.capability(name, key))
            }
            func parts(_ key: Setting.CapabilityKey) -> [String] {
                text(key).split(separator: ";").map { $0.trimmed }.filter { !$0.isEmpty }
            }
            var grants: [Grant] = []
            for part in parts(.grant) {
                guard let slash = part.firstIndex(of: "/"), slash > part.startIndex else {
                    throw ConfigurationError(
                        "capability.\(name).grant: \"\(part)\" is not queue/tenant; * is every "
                            + "one, and queue/ the unnamed tenant")
                }
                let (queue, tenant) = (part[..<slash], part[part.index(after: slash)...])
                grants.append(
                    Grant(
                        queue: queue == "*" ? nil : String(queue),
                        tenant: tenant == "*" ? nil : String(tenant)))
            }
            let entry = Entry(
                name: name, url: text(.url), header: text(.header), secretFile: text(.secret),
                allow: parts(.allow), networks: configuration.list(.capability(name, .networks)),
                grants: grants)
            guard entry.secretFile.hasPrefix("/") else {
                throw ConfigurationError(
                    "capability.\(name).secret is \"\(entry.secretFile)\"; name the file of its "
                        + "secret by an absolute path")
            }
            do throws(EgressRuleError) { _ = try entry.capability(nil) } catch {
                throw ConfigurationError("capability.\(name): \(error)")
            }
            entries.append(entry)
        }
        self.entries = entries
    }

    /// Those of a job of this queue and tenant, with their secrets.
    func granted(to queue: String, tenant: String) -> [EgressCapability] {
        entries.filter { $0.grants.contains { $0.holds(queue, tenant) } }.compactMap { entry in
            do {
                return try entry.capability(try Self.secret(in: entry.secretFile))
            } catch {
                Logger.current.warning(
                    "the secret of a capability cannot be used; jobs that ask for it are told so",
                    metadata: ["capability": "\(entry.name)", "error": "\(error)"])
            }
            return try? entry.capability(nil)
        }
    }
    /// Why a capability's secret cannot be used now, of each for which that is so.
    var problems: [String] {
        entries.compactMap { entry in
            do {
                _ = try entry.capability(try Self.secret(in: entry.secretFile))
                return nil
            } catch { return "capability.\(entry.name).secret: \(error)" }
        }
    }
    var count: Int { entries.count }

    private static let secretByteCountMax = 8194
    /// One line.
    private static func secret(in path: String) throws(SystemError) -> [UInt8] {
        let file = try Descriptor.open(path, O_RDONLY | O_NONBLOCK)
        var facts = stat()
        guard unsafe fstat(file.number, &facts) == 0 else { throw SystemError("look at", path) }
        guard facts.st_mode & S_IFMT == S_IFREG, facts.st_mode & 0o077 == 0 else {
            throw SystemError("use (others may read it: chmod 600)", path, EACCES)
        }
        var bytes = [UInt8](repeating: 0, count: secretByteCountMax)
        let count = unsafe read(file.number, &bytes, bytes.count)
        guard count >= 0 else { throw SystemError("read", path) }
        bytes.removeLast(bytes.count - count)
        if bytes.last == 0x0A { bytes.removeLast() }
        return bytes
    }
}

extension Substring {
    fileprivate var trimmed: String {
        var text = self
        while text.first == " " { text.removeFirst() }
        while text.last == " " { text.removeLast() }
        return String(text)
    }
}
