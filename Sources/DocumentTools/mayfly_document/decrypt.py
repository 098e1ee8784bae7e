"""Encrypted packages of Office: agile (2010 and later) and standard (2007), with OpenSSL's AES.

Decrypted here and not by LibreOffice, so that the gate sees what is inside before any parser does."""

import base64
import ctypes
import hashlib
import hmac
import os

from .events import Failure
from .readers.docx import parse

_MAX_SPINS = 1_000_000
_SEGMENT = 4096
_KEYS = {
    "input": bytes.fromhex("fea7d2763b4b9e79"),
    "hash": bytes.fromhex("d7aa0f6d3061344e"),
    "key": bytes.fromhex("146e0be7abacd0d6"),
}
_HASHES = {
    "SHA1": "sha1",
    "SHA-1": "sha1",
    "SHA256": "sha256",
    "SHA384": "sha384",
    "SHA512": "sha512",
}


def package(path, password, directory):
    """The decrypted package as a file in `directory`; Failures without or with a wrong password."""
    import olefile

    if not password:
        raise Failure("document_encrypted", "the document is encrypted; give its `password`")
    try:
        with olefile.OleFileIO(path) as ole:
            info = ole.openstream("EncryptionInfo").read()
            data = ole.openstream("EncryptedPackage").read()
        major, minor = info[0], info[2]
        plain = (
            _agile(info, data, password) if minor == 4 else _standard(info, data, password, major)
        )
    except (KeyError, ValueError, IndexError, OSError, AttributeError) as error:
        raise Failure("document_damaged", f"the encryption cannot be read: {type(error).__name__}")
    target = os.path.join(directory, "decrypted")
    with open(target, "wb") as file:
        file.write(plain[: int.from_bytes(data[:8], "little")])
    return target


def _aes(key, iv, data):
    """AES decrypted, in CBC with an iv and in ECB without."""
    library = ctypes.CDLL("libcrypto.so.3")
    library.EVP_CIPHER_CTX_new.restype = ctypes.c_void_p
    mode = "cbc" if iv is not None else "ecb"
    cipher = getattr(library, f"EVP_aes_{len(key) * 8}_{mode}")
    cipher.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.EVP_CIPHER_CTX_new())
    try:
        size, out = ctypes.c_int(), ctypes.create_string_buffer(len(data) + 32)
        library.EVP_DecryptInit_ex(context, ctypes.c_void_p(cipher()), None, key, iv)
        library.EVP_CIPHER_CTX_set_padding(context, 0)
        if not library.EVP_DecryptUpdate(
            context, out, ctypes.byref(size), data, len(data) // 16 * 16
        ):
            raise ValueError("AES")
        return out.raw[: size.value]
    finally:
        library.EVP_CIPHER_CTX_free(context)


def _spun(name, salt, password, spins):
    if spins > _MAX_SPINS:
        raise Failure(
            "expansion_limit", f"the password is hashed {spins} times; at most {_MAX_SPINS}"
        )
    make = getattr(hashlib, name)
    value = make(salt + password.encode("utf-16-le")).digest()
    for number in range(spins):
        value = make(number.to_bytes(4, "little") + value).digest()
    return value


def _agile(info, data, password):
    tree = parse(info[8:], "EncryptionInfo")
    package_key = tree.find("{*}keyData")
    lock = next(
        tree.iter("{http://schemas.microsoft.com/office/2006/keyEncryptor/password}encryptedKey")
    )
    name, salt = _HASHES[lock.get("hashAlgorithm")], base64.b64decode(lock.get("saltValue"))
    spun = _spun(name, salt, password, int(lock.get("spinCount")))
    size = int(lock.get("keyBits")) // 8

    def opened(what, field):
        key = hashlib.new(name, spun + _KEYS[what]).digest()[:size].ljust(size, b"\x36")
        return _aes(key, salt[:16].ljust(16, b"\x36"), base64.b64decode(lock.get(field)))

    said = hashlib.new(
        name, opened("input", "encryptedVerifierHashInput")[: int(lock.get("saltSize"))]
    ).digest()
    if not hmac.compare_digest(said, opened("hash", "encryptedVerifierHashValue")[: len(said)]):
        raise Failure("wrong_password", "the `password` does not open the document")
    key = opened("key", "encryptedKeyValue")[: int(package_key.get("keyBits")) // 8]
    name, salt = (
        _HASHES[package_key.get("hashAlgorithm")],
        base64.b64decode(package_key.get("saltValue")),
    )
    out = []
    for number, at in enumerate(range(8, len(data), _SEGMENT)):
        iv = hashlib.new(name, salt + number.to_bytes(4, "little")).digest()[:16].ljust(16, b"\x36")
        out.append(_aes(key, iv, data[at : at + _SEGMENT]))
    return b"".join(out)


def _standard(info, data, password, major):
    if major not in (2, 3, 4):
        raise Failure("unsupported_format", "an encryption of Office that is not known here")
    head = 12 + int.from_bytes(info[8:12], "little")
    size = int.from_bytes(info[28:32], "little") // 8
    salt, verifier = info[head + 4 : head + 20], info[head + 20 : head + 36]
    spun = hashlib.sha1(_spun("sha1", salt, password, 50_000) + bytes(4)).digest()
    halves = [
        hashlib.sha1(
            bytes(a ^ b for a, b in zip(bytes([fill]) * 64, spun.ljust(64, b"\0")))
        ).digest()
        for fill in (0x36, 0x5C)
    ]
    key = b"".join(halves)[:size]
    said = hashlib.sha1(_aes(key, None, verifier)).digest()
    if not hmac.compare_digest(said, _aes(key, None, info[head + 40 : head + 72])[:20]):
        raise Failure("wrong_password", "the `password` does not open the document")
    return _aes(key, None, data[8:])
