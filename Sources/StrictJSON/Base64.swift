// Strict base64 (RFC 4648, section 4): the standard alphabet, with padding, without line breaks,
// and with nothing in the bits that padding leaves over; and base64url (section 5) as JOSE has it,
// without padding. Called by the kinds and by Secrets.

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

/// The alphabet with - and _, never padded (RFC 7515, section 2).
package enum Base64URL {
    /// The bytes, or `nil` for anything but their one encoding.
    package static func decode(_ text: some StringProtocol) -> [UInt8]? {
        var standard: [UInt8] = []
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "-"): standard.append(UInt8(ascii: "+"))
            case UInt8(ascii: "_"): standard.append(UInt8(ascii: "/"))
            case UInt8(ascii: "+"), UInt8(ascii: "/"), UInt8(ascii: "="): return nil
            default: standard.append(byte)
            }
        }
        while standard.count % 4 != 0 { standard.append(UInt8(ascii: "=")) }
        return Base64.decode(String(decoding: standard, as: UTF8.self))
    }

    package static func encode(_ bytes: [UInt8]) -> String {
        var text: [UInt8] = []
        for byte in Base64.encode(bytes).utf8 {
            switch byte {
            case UInt8(ascii: "+"): text.append(UInt8(ascii: "-"))
            case UInt8(ascii: "/"): text.append(UInt8(ascii: "_"))
            case UInt8(ascii: "="): break
            default: text.append(byte)
            }
        }
        return String(decoding: text, as: UTF8.self)
    }
}
