// Strict base64 (RFC 4648, section 4): the standard alphabet, with padding, without line breaks,
// and with nothing in the bits that padding leaves over. Called by the kinds.

package enum Base64 {
    /// Index 0…63, or 0xFF for a byte that is no digit.
    private static let values: [UInt8] = {
        var table = [UInt8](repeating: 0xFF, count: 256)
        for (value, byte) in digits.enumerated() { table[Int(byte)] = UInt8(value) }
        return table
    }()
    private static let digits = Array(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    /// The bytes, or `nil` for anything but strict base64.
    package static func decode(_ text: String) -> [UInt8]? {
        let source = Array(text.utf8)
        guard source.count % 4 == 0 else { return nil }
        let padding = source.suffix(2).reversed().prefix { $0 == UInt8(ascii: "=") }.count
        var result: [UInt8] = []
        result.reserveCapacity(source.count / 4 * 3)
        var bits: UInt32 = 0
        var count = 0
        for byte in source.dropLast(padding) {
            let value = values[Int(byte)]
            guard value != 0xFF else { return nil }
            bits = bits << 6 | UInt32(value)
            count += 1
            if count == 4 {
                result.append(UInt8(truncatingIfNeeded: bits >> 16))
                result.append(UInt8(truncatingIfNeeded: bits >> 8))
                result.append(UInt8(truncatingIfNeeded: bits))
                (bits, count) = (0, 0)
            }
        }
        switch count {
        case 0: return padding == 0 ? result : nil
        case 2:
            guard padding == 2, bits & 0xF == 0 else { return nil }
            result.append(UInt8(truncatingIfNeeded: bits >> 4))
        case 3:
            guard padding == 1, bits & 0x3 == 0 else { return nil }
            result.append(UInt8(truncatingIfNeeded: bits >> 10))
            result.append(UInt8(truncatingIfNeeded: bits >> 2))
        default: return nil
        }
        return result
    }

    package static func encode(_ bytes: [UInt8]) -> String {
        var result: [UInt8] = []
        result.reserveCapacity((bytes.count + 2) / 3 * 4)
        var index = 0
        while index < bytes.count {
            let rest = bytes.count - index
            let a = UInt32(bytes[index])
            let b = rest > 1 ? UInt32(bytes[index + 1]) : 0
            let c = rest > 2 ? UInt32(bytes[index + 2]) : 0
            let bits = a << 16 | b << 8 | c
            result.append(digits[Int(bits >> 18)])
            result.append(digits[Int(bits >> 12 & 63)])
            result.append(rest > 1 ? digits[Int(bits >> 6 & 63)] : UInt8(ascii: "="))
            result.append(rest > 2 ? digits[Int(bits & 63)] : UInt8(ascii: "="))
            index += 3
        }
        return String(decoding: result, as: UTF8.self)
    }
}
