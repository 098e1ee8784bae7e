// What the program uses of libcrypto; and, as functions, what libcrypto has as macros and parameter
// lists that Swift cannot write. Every function here answers 1 or a key for success, 0 or NULL for
// failure, and leaves no entry in the thread's error queue.

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rand.h>
#include <stddef.h>

// A P-256 key of its public point (0x04, x, y: 65 bytes) and, unless NULL, its private scalar (32
// bytes). NULL when the point is not on the curve or the two do not belong together.
static inline EVP_PKEY *mayfly_p256_key(const unsigned char *point, const unsigned char *scalar) {
    EVP_PKEY *key = NULL;
    OSSL_PARAM *params = NULL;
    BIGNUM *number = NULL;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    EVP_PKEY_CTX *check = NULL;
    OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
    int good = context != NULL && builder != NULL
        && OSSL_PARAM_BLD_push_utf8_string(builder, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0)
        && OSSL_PARAM_BLD_push_octet_string(builder, OSSL_PKEY_PARAM_PUB_KEY, point, 65);
    if (good && scalar != NULL) {
        number = BN_secure_new();
        good = number != NULL && BN_bin2bn(scalar, 32, number) != NULL
            && OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_PRIV_KEY, number);
    }
    if (good) params = OSSL_PARAM_BLD_to_param(builder);
    good = good && params != NULL && EVP_PKEY_fromdata_init(context) == 1
        && EVP_PKEY_fromdata(context, &key, scalar ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY, params)
            == 1;
    if (good) {
        check = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
        good = check != NULL
            && (scalar ? EVP_PKEY_check(check) : EVP_PKEY_public_check(check)) == 1;
    }
    if (!good) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    EVP_PKEY_CTX_free(check);
    EVP_PKEY_CTX_free(context);
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(builder);
    BN_clear_free(number);
    ERR_clear_error();
    return key;
}

// A new P-256 key: its point into 65 bytes, its scalar into 32.
static inline int mayfly_p256_generate(unsigned char *point, unsigned char *scalar) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    BIGNUM *number = NULL;
    size_t length = 0;
    int good = key != NULL
        && EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, point, 65, &length) == 1
        && length == 65 && point[0] == 4
        && EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_PRIV_KEY, &number) == 1
        && BN_bn2binpad(number, scalar, 32) == 32;
    BN_clear_free(number);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return good;
}

// The x coordinate of what two keys agree on (RFC 7518, section 4.6), into 32 bytes.
static inline int mayfly_p256_agree(EVP_PKEY *own, EVP_PKEY *peer, unsigned char *shared) {
    size_t length = 32;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, own, NULL);
    int good = context != NULL && EVP_PKEY_derive_init(context) == 1
        && EVP_PKEY_derive_set_peer(context, peer) == 1
        && EVP_PKEY_derive(context, shared, &length) == 1 && length == 32;
    EVP_PKEY_CTX_free(context);
    ERR_clear_error();
    return good;
}

// AES-256-GCM with a nonce of 12 bytes and a tag of 16; `output` has the size of `input`. When the
// tag is not right, nothing that was decrypted stays in `output`.
static inline int mayfly_gcm(int seals, const unsigned char *key, const unsigned char *nonce,
    const unsigned char *extra, int extra_size, const unsigned char *input, int size,
    unsigned char *output, unsigned char *tag) {
    int done = 0, last = 0;
    unsigned char rest[16];
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    int good = context != NULL
        && EVP_CipherInit_ex(context, EVP_aes_256_gcm(), NULL, key, nonce, seals) == 1
        && EVP_CipherUpdate(context, NULL, &done, extra, extra_size) == 1
        && (size == 0 || EVP_CipherUpdate(context, output, &done, input, size) == 1)
        && (seals || EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, 16, tag) == 1)
        && EVP_CipherFinal_ex(context, rest, &last) == 1 && last == 0
        && (!seals || EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, tag) == 1);
    if (!good && size > 0) OPENSSL_cleanse(output, (size_t)size);
    EVP_CIPHER_CTX_free(context);
    ERR_clear_error();
    return good;
}
