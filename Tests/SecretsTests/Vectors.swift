// Secrets that others sealed, the vectors of the RFCs, and everything that is no sealed secret.

import Foundation
import StrictJSON
import TestSupport
import Testing

@testable import Secrets

/// Made by jwcrypto 1.6 and joserfc 1.8 in Python, for the key below.
enum Vectors {
    static let key =
        #"{"kty":"EC","crv":"P-256","x":"lh4ceVa4beEYhugq69WBI8ata4ojXm3pcjMQl52dvqc","#
        + #""y":"OKTmWduYr0aWivCl8dgSEbBVfXp-xZuN-nHvafyn-Bo","kid":"b470afb7d6d8d5cc","#
        + #""use":"enc","alg":"ECDH-ES","d":"fqTs2HKMF2OqSMniNorqMcNvW5TB9PDqyWI5-m024PQ"}"#
    /// Holds "correct horse battery staple – ünïcode".
    static let jwcrypto =
        "eyJhbGciOiJFQ0RILUVTIiwiZW5jIjoiQTI1NkdDTSIsImVwayI6eyJjcnYiOiJQLTI1NiIsImt0eSI6IkVD"
        + "IiwieCI6IlZtTkp6RWZlOF9iTTl1Vnh2bFdXS1N4OFNIeG8tZE1qcDA5bFpyRzFldVEiLCJ5IjoiZUtacVVY"
        + "bUVXV0daQjNobVctTnpSSWhZdk0ybWUteXF5c0F6cWdsU0JFOCJ9LCJraWQiOiJiNDcwYWZiN2Q2ZDhkNWNj"
        + "In0..DXvogL3sZUWM50UQ.-nvIEAAhqQiwRfQzYLHTBD0POxROqCGKzIyHUuh8Pvrm76MAs-qATSyw.46zdz"
        + "dcciIm-EwIFiuEYAg"
    /// Holds "for acme only".
    static let acme =
        "eyJhbGciOiJFQ0RILUVTIiwiZW5jIjoiQTI1NkdDTSIsImVwayI6eyJjcnYiOiJQLTI1NiIsImt0eSI6IkVD"
        + "IiwieCI6InVLT0I5c19EQTBTSTR0cHFSX3hNS1lmcmI0MUYzck5TbUc5QnZOSzA2QnciLCJ5IjoiNjhBMUp0"
        + "QjlyWVdxbC1EdVB0eHhuMzRkWXdhSTBIYmY3ZzBSQmd4ZE5fcyJ9LCJraWQiOiJiNDcwYWZiN2Q2ZDhkNWNj"
        + "IiwidGVuYW50IjoiYWNtZSJ9..HBnYZs8ig4M0iM0_.Yp1sFjnqCbKuVVaU2A.95Oy0YivMyDKrf25hdgUQQ"
    /// Nothing.
    static let empty =
        "eyJhbGciOiJFQ0RILUVTIiwiZW5jIjoiQTI1NkdDTSIsImVwayI6eyJjcnYiOiJQLTI1NiIsImt0eSI6IkVD"
        + "IiwieCI6IkJ4UDVEZjc2dHdiV0NCZFl0SExLMENId0xmc1ktQ21vLUpuTk52XzRKdlUiLCJ5IjoibmdyRk45"
        + "dER0Rk5XSlp2aERfQlN6VUk5Z3Z3N0N5ODh1VWR4RjViS1lwRSJ9LCJraWQiOiJiNDcwYWZiN2Q2ZDhkNWNj"
        + "In0..UFgKcNmXW6ymWAbO..6-GBu_6h2RLKgVFgV-jQYg"
    /// Holds "with parties", with `apu` and `apv`.
    static let parties =
        "eyJhbGciOiJFQ0RILUVTIiwiYXB1IjoiUVd4cFkyVSIsImFwdiI6IlFtOWkiLCJlbmMiOiJBMjU2R0NNIiwi"
        + "ZXBrIjp7ImNydiI6IlAtMjU2Iiwia3R5IjoiRUMiLCJ4IjoidzQtREM3aUNWUWRwNEVxc2pQVk0tZjh3V0ZQ"
        + "RXV6TTh3ZU10UnY4ekxfOCIsInkiOiJDT1J0dXh5OFFieU1oMkpRbnFRSDN0MEZMaVpKQVpEU3VsSnc0ZWNR"
        + "d0NBIn0sImtpZCI6ImI0NzBhZmI3ZDZkOGQ1Y2MifQ..xxei8g4e1m8YOeUQ.4GHhoUkSlDffbu2i.exHpx3"
        + "CFWWtBOpZToPHlsA"
    /// Holds "from joserfc".
    static let joserfc =
        "eyJhbGciOiJFQ0RILUVTIiwiZW5jIjoiQTI1NkdDTSIsImtpZCI6ImI0NzBhZmI3ZDZkOGQ1Y2MiLCJlcGsi"
        + "OnsiY3J2IjoiUC0yNTYiLCJ4IjoiU2UxVXhJTE9jeXVQMkVMVm5YSVRvZVp1aDdJa2I4YnR4S1p0S2Fub2JK"
        + "YyIsInkiOiJWa3JobzhXN1BTZnRaZXJwVVpWZDFQWU1sZWdBWkVJN19BWTFFQS02NFNRIiwia3R5IjoiRUMi"
        + "fX0..O_c8jteb2PtMOEmp.Q9KTG7jEPp1h2dwq.w37zDL2Mtsgwa3g0P1vt1w"

    static func privateKey() throws -> PrivateKey { try PrivateKey(JSON(parsing: key)) }
}
