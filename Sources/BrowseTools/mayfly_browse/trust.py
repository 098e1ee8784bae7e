"""Whom the browser trusts beside those whom it knows: authorities in its user's NSS database.

Chromium reads that once, when it first has a certificate to check. The warm-up checks none, so what
comes with a job is there in time. The library is the browser's own: no other tool is needed."""

import ctypes
import glob
import os
import re
import ssl

# Where Chromium looks for it, below its HOME.
_DATABASE = ".local/share/pki/nssdb"
# Where Debian has an operator put authorities of their own, for update-ca-certificates.
_LOCAL = "/usr/local/share/ca-certificates/**/*.crt"
# CERTDB_VALID_CA and CERTDB_TRUSTED_CA: for servers, and nothing else.
_TRUSTED = 8 | 16
_PEM = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class _Item(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("data", ctypes.c_char_p), ("len", ctypes.c_uint)]


class _Trust(ctypes.Structure):
    _fields_ = [("ssl", ctypes.c_uint), ("email", ctypes.c_uint), ("code", ctypes.c_uint)]


def _library():
    nss = ctypes.CDLL("libnss3.so")
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, *arguments in (
        ("NSS_Initialize", number, text, text, text, text, ctypes.c_uint32),
        ("NSS_Shutdown", number),
        ("PORT_GetError", number),
        ("PK11_GetInternalKeySlot", pointer),
        ("PK11_NeedUserInit", number, pointer),
        ("PK11_InitPin", number, pointer, text, text),
        ("PK11_ImportCert", number, pointer, pointer, ctypes.c_ulong, text, number),
        ("PK11_FreeSlot", None, pointer),
        ("CERT_GetDefaultCertDB", pointer),
        ("CERT_NewTempCertificate", pointer, pointer, pointer, text, number, number),
        ("CERT_ChangeCertTrust", number, pointer, pointer, pointer),
        ("CERT_DestroyCertificate", None, pointer),
    ):
        function = getattr(nss, name)
        function.restype, function.argtypes = result, arguments
    return nss


def _check(nss, what, status):
    if status:
        raise OSError(f"NSS cannot {what} ({nss.PORT_GetError()})")


def _import(nss, slot, der, name):
    known = nss.CERT_GetDefaultCertDB()
    item = _Item(0, der, len(der))
    certificate = nss.CERT_NewTempCertificate(known, ctypes.byref(item), None, 0, 1)
    _check(nss, "read a certificate", not certificate)
    try:
        _check(nss, "keep it", nss.PK11_ImportCert(slot, certificate, 0, name.encode(), 0))
        trust = ctypes.byref(_Trust(_TRUSTED, 0, 0))
        _check(nss, "trust it", nss.CERT_ChangeCertTrust(known, certificate, trust))
    finally:
        nss.CERT_DestroyCertificate(certificate)


def add(text):
    """Has a browser of this process's user trust every certificate in `text`, in PEM."""
    found = [ssl.PEM_cert_to_DER_cert(pem) for pem in _PEM.findall(text)]
    if not found:
        raise OSError("there is no certificate in PEM")
    directory = os.path.join(os.environ["HOME"], _DATABASE)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    nss = _library()
    place = b"sql:" + directory.encode()
    _check(nss, "open a database", nss.NSS_Initialize(place, b"", b"", b"secmod.db", 0))
    try:
        slot = nss.PK11_GetInternalKeySlot()
        try:
            if nss.PK11_NeedUserInit(slot):
                _check(nss, "make a database", nss.PK11_InitPin(slot, None, b""))
            for number, der in enumerate(found):
                _import(nss, slot, der, f"authority {number + 1} of {len(found)}")
        finally:
            nss.PK11_FreeSlot(slot)
    finally:
        nss.NSS_Shutdown()


def add_local():
    """What the image brings: the system's bundle is not the browser's."""
    texts = []
    for path in sorted(glob.glob(_LOCAL, recursive=True)):
        with open(path, errors="replace") as file:
            texts.append(file.read())
    if texts:
        add("\n".join(texts))
