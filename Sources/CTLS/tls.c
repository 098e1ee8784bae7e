// See CTLS.h. Nothing stays in the thread's error queue.

#include "CTLS.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct mayfly_tls_authority {
    X509 *certificate;
    EVP_PKEY *key;
    int days;
};
struct mayfly_tls_context {
    SSL_CTX *context;
};
struct mayfly_tls {
    SSL *ssl;
    int descriptor;
    unsigned char *first;
    size_t first_size, first_start;
};

// The socket as OpenSSL sees it: without SIGPIPE, and first what was read before.

static int socket_read(BIO *bio, char *bytes, int size) {
    struct mayfly_tls *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (size <= 0) return 0;
    size_t left = tls->first_size - tls->first_start;
    if (left > 0) {
        size_t count = left < (size_t)size ? left : (size_t)size;
        memcpy(bytes, tls->first + tls->first_start, count);
        tls->first_start += count;
        return (int)count;
    }
    ssize_t count = recv(tls->descriptor, bytes, (size_t)size, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_read(bio);
    return (int)count;
}
static int socket_write(BIO *bio, const char *bytes, int size) {
    struct mayfly_tls *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (size <= 0) return 0;
    ssize_t count = send(tls->descriptor, bytes, (size_t)size, MSG_NOSIGNAL);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(bio);
    return (int)count;
}
static long socket_control(BIO *bio, int command, long number, void *pointer) {
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}
static BIO_METHOD *socket_method(void) {
    static BIO_METHOD *method;
    if (method == NULL) {
        BIO_METHOD *made = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "mayfly");
        if (made == NULL) return NULL;
        BIO_meth_set_read(made, socket_read);
        BIO_meth_set_write(made, socket_write);
        BIO_meth_set_ctrl(made, socket_control);
        method = made;
    }
    return method;
}

static SSL_CTX *new_context(const SSL_METHOD *method) {
    SSL_CTX *context = SSL_CTX_new(method);
    if (context == NULL) return NULL;
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
            | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    return context;
}
static struct mayfly_tls_context *wrapped(SSL_CTX *context) {
    struct mayfly_tls_context *made = context ? calloc(1, sizeof *made) : NULL;
    if (made == NULL)
        SSL_CTX_free(context);
    else
        made->context = context;
    ERR_clear_error();
    return made;
}

struct mayfly_tls_context *mayfly_tls_client_context(const char *authorities) {
    SSL_CTX *context = new_context(TLS_client_method());
    if (context == NULL) return wrapped(NULL);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    // What a hostile server can make us compute is bounded.
    SSL_CTX_set_verify_depth(context, 8);
    SSL_CTX_set_max_cert_list(context, 64 << 10);
    static const unsigned char protocols[] = "\x08http/1.1";
    int good = SSL_CTX_set_alpn_protos(context, protocols, sizeof protocols - 1) == 0
        && (authorities ? SSL_CTX_load_verify_file(context, authorities)
                        : SSL_CTX_set_default_verify_paths(context))
            == 1;
    if (!good) {
        SSL_CTX_free(context);
        context = NULL;
    }
    return wrapped(context);
}
void mayfly_tls_context_free(struct mayfly_tls_context *context) {
    if (context == NULL) return;
    SSL_CTX_free(context->context);
    free(context);
}

// Certificates

static int add_extension(X509 *certificate, X509 *issuer, int nid, const char *text) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_nconf_nid(NULL, &context, nid, text);
    int good = extension != NULL && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return good;
}
// Everything but what its use asks for; `issuer` may be the certificate itself.
static int prepare(X509 *certificate, X509 *issuer, EVP_PKEY *key, const char *name, int days) {
    unsigned char serial[16];
    if (RAND_bytes(serial, sizeof serial) != 1) return 0;
    serial[0] &= 0x7F;
    serial[0] |= 0x40;
    BIGNUM *number = BN_bin2bn(serial, sizeof serial, NULL);
    int good = number != NULL
        && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL;
    BN_free(number);
    X509_NAME *subject = X509_get_subject_name(certificate);
    return good && X509_set_version(certificate, 2) == 1
        && X509_gmtime_adj(X509_getm_notBefore(certificate), -86400L * days) != NULL
        && X509_gmtime_adj(X509_getm_notAfter(certificate), 86400L * days) != NULL
        && X509_set_pubkey(certificate, key) == 1
        && X509_NAME_add_entry_by_txt(
               subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0)
            == 1
        && X509_set_issuer_name(certificate, X509_get_subject_name(issuer)) == 1;
}

