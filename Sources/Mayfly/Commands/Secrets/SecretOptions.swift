// `--secret`: secrets of a job from files and from the environment, sealed into its payload. Their
// values are never arguments: everybody on a host can read those.

import ArgumentParser
import Glibc
import Machines
import Secrets
import StrictJSON

struct SecretOptions: ParsableArguments {
    @Option(
        name: .customLong("secret"), parsing: .singleValue,
        help: ArgumentHelp(
            "A secret of the job from a file, or from the variable NAME. Repeatable.",
            valueName: "name[=@file]"))
    var secrets: [String] = []

    func validate() throws {
        for text in secrets {
            let parts = Self.parts(text)
            guard !parts.name.isEmpty, parts.file != "" else { throw Self.formless }
        }
    }
    private static let formless = ValidationError(
        "--secret: write NAME=@FILE, or NAME for the environment variable of that name; "
            + "the value itself would be seen by everybody on this host")

    /// `file` is empty when the text is of neither form.
    private static func parts(_ text: String) -> (name: String, file: String?) {
        guard let place = text.firstIndex(of: "=") else { return (text, nil) }
        let rest = text[text.index(after: place)...]
        return (String(text[..<place]), rest.hasPrefix("@") ? String(rest.dropFirst()) : "")
    }

    /// A secret from a file, or from standard input for `-`; a line's end behind it is not meant.
    static func read(_ path: String) throws -> Secret {
        var bytes = try Files.read(path, atMost: ByteCount(bytes: SealedSecret.byteCountMax))
        if bytes.last == 0x0A { bytes.removeLast() }
        if bytes.last == 0x0D { bytes.removeLast() }
        return Secret(bytes)
    }

    private func read() throws -> [(name: String, secret: Secret)] {
        try secrets.map { text in
            let (name, file) = Self.parts(text)
            if let file { return (name, try Self.read(file)) }
            guard let value = unsafe getenv(name) else {
                throw ConfigurationError(
                    "--secret \(name): there is no environment variable \(name); set it, or write "
                        + "\(name)=@FILE")
            }
            return (name, Secret(unsafe String(cString: value)))
        }
    }

    /// The payload with the secrets in it, where its kind has them.
    func sealed(
        into payload: String, of kind: String, for key: PublicKey, tenant: String?
    ) throws -> String {
        guard !secrets.isEmpty else { return payload }
        guard let value = try? JSON(parsing: payload), case .object(var members) = value else {
            throw ConfigurationError(
                "the payload is no JSON object; --secret puts secrets into one")
        }
        var variables: [JSON.Member] = []
        for (name, secret) in try read() {
            let text: JSON
            do throws(SecretError) {
                text = .string(try SealedSecret.seal(secret, for: key, tenant: tenant))
            } catch { throw ConfigurationError("--secret \(name): \(error)") }
            guard kind == DocumentKind.name else {
                variables.append(.init(name: name, value: text))
                continue
            }
            guard name == "password" else {
                throw ConfigurationError(
                    "--secret \(name): a document has one secret, its password; write "
                        + "--secret password=@FILE")
            }
            members.append(.init(name: name, value: text))
        }
        if !variables.isEmpty {
            if let place = members.firstIndex(where: { $0.name == "secrets" }) {
                guard case .object(let given) = members.remove(at: place).value else {
                    throw ConfigurationError("$.secrets of the payload is no object")
                }
                variables = given + variables
            }
            members.append(.init(name: "secrets", value: .object(variables)))
        }
        return JSON.object(members).text
    }
}

extension JSON {
    /// Of a payload: what its secrets are called.
    var sealedNames: [String] {
        guard case .object(let members) = self else { return [] }
        return members.flatMap { member in
            if member.name == "secrets", case .object(let secrets) = member.value {
                return secrets.map(\.name)
            }
            return member.name == "password" ? [member.name] : []
        }
    }

    /// A payload for people's eyes: of what is sealed only that it is there.
    var withDots: JSON {
        guard case .object(let members) = self else { return self }
        return .object(
            members.map { member in
                switch (member.name, member.value) {
                case ("secrets", .object(let secrets)):
                    .init(
                        name: member.name,
                        value: .object(
                            secrets.map { .init(name: $0.name, value: .string(Secret.dots)) }))
                case ("secrets", _), ("password", _):
                    .init(name: member.name, value: .string(Secret.dots))
                default: member
                }
            })
    }
}
