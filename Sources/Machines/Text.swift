// What Foundation and the standard library leave out, about texts.

import Foundation

extension String {
    var trimmed: String { trimmingCharacters(in: .whitespacesAndNewlines) }
}