struct mayfly_tls_authority *mayfly_tls_authority_make(const char *name, int days) {
    struct mayfly_tls_authority *made = calloc(1, sizeof *made);
    if (made == NULL) return NULL;
    made->days = days;
    made->key = EVP_EC_gen("P-256");
    made->certificate = X509_new();
    X509 *own = made->certificate;
    int good = made->key != NULL && own != NULL && prepare(own, own, made->key, name, days)
        && add_extension(own, own, NID_basic_constraints, "critical,CA:TRUE,pathlen:0")
        && add_extension(own, own, NID_key_usage, "critical,keyCertSign,cRLSign")
        && add_extension(own, own, NID_subject_key_identifier, "hash")
        && X509_sign(own, made->key, EVP_sha256()) > 0;
    ERR_clear_error();
    if (good) return made;
    mayfly_tls_authority_free(made);
    return NULL;
}
void mayfly_tls_authority_free(struct mayfly_tls_authority *authority) {
    if (authority == NULL) return;
    X509_free(authority->certificate);
    EVP_PKEY_free(authority->key);
    free(authority);
}
size_t mayfly_tls_authority_pem(
    const struct mayfly_tls_authority *authority, unsigned char *bytes, size_t size) {
    size_t count = 0;
    char *text = NULL;
    BIO *bio = BIO_new(BIO_s_mem());
    if (bio != NULL && PEM_write_bio_X509(bio, authority->certificate) == 1) {
        long length = BIO_get_mem_data(bio, &text);
        if (length > 0 && (size_t)length <= size) {
            memcpy(bytes, text, (size_t)length);
            count = (size_t)length;
        }
    }
    BIO_free(bio);
    ERR_clear_error();
    return count;
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_size,
    const unsigned char *in, unsigned int in_size, void *unused) {
    (void)ssl;
    (void)unused;
    static const unsigned char own[] = "\x08http/1.1";
    unsigned char *chosen = NULL;
    int found = SSL_select_next_proto(&chosen, out_size, own, sizeof own - 1, in, in_size);
    *out = chosen;
    return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}
struct mayfly_tls_context *mayfly_tls_server_context(
    const struct mayfly_tls_authority *authority, const char *host, int is_address) {
    char names[300];
    // A name is labels of ASCII, checked by the caller: it has no comma and no colon.
    int length = snprintf(names, sizeof names, "%s:%s", is_address ? "IP" : "DNS", host);
    if (length < 0 || (size_t)length >= sizeof names) return NULL;
    // A subject has at most 64 characters; who reads it reads the name beside it.
    const char *subject = strlen(host) <= 64 ? host : "mayfly";
    SSL_CTX *context = new_context(TLS_server_method());
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *own = X509_new();
    X509 *issuer = authority->certificate;
    int good = context != NULL && key != NULL && own != NULL
        && prepare(own, issuer, key, subject, authority->days)
        && add_extension(own, issuer, NID_basic_constraints, "critical,CA:FALSE")
        && add_extension(own, issuer, NID_key_usage, "critical,digitalSignature")
        && add_extension(own, issuer, NID_ext_key_usage, "serverAuth")
        && add_extension(own, issuer, NID_subject_key_identifier, "hash")
        && add_extension(own, issuer, NID_authority_key_identifier, "keyid")
        && add_extension(own, issuer, NID_subject_alt_name, names)
        && X509_sign(own, authority->key, EVP_sha256()) > 0
        && SSL_CTX_use_certificate(context, own) == 1
        && SSL_CTX_use_PrivateKey(context, key) == 1
        && SSL_CTX_set_num_tickets(context, 0) == 1;
    if (good) {
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
        SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
    } else {
        SSL_CTX_free(context);
        context = NULL;
    }
    X509_free(own);
    EVP_PKEY_free(key);
    return wrapped(context);
}

