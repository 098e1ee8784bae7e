// The authority of this job's worker, by which the host ends TLS for it: programs are to trust it,
// in this machine only. The host sends its certificate with the program to start.

import Glibc

enum Authority {
    /// What the host calls it; no program sees it.
    static let variable = "MAYFLY_AUTHORITY"
    /// Whom programs trust in any case, as Debian has it.
    private static let system = "/etc/ssl/certs/ca-certificates.crt"
    private static let own = "\(Boot.run)/authority.pem"
    private static let all = "\(Boot.run)/authorities.pem"

    /// Puts the certificate where programs look for those whom they trust.
    ///
    /// - Returns: variables for those that have a list of their own.
    static func install(_ certificate: String) throws(SystemError) -> [String] {
        let text = Array((certificate + "\n").utf8)
        // Steps of one job have the same.
        if readWhole(own) != text {
            let known = readWhole(system)
            try write(known + text, all)
            if !known.isEmpty { try write(known + text, system) }
            try write(text, own)
        }
        return [
            "SSL_CERT_FILE=\(all)", "CURL_CA_BUNDLE=\(all)", "REQUESTS_CA_BUNDLE=\(all)",
            "PIP_CERT=\(all)", "GIT_SSL_CAINFO=\(all)", "NODE_EXTRA_CA_CERTS=\(own)",
        ]
    }
    private static func write(_ bytes: [UInt8], _ path: String) throws(SystemError) {
        let file = try openFile(path, O_WRONLY | O_CREAT | O_TRUNC)
        defer { close(file) }
        try writeWhole(file, bytes, path)
    }
}
