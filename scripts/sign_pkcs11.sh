#!/usr/bin/env bash
# Signs bundles with an Ed25519 key that stays in a hardware security module, through PKCS#11.
#
# usage: sign_pkcs11.sh pub >NAME.pub           the public key, for devices
#        sign_pkcs11.sh sign <MANIFEST >SIG     for ota-bundle sign --with 'sign_pkcs11.sh sign'
#
# Environment:
#   PKCS11_MODULE    the module's library: /usr/lib/softhsm/libsofthsm2.so
#   PKCS11_TOKEN     the token's label
#   PKCS11_LABEL     the key's label
#   PKCS11_PIN_FILE  the first line of this file is the user's PIN
#
# It needs pkcs11-tool (Debian: opensc) and b2sum. The signature is minisign's, which signs the
# BLAKE2b hash of a file and then that signature with a comment. The key's ID is made from the
# public key: a token has none.
set -euo pipefail

die() { echo "error: $1" >&2; exit 1; }
usage() { sed -n '2,/^set -eu/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
case ${1-} in pub | sign) ;; -h | --help) usage; exit ;; *) usage >&2; exit 2 ;; esac
for v in PKCS11_MODULE PKCS11_TOKEN PKCS11_LABEL PKCS11_PIN_FILE; do
    [ -n "${!v-}" ] || die "$v is not set"
done

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
token() { # the PIN is in no argument list
    PIN=$(head -n 1 "$PKCS11_PIN_FILE") pkcs11-tool --module "$PKCS11_MODULE" --token-label "$PKCS11_TOKEN" \
        --label "$PKCS11_LABEL" --login --pin env:PIN "$@" >"$dir/log" 2>&1 || { cat "$dir/log" >&2; die "pkcs11-tool failed"; }
}
ed25519() { token --sign --mechanism EDDSA --input-file "$1" --output-file "$2"; [ "$(stat -c %s "$2")" -eq 64 ] || die "the token's signature is not 64 bytes long"; }
base64() { command base64 -w 0 "$@"; echo; }

# The public key is the last 32 bytes of its DER form. minisign's form: "Ed", ID, key.
token --read-object --type pubkey --output-file "$dir/pub"
if grep -q -- -----BEGIN "$dir/pub"; then sed '/-----/d' "$dir/pub" | command base64 -d >"$dir/der"; else mv "$dir/pub" "$dir/der"; fi
tail -c 32 "$dir/der" >"$dir/key"
b2sum "$dir/key" | cut -c 1-16 >"$dir/hex"
printf '%b' "$(sed 's/../\\x&/g' "$dir/hex")" >"$dir/id" # little endian: read backwards it is the ID that is shown
id=$(tac -rs .. "$dir/hex" | tr -d '\n' | tr a-f A-F)
if [ "$1" = pub ]; then
    echo "untrusted comment: minisign public key $id"
    { printf Ed; cat "$dir/id" "$dir/key"; } | base64
    exit
fi

cat >"$dir/manifest"
b2sum "$dir/manifest" | cut -c 1-128 | sed 's/../\\x&/g' >"$dir/hash.hex"
printf '%b' "$(cat "$dir/hash.hex")" >"$dir/hash"
ed25519 "$dir/hash" "$dir/sig"
comment="signature from key $id"
{ cat "$dir/sig"; printf %s "$comment"; } >"$dir/global"
ed25519 "$dir/global" "$dir/global.sig"
echo "untrusted comment: $comment"
{ printf ED; cat "$dir/id" "$dir/sig"; } | base64
echo "trusted comment: $comment"
base64 "$dir/global.sig"