// Connections

static struct mayfly_tls *opened(struct mayfly_tls_context *context, int descriptor) {
    struct mayfly_tls *tls = calloc(1, sizeof *tls);
    if (tls == NULL) return NULL;
    tls->descriptor = descriptor;
    tls->ssl = SSL_new(context->context);
    BIO_METHOD *method = socket_method();
    BIO *bio = tls->ssl != NULL && method != NULL ? BIO_new(method) : NULL;
    if (bio == NULL) {
        mayfly_tls_free(tls);
        return NULL;
    }
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls->ssl, bio, bio);
    return tls;
}
struct mayfly_tls *mayfly_tls_client(struct mayfly_tls_context *context, int descriptor,
    const char *host, int is_address) {
    struct mayfly_tls *tls = opened(context, descriptor);
    if (tls == NULL) return NULL;
    X509_VERIFY_PARAM *wanted = SSL_get0_param(tls->ssl);
    X509_VERIFY_PARAM_set_hostflags(wanted, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    int good = is_address ? X509_VERIFY_PARAM_set1_ip_asc(wanted, host) == 1
                          : X509_VERIFY_PARAM_set1_host(wanted, host, 0) == 1
            && SSL_set_tlsext_host_name(tls->ssl, host) == 1;
    SSL_set_connect_state(tls->ssl);
    ERR_clear_error();
    if (good) return tls;
    mayfly_tls_free(tls);
    return NULL;
}
struct mayfly_tls *mayfly_tls_server(struct mayfly_tls_context *context, int descriptor,
    const unsigned char *first, size_t size) {
    struct mayfly_tls *tls = opened(context, descriptor);
    if (tls == NULL) return NULL;
    SSL_set_accept_state(tls->ssl);
    if (size > 0) {
        tls->first = malloc(size);
        if (tls->first == NULL) {
            mayfly_tls_free(tls);
            return NULL;
        }
        memcpy(tls->first, first, size);
        tls->first_size = size;
    }
    return tls;
}
void mayfly_tls_free(struct mayfly_tls *tls) {
    if (tls == NULL) return;
    SSL_free(tls->ssl);
    free(tls->first);
    free(tls);
    ERR_clear_error();
}

static int failure(struct mayfly_tls *tls, int status) {
    int error = SSL_get_error(tls->ssl, status);
    ERR_clear_error();
    switch (error) {
    case SSL_ERROR_WANT_READ: return MAYFLY_TLS_WANTS_READ;
    case SSL_ERROR_WANT_WRITE: return MAYFLY_TLS_WANTS_WRITE;
    case SSL_ERROR_ZERO_RETURN: return 0;
    default: return MAYFLY_TLS_FAILED;
    }
}
int mayfly_tls_handshake(struct mayfly_tls *tls) {
    ERR_clear_error();
    int status = SSL_do_handshake(tls->ssl);
    if (status == 1) return 1;
    int why = failure(tls, status);
    return why == 0 ? MAYFLY_TLS_FAILED : why;
}
long mayfly_tls_read(struct mayfly_tls *tls, void *bytes, size_t size) {
    ERR_clear_error();
    size_t count = 0;
    int status = SSL_read_ex(tls->ssl, bytes, size, &count);
    return status == 1 ? (long)count : failure(tls, status);
}
long mayfly_tls_write(struct mayfly_tls *tls, const void *bytes, size_t size) {
    ERR_clear_error();
    size_t count = 0;
    int status = SSL_write_ex(tls->ssl, bytes, size, &count);
    if (status == 1) return (long)count;
    int why = failure(tls, status);
    return why == 0 ? MAYFLY_TLS_FAILED : why;
}
void mayfly_tls_end(struct mayfly_tls *tls) {
    if (SSL_is_init_finished(tls->ssl)) SSL_shutdown(tls->ssl);
    ERR_clear_error();
}
const char *mayfly_tls_certificate_problem(const struct mayfly_tls *tls) {
    long result = SSL_get_verify_result(tls->ssl);
    return result == X509_V_OK ? NULL : X509_verify_cert_error_string(result);
}
