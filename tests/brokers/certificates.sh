# Read by the scripts of this folder: certificates for one node and the tests that talk to it, valid for two days.
#
# make_certificates DIR writes, as PEM, each with its key in NAME.key:
#
#   ca.pem             the authority that has signed the next three
#   server.pem         for localhost and 127.0.0.1
#   client.pem         the certificate of a client, named lagless-client
#   stranger.pem       the same, named stranger, who is no user of any node
#   foreign-ca.pem     another authority, which the node does not know
#   foreign.pem        a client's certificate signed by that one, with the same name
#
# and, for tokens (JWT, RS256): token.key with the public half in jwks.json under the key id "tests".
# shellcheck shell=bash

authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$3" \
        -keyout "$1/$2.key" -out "$1/$2.pem"
}

# certificate DIR NAME AUTHORITY COMMON_NAME EXTENSIONS
certificate() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$4" \
        -keyout "$1/$2.key" -out "$1/$2.csr"
    openssl x509 -req -days 2 -in "$1/$2.csr" -CA "$1/$3.pem" -CAkey "$1/$3.key" -set_serial "0x$(openssl rand -hex 8)" \
        -extfile <(printf '%s\n' "$5") -out "$1/$2.pem"
    rm "$1/$2.csr"
}

base64_url() { base64 | tr '+/' '-_' | tr -d '=\n'; }

# The public half of token.key, as the set of keys that a server verifies tokens with.
key_set() {
    local modulus
    modulus=$(openssl rsa -in "$1/token.key" -noout -modulus)
    # shellcheck disable=SC2059 # the format is the text: \xHH for each byte
    modulus=$(printf "$(sed 's/../\\x&/g' <<<"${modulus#*=}")" | base64_url)
    printf '{"keys":[{"kty":"RSA","use":"sig","alg":"RS256","kid":"tests","n":"%s","e":"AQAB"}]}\n' "$modulus"
}

make_certificates() {
    local dir=$1
    mkdir -p "$dir"
    chmod 700 "$dir"
    {
        authority "$dir" ca "Lagless tests"
        authority "$dir" foreign-ca "Somebody else"
        certificate "$dir" server ca localhost "subjectAltName=DNS:localhost,IP:127.0.0.1"
        certificate "$dir" client ca lagless-client "extendedKeyUsage=clientAuth"
        certificate "$dir" stranger ca stranger "extendedKeyUsage=clientAuth"
        certificate "$dir" foreign foreign-ca lagless-client "extendedKeyUsage=clientAuth"
        openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$dir/token.key"
        key_set "$dir" >"$dir/jwks.json"
    } 2>"$dir/openssl.log" || { cat "$dir/openssl.log" >&2; return 1; }
}
