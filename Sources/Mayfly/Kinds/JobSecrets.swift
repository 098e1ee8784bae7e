// How what a payload keeps secret comes into a machine: sealed secrets are opened when a job's
// recipe is made, with the keys of this host, for the job's tenant. Used by the kinds.

import Jobs
import Machines
import Secrets

/// Opens the secrets of one job.
struct SecretOpener: Sendable {
    let keys: SecretKeys
    /// Whose job it is; `nil` where there is no queue, and with it no tenant.
    let tenant: String?

    /// The secret, and the same as text for a program.
    ///
    /// - Parameter path: where it stands in the payload.
    func open(
        _ sealed: SealedSecret, at path: String
    ) throws(AttemptError) -> (secret: Secret, text: String) {
        let secret: Secret
        do throws(SecretError) {
            secret = try sealed.open(with: keys.key(sealed.keyID), tenant: tenant)
        } catch {
            switch error {
            case .keyMissing(let sentence): throw .secretKeyMissing(sentence)
            case .malformed(let sentence), .unreadable(let sentence):
                throw Self.unreadable(path, sentence)
            }
        }
        guard let text = secret.text else {
            throw Self.unreadable(path, "holds bytes that are not UTF-8 text, or a zero byte")
        }
        return (secret, text)
    }

    private static func unreadable(_ path: String, _ sentence: String) -> AttemptError {
        .invalidPayload(
            InvalidPayload(path: path, sentence: sentence, reason: .secretUnreadable))
    }
}

extension Configuration {
    /// The private keys of this host.
    var secretKeys: SecretKeys {
        let directory = text(.secretKeys)
        return SecretKeys(
            directory: directory.isEmpty ? "\(text(.stateDirectory))/keys/secrets" : directory)
    }
}

extension CodePayload {
    /// A variable whose value is sealed.
    struct SecretField: Sendable {
        var name: String
        var path: String
        var sealed: SealedSecret
    }

    mutating func readSecrets(_ field: PayloadField) throws(InvalidPayload) {
        var total = 0
        for (name, entry) in try field.dictionary(atMost: Bounds.secrets) {
            guard Step.isVariableName(name) else {
                throw entry.refuse("is not a valid variable name; use letters, digits and _")
            }
            guard !steps.contains(where: { $0.environment.contains { $0.name == name } }) else {
                throw entry.refuse("stands in env, too; use one of them")
            }
            let sealed = try entry.sealed()
            total += name.utf8.count + sealed.byteCount + 8
            secrets.append(SecretField(name: name, path: entry.path, sealed: sealed))
        }
        let beside = steps.map(\.commandLineByteCount).max() ?? 0
        guard total + beside <= Bounds.commandLine.bytes else {
            throw field.refuse(
                "args, env and secrets are \(total + beside) bytes together; at most "
                    + "\(Bounds.commandLine) are allowed")
        }
    }

    func openedSecrets(
        _ opener: SecretOpener
    ) throws(AttemptError) -> (variables: [(name: String, value: String)], mask: SecretMask) {
        var variables: [(name: String, value: String)] = []
        var opened: [Secret] = []
        for field in secrets {
            let (secret, text) = try opener.open(field.sealed, at: field.path)
            variables.append((field.name, text))
            opened.append(secret)
        }
        return (variables, SecretMask(opened))
    }
}
