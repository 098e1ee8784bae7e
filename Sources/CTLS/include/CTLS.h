// TLS over a connected, non-blocking socket, by OpenSSL: as a client that verifies whom it speaks to,
// and as a server that shows a certificate of an authority of its own. A target of its own, because
// OpenSSL's macros and callbacks are C.

#ifndef CTLS_H
#define CTLS_H

#include <stddef.h>

struct mayfly_tls_authority;
struct mayfly_tls_context;
struct mayfly_tls;

enum {
    MAYFLY_TLS_WANTS_READ = -1,
    MAYFLY_TLS_WANTS_WRITE = -2,
    // The connection is of no use any more; so is an end that the peer has not announced.
    MAYFLY_TLS_FAILED = -3,
};

// Whom clients trust: the certificates in a PEM file, or NULL for the system's. NULL when they cannot be
// read.
struct mayfly_tls_context *mayfly_tls_client_context(const char *authorities);
void mayfly_tls_context_free(struct mayfly_tls_context *context);

// A new authority, its key in memory only; valid from so many days before now to as many after.
struct mayfly_tls_authority *mayfly_tls_authority_make(const char *name, int days);
void mayfly_tls_authority_free(struct mayfly_tls_authority *authority);
// Its certificate in PEM; the count of bytes, or 0 when `size` is too small.
size_t mayfly_tls_authority_pem(
    const struct mayfly_tls_authority *authority, unsigned char *bytes, size_t size);
// A server that is `host` and nobody else, by a certificate of this authority. The authority outlives it.
struct mayfly_tls_context *mayfly_tls_server_context(
    const struct mayfly_tls_authority *authority, const char *host, int is_address);

// One connection over a descriptor that it does not own. A client names whom it means to speak to: the
// name is sent (unless it is an address), and the peer's certificate must have it.
struct mayfly_tls *mayfly_tls_client(struct mayfly_tls_context *context, int descriptor,
    const char *host, int is_address);
// `first`: what was read from the descriptor before.
struct mayfly_tls *mayfly_tls_server(struct mayfly_tls_context *context, int descriptor,
    const unsigned char *first, size_t size);
void mayfly_tls_free(struct mayfly_tls *tls);

// 1 when it is done.
int mayfly_tls_handshake(struct mayfly_tls *tls);
// Count of bytes; 0 when the peer has ended its way properly.
long mayfly_tls_read(struct mayfly_tls *tls, void *bytes, size_t size);
long mayfly_tls_write(struct mayfly_tls *tls, const void *bytes, size_t size);
// Tells the peer that nothing more comes.
void mayfly_tls_end(struct mayfly_tls *tls);
// Why the peer's certificate is not accepted, in OpenSSL's words; NULL when that is not what failed.
const char *mayfly_tls_certificate_problem(const struct mayfly_tls *tls);

#endif
