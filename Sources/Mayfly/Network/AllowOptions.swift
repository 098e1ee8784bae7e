// The option `--allow` of the commands that make a payload.

import ArgumentParser
import Egress
import Jobs
import StrictJSON

struct AllowOptions: ParsableArguments {
    @Option(
        name: .customLong("allow"), parsing: .singleValue,
        help: ArgumentHelp(
            "Where the job may connect to. Repeatable.", valueName: "host:port"))
    var destinations: [String] = []

    func validate() throws {
        for text in destinations {
            do throws(EgressRuleError) { _ = try EgressRule(text) } catch {
                throw ValidationError("--allow \(error)")
            }
        }
    }

    /// The payload with these in its `network.allow`, behind those that it has.
    func added(to payload: String, of kind: String) throws -> String {
        guard !destinations.isEmpty else { return payload }
        guard kind != DocumentKind.name else {
            throw ConfigurationError("--allow: \(kind) jobs have no network")
        }
        // What is wrong in it is said where it is read.
        guard case .object(var members)? = try? JSON(parsing: payload) else { return payload }
        var entries: [JSON] = []
        if let place = members.firstIndex(where: { $0.name == "network" }) {
            guard case .object(let network) = members.remove(at: place).value,
                network.allSatisfy({ $0.name == "allow" })
            else { return payload }
            entries = network.first?.value.elements ?? []
        }
        entries += destinations.map { .string($0) }
        members.append(.init(name: "network", value: .object(["allow": .array(entries)])))
        return JSON.object(members).text
    }

    /// For `mayfly run`: what the payload asks for is what its operator allows.
    func ceiling(of recipe: Recipe, _ networks: [String]) throws -> EgressCeiling {
        do throws(EgressRuleError) {
            for text in networks { _ = try IPNetwork(text) }
        } catch { throw ConfigurationError("--network \(error)") }
        return EgressCeiling(
            allow: (recipe.network?.rules ?? []).map(\.description), networks: networks)
    }
}
